"""Everything about processes: environment, launch, rendezvous, collectives, sharding, signals."""

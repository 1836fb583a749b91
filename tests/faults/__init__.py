"""A few faults of each kind; the harness, and what tries all of them, are `tools.faults`."""

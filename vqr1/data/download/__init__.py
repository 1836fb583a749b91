"""From a set's name to a checked folder: where sets are hosted, fetching, unpacking, installing."""

"""Memory, operations and time of a training, counted before it and without a device."""

"""Commands: compose, validate, instantiate, run; nothing else."""

"""Commands: compose, validate, instantiate, run; nothing else."""

import os

# OpenMP reads this when torch is loaded, which every command does on import. By default its threads
# spin at each barrier, and on a machine that does anything else beside, that makes the many small
# operations of a step an order of magnitude slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

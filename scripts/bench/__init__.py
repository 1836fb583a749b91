"""Parts of `scripts/bench_step.py`."""

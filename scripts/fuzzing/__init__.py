"""Parts of `scripts/fuzz.py`: odd texts, damaged files, odd configurations."""

"""Sweeps: one parent run with many children, resumed where they stopped, and their summary."""

"""Hostile clients of the service, and the run that they disturb (`scripts/hostile_load.py`)."""

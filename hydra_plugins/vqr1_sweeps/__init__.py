"""Hydra plugins of vqr1: sweepers that remember, and a launcher with a process for each job."""

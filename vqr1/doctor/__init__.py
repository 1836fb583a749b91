"""What this machine can run and what is missing (`vqr1 doctor`): it looks, and changes nothing."""

"""What makes the packaged demo model; run from a checkout, not in the wheel."""

"""The demo model: its architecture and files, synthetic lessons, and its warm start."""

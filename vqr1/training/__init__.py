"""Training: pure loss and advantage functions, and the Lightning module that wires them."""

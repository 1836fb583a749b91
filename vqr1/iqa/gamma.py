"""The constant of Thurstone's model that both its forms share.

Apart from them, because one computes with tensors (`thurstone.py`) and the other without
(`pairs.py`): an evaluation of a table does not wait for PyTorch.
"""

GAMMA = 1e-6
"""Added to the summed variances (public code)."""

"""What a vision tower computes for one image and keeps of it, as the planner counts it.

Each family counts its own (`Family.tower_cost`). W is the width of image features.

Not here: what follows from it (`vqr1.planning`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TowerCost:
    """What the tower computes for one image and keeps of it, counted from shapes.

    Attributes:
        tokens: tokens of the image in a prompt.
        features: W.
        pixels: numbers of the resized image.
        rows: rows that go through the blocks.
        flops: operations of a forward pass, connection to the text model included.
        depth: blocks.
        width: numbers of one row between two blocks.
        residual: numbers of one row that a block keeps in the weights' type.
        inner: numbers of one row that a block keeps in the type of its linear layers.
        exact: numbers of one row that a block keeps in float32.
        ends: numbers of one row that are kept outside of the blocks.
    """

    tokens: int
    features: int
    pixels: int
    rows: int
    flops: float
    depth: int
    width: int
    residual: int
    inner: int
    exact: int
    ends: int

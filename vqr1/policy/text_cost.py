"""What a text model's layers compute and keep of a token, where they are not of Llama's form.

Not here: layers of Llama's form and what is made of these numbers (`vqr1.planning`).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextExtra:
    """What layers have beside projections of q, k, v and o and a gated feed-forward layer.

    Attributes:
        gate: numbers of the factors that attention's result of one row is multiplied with.
        linear: layers of linear attention, which have none of those projections.
        weights: numbers in the matrices of one of them, the feed-forward layer apart.
        flops: operations of its recurrence for one token.
        kept: numbers that it keeps of one row for the backward pass, the feed-forward layer's and
            both norms' apart.
        exact: those of them that are float32 always.
        state: numbers of the state that one sequence carries, float32 always.
        inputs: numbers of the convolution's inputs that it carries besides.
    """

    gate: int = 0
    linear: int = 0
    weights: int = 0
    flops: int = 0
    kept: int = 0
    exact: int = 0
    state: int = 0
    inputs: int = 0

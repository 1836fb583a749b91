"""RALI's scoring head: a score by the nearest of many scored centres in an embedding's subspace.

    score = sum_c softmax_c(cos(U^T e, mu_c) / temperature) f_c

Source: arXiv 2510.11369 (basis U by PCA, 512 of 768; centres by k-means within 240 score bins).
Not here: the image encoder, and how U, mu and f are fitted.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def centre_scores(
    embeddings: Tensor, basis: Tensor, centres: Tensor, values: Tensor, temperature: float = 1.0
) -> Tensor:
    """[n] scores, between the smallest and the largest of `values`.

    Args:
        embeddings: [n, D] of the images.
        basis: [D, d] of the subspace.
        centres: [m, d].
        values: [m] scores of the centres.
        temperature: what cosines are divided by.
    """
    projected = functional.normalize(embeddings @ basis, dim=1)
    cosines = projected @ functional.normalize(centres, dim=1).T
    return (cosines / temperature).softmax(dim=1) @ values

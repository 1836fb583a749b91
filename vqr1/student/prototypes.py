"""Prototypes of scores: a principal basis, k-means inside bins of scores (RALI, arXiv 2510.11369).

    score(e) = sum_n softmax_n(s cos(U^T (e - m), c_n)) f_n

U: the first principal components of the training images' embeddings, m their mean (RALI centres
nothing), c_n: centres of k-means among the images whose scores share a bin, f_n: the mean score of
a centre's images, s: the inverse temperature.

Shape legend: n images, D numbers of an embedding, P components, N prototypes.
Not here: the module that holds and tunes them (`model.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[np.float64]

INVERSE_TEMPERATURES = (2.5, 5.0, 10.0, 20.0, 40.0, 80.0)
"""Those that a fit chooses among, by squared error."""

LLOYD_STEPS = 20


@dataclass(frozen=True)
class Prototypes:
    """What a fit gives; rows after the last prototype that was found are 0 and not `used`.

    Attributes:
        mean: [D] of the embeddings.
        basis: [D, P] principal components, the columns orthonormal or 0.
        centres: [N, P].
        values: [N] scores.
        used: [N] bool.
        inverse_temperature: s.
    """

    mean: Tensor
    basis: Tensor
    centres: Tensor
    values: Tensor
    used: Tensor
    inverse_temperature: float


def prototype_scores(
    components: Tensor, centres: Tensor, values: Tensor, used: Tensor, inverse_temperature: Tensor
) -> Tensor:
    """[n] scores of images.

    Args:
        components: [n, P] embeddings in the principal basis.
        centres: [N, P] prototypes.
        values: [N] their scores.
        used: [N] bool, which of them count.
        inverse_temperature: [] scalar above 0.
    """
    cosines = torch.nn.functional.normalize(components, dim=1) @ torch.nn.functional.normalize(
        centres, dim=1
    ).mT.to(components)
    logits = (inverse_temperature * cosines).masked_fill(~used, -torch.inf)
    return torch.softmax(logits, dim=1) @ values


def principal_basis(embeddings: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """[D] mean and [D, count] first principal components of [n, D] embeddings, 0 beyond their rank.

    The sign of a component is that of its largest entry, made positive.
    """
    mean = embeddings.mean(dim=0)
    rows = torch.linalg.svd((embeddings - mean).double(), full_matrices=False).Vh[:count]
    largest = rows.gather(1, rows.abs().argmax(dim=1, keepdim=True))
    basis = torch.zeros(embeddings.shape[1], count, dtype=embeddings.dtype)
    basis[:, : len(rows)] = (rows * largest.sign()).T.to(embeddings)
    return mean, basis


def bin_shares(counts: Array, total: int) -> list[int]:
    """Prototypes of each bin: one for each that has images, the rest by their number of images.

    Args:
        counts: images of each bin.
        total: prototypes in all, as far as there are images for them.

    >>> bin_shares(np.array([1.0, 0.0, 9.0, 5.0]), 8)
    [1, 0, 4, 3]
    """
    filled = counts > 0
    spare = max(total - int(filled.sum()), 0)
    exact = np.where(filled, (counts - 1).clip(0), 0.0)
    exact = exact / max(exact.sum(), 1.0) * spare
    shares = filled + np.floor(exact).astype(int)
    left = total - int(shares.sum())
    order = np.argsort(-(exact - np.floor(exact)), kind="stable")[: max(left, 0)]
    shares[order] += filled[order]
    return [int(share) for share in np.minimum(shares, counts)]


def fit_prototypes(
    embeddings: Tensor, scores: Tensor, *, components: int, bins: int, count: int, seed: int
) -> Prototypes:
    """Prototypes of training images.

    Args:
        embeddings: [n, D].
        scores: [n] of the teacher.
        components: P.
        bins: equal bins of the range of scores.
        count: N.
        seed: of the first centres of k-means.
    """
    embeddings, scores = embeddings.detach().float().cpu(), scores.detach().float().cpu()
    mean, basis = principal_basis(embeddings, components)
    places = torch.nn.functional.normalize((embeddings - mean) @ basis, dim=1)
    data, values = places.double().numpy(), scores.double().numpy()
    edges = np.linspace(values.min(), values.max(), bins + 1)
    bin_of = np.digitize(values, edges[1:-1])
    shares = bin_shares(np.bincount(bin_of, minlength=bins).astype(float), count)
    centres, means = torch.zeros(count, components), torch.zeros(count)
    used = torch.zeros(count, dtype=torch.bool)
    rng = np.random.default_rng(seed)
    # More bins with images than prototypes: the first ones only, which bins <= count rules out.
    number = 0
    for b, share in enumerate(shares):
        inside = bin_of == b
        for centre, value in _centres(data[inside], values[inside], share, rng):
            if number < count:
                centres[number], means[number] = torch.from_numpy(centre).float(), value
                used[number] = True
                number += 1
    best = min(
        INVERSE_TEMPERATURES,
        key=lambda s: float(
            (prototype_scores(places, centres, means, used, torch.tensor(s)) - scores)
            .square()
            .mean()
        ),
    )
    return Prototypes(mean, basis, centres, means, used, best)


def _centres(
    data: Array, values: Array, share: int, rng: np.random.Generator
) -> list[tuple[Array, float]]:
    """Centres of one bin with the mean scores of their images; none is without images."""
    if share == 0:
        return []
    if share == 1 or len(data) == 1:
        return [(data.mean(axis=0), float(values.mean()))]
    centres = data[np.sort(rng.choice(len(data), size=share, replace=False))]
    for _ in range(LLOYD_STEPS):
        nearest = np.square(data[:, None] - centres[None]).sum(axis=2).argmin(axis=1)
        kept = np.unique(nearest)
        centres = np.stack([data[nearest == number].mean(axis=0) for number in kept])
        labels = np.searchsorted(kept, nearest)
    return [
        (centre, float(values[labels == number].mean())) for number, centre in enumerate(centres)
    ]


def fit_ridge(embeddings: Tensor, scores: Tensor, penalty: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Weights [D] and bias [] of the ridge regression of scores on embeddings.

        w = (X^T X + penalty n I)^-1 X^T y, of centred X [n, D] and y [n]; bias = mean y - w mean x

    Args:
        embeddings: [n, D].
        scores: [n].
        penalty: of the weights' square, for each image.
    """
    x, y = embeddings.detach().double().cpu(), scores.detach().double().cpu()
    centred = x - x.mean(dim=0)
    gram = centred.T @ centred + penalty * len(x) * torch.eye(x.shape[1], dtype=x.dtype)
    weights = torch.linalg.solve(gram, centred.T @ (y - y.mean()))
    return weights.float(), (y.mean() - weights @ x.mean(dim=0)).float()

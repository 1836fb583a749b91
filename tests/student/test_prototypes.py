"""Fits of a student's head against scikit-learn and hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from vqr1.student.prototypes import (
    bin_shares,
    fit_prototypes,
    fit_ridge,
    principal_basis,
    prototype_scores,
)


@pytest.fixture(scope="module")
def images() -> tuple[torch.Tensor, torch.Tensor]:
    """[80, 6] embeddings and [80] scores that depend on them."""
    embeddings = torch.randn(80, 6, generator=torch.Generator().manual_seed(0))
    return embeddings, embeddings[:, 0] + 0.3 * embeddings[:, 1] ** 2


def test_a_score_is_the_mean_of_values_weighted_by_the_softmax_of_cosines() -> None:
    # cos = 1 and 0 of the two that count, s = 2: weights e^2 and 1, over e^2 + 1.
    found = prototype_scores(
        torch.tensor([[3.0, 0.0]]), torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0]]),
        torch.tensor([1.0, 4.0, 100.0]), torch.tensor([True, True, False]), torch.tensor(2.0),
    )  # fmt: skip
    expected = (math.e**2 * 1.0 + 4.0) / (math.e**2 + 1.0)
    assert found.tolist() == pytest.approx([expected])


def test_the_basis_is_that_of_principal_components(
    images: tuple[torch.Tensor, torch.Tensor],
) -> None:
    embeddings, _ = images
    mean, basis = principal_basis(embeddings, 4)
    known = PCA(4).fit(embeddings.numpy())
    np.testing.assert_allclose(mean, known.mean_, atol=1e-6)
    cosines = np.abs((basis.numpy().T * known.components_).sum(axis=1))
    np.testing.assert_allclose(cosines, 1.0, atol=1e-5)
    # Five images span four directions: the fifth component is none.
    _, few = principal_basis(embeddings[:3], 5)
    assert few[:, 3:].abs().max() == 0


def test_prototypes_are_the_means_of_their_images_within_a_bin(
    images: tuple[torch.Tensor, torch.Tensor],
) -> None:
    embeddings, scores = images
    found = fit_prototypes(embeddings, scores, components=4, bins=5, count=12, seed=3)
    again = fit_prototypes(embeddings, scores, components=4, bins=5, count=12, seed=3)
    assert torch.equal(found.centres, again.centres)
    assert torch.equal(found.values, again.values)
    places = torch.nn.functional.normalize((embeddings - found.mean) @ found.basis, dim=1)
    edges = torch.linspace(float(scores.min()), float(scores.max()), 6)
    bins = torch.bucketize(scores, edges[1:-1], right=True)
    of_value = torch.bucketize(found.values, edges[1:-1], right=True)
    assert 5 <= int(found.used.sum()) <= 12
    for b in range(5):
        own = [n for n in range(12) if found.used[n] and of_value[n] == b]
        inside = places[bins == b]
        nearest = torch.cdist(inside, found.centres[own]).argmin(dim=1)
        for number, n in enumerate(own):
            torch.testing.assert_close(inside[nearest == number].mean(dim=0), found.centres[n])
            value = scores[bins == b][nearest == number].mean()
            torch.testing.assert_close(value, found.values[n])


def test_bins_share_the_prototypes() -> None:
    assert bin_shares(np.array([1.0, 0.0, 9.0, 5.0]), 8) == [1, 0, 4, 3]
    assert bin_shares(np.array([2.0, 2.0]), 10) == [2, 2]


def test_ridge_is_that_of_scikit_learn(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    embeddings, scores = images
    weights, bias = fit_ridge(embeddings, scores, penalty=0.05)
    known = Ridge(alpha=0.05 * len(scores)).fit(embeddings.double().numpy(), scores.numpy())
    np.testing.assert_allclose(weights, known.coef_, atol=1e-5)
    assert float(bias) == pytest.approx(float(known.intercept_), abs=1e-5)

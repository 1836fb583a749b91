r"""PreResQ-R1's reward: ratings of several aspects, compared within an image and between images.

Source: PreResQ-R1 (arXiv 2511.05393) and its public code, whose values this restates. The score
q_k(i) is the mean of response k's ratings; K_i responses of image i are valid.

    r_k(i) = ( .375 pair - .5 max(0, .5 - std) + .25 triple + .125 order + rank ) / 3

    pair    mean over j != i of sqrt(c s) + sqrt((1 - c)(1 - s)): the response is compared with the
            one of the same place among the sorted scores of image j; c = 1 where both are ordered
            as their MOS, s = |dMOS| / (|dMOS| + both absolute errors)
    std     population standard deviation of the response's ratings
    triple  of all triples of the image's responses with k, and of the first four ratings: the
            share in which k is the middle one, or less than .05 from it
    order   of all pairs of other images, each with its response k: the share of the three
            comparisons that are ordered as the MOS
    rank    exp(-d / (K_i + 1)), d: places between score and MOS when both are sorted with the
            image's other scores, exact ones (error below .02) below the MOS; 0 for these

Different from the public code: an invalid answer earns 0 and is compared with nothing, where the
public code puts 3 in its place; with fewer valid scores in image j, its last one is taken; what
is 0 / 0 there (equal MOS, both predicted exactly), or the mean of nothing, is 0. Shapes: see
`vqr1.records`; R ratings of a response.
"""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

LEAST_STD = 0.5
"""Standard deviation of ratings from which on nothing is taken off."""
COMPARED = 4
"""Ratings of which triples are compared (public code: all but the last)."""
CLOSE = 0.05
"""Distance from the middle of a triple below which a rating counts as the middle."""
EXACT = 0.02
"""Error below which a score counts as exact."""


def preference_response_reward(
    ratings: Tensor, mos: Tensor, valid: Tensor, images: Tensor | None = None
) -> Tensor:
    """The reward of the module header.

    Args:
        ratings: [B, K, R] ratings on the scale of `mos`; anything where not valid.
        mos: [B] MOS of the same data set, higher is better.
        valid: [B, K] bool.
        images: [B] equal for copies of one image, which are not compared; None: all differ.

    Returns:
        [B, K], about -.1 to .6, the type of `ratings`; 0 for invalid answers.
    """
    valid = valid.bool()
    ratings = torch.where(valid[:, :, None], ratings, torch.zeros_like(ratings))
    # As the public code has it: means in float32, compared with MOS in float64.
    scores, mos = ratings.float().mean(dim=2).double(), mos.double()
    if images is None:
        images = torch.arange(len(mos), device=mos.device)
    others = images[:, None] != images[None, :]
    narrow = (LEAST_STD - ratings.std(dim=2, unbiased=False)).clamp_min(0.0)
    total = (
        0.375 * _pairs(scores, mos, valid, others)
        - 0.5 * narrow
        + 0.25 * _triples(ratings, valid)
        + 0.125 * _order(scores, mos, valid, others)
        + _rank(scores, mos, valid)
    ) / 3.0
    return torch.where(valid, total, torch.zeros_like(total)).to(ratings.dtype)


def _pairs(scores: Tensor, mos: Tensor, valid: Tensor, others: Tensor) -> Tensor:
    ordered = scores.masked_fill(~valid, torch.inf).sort(dim=1, stable=True)
    place = ordered.indices.argsort(dim=1)  # [B, K] of each response among its image's
    last = valid.sum(dim=1) - 1
    taken = torch.minimum(place[:, :, None], last.clamp_min(0)[None, None, :])  # [B, K, B]
    opponent = ordered.values.T[taken, torch.arange(len(mos), device=mos.device)]
    compared = others & (last >= 0)[None, :]
    opponent = torch.where(compared[:, None, :], opponent, torch.zeros_like(opponent))
    difference = (mos[:, None] - mos[None, :])[:, None, :]
    right = torch.sign(scores[:, :, None] - opponent) == torch.sign(difference)
    errors = (scores - mos[:, None]).abs()[:, :, None] + (opponent - mos).abs()
    whole = difference.abs() + errors
    share = torch.where(whole > 0, difference.abs() / whole, torch.zeros_like(whole))
    found = torch.where(right, share, torch.where(whole > 0, 1.0 - share, share)).sqrt()
    found = torch.where(compared[:, None, :], found, torch.zeros_like(found))
    return found.sum(dim=2) / compared.sum(dim=1).clamp_min(1)[:, None]


def _triples(ratings: Tensor, valid: Tensor) -> Tensor:
    compared = ratings[:, :, :COMPARED]
    gain, count = torch.zeros_like(valid, dtype=ratings.dtype), torch.zeros_like(compared[:, :, 0])
    for triple in combinations(range(valid.shape[1]), 3):
        of_triple = list(triple)
        whole = valid[:, of_triple].all(dim=1)[:, None].to(ratings.dtype)
        values, order = compared[:, of_triple].sort(dim=1, stable=True)
        near = (values - values[:, 1:2]).abs() < CLOSE
        near[:, 1] = True
        earned = torch.zeros_like(values).scatter(1, order, near.to(values.dtype))
        gain[:, of_triple] += whole * earned.mean(dim=2)
        count[:, of_triple] += whole
    return gain / count.clamp_min(1.0)


def _order(scores: Tensor, mos: Tensor, valid: Tensor, others: Tensor) -> Tensor:
    above = scores[:, None, :] > scores[None, :, :]
    right = (above == (mos[:, None] > mos[None, :])[:, :, None]).to(scores.dtype)  # [B, B, K]
    # [B, B, K]: response k of image j may be compared with image i.
    may = (others[:, :, None] & valid[None, :, :]).to(scores.dtype)
    count = may.sum(dim=1)
    own = (count - 1.0) * (may * right).sum(dim=1)
    upper = right * torch.ones_like(right[:, :, 0]).triu(1)[:, :, None]
    rest = torch.einsum("iak,ibk,abk->ik", may, may, upper)
    pairs = count * (count - 1.0) / 2.0
    return torch.where(pairs > 0, (own + rest) / (3.0 * pairs.clamp_min(1.0)), 0.0)


def _rank(scores: Tensor, mos: Tensor, valid: Tensor) -> Tensor:
    known = scores.masked_fill(~valid, torch.inf)
    below = (known[:, None, :] < known[:, :, None]).sum(dim=2)
    place = below + (mos[:, None] < known)
    exact = valid & ((scores - mos[:, None]).abs() < EXACT)
    of_mos = ((known < mos[:, None]) | exact).sum(dim=1, keepdim=True)
    distance = (place - of_mos).abs().masked_fill(exact, 0)
    return torch.exp(-distance / (valid.sum(dim=1, keepdim=True) + 1.0)).to(scores.dtype)

r"""Margin reward: how well score differences match differences of MOS.

Source: MR-IQA (arXiv 2606.29760). With mu(x) the mean of the K scores of image x:

    r_k(i) = mean over j != i of  exp( -(1/2) (dq - dMOS)^2 / s^2 )
    dq = q_k(i) - mu(j),  dMOS = MOS_i - MOS_j
    s  = 1 (unit);  s^2 = the sum of both images' variances: of the MOS (sigma), 1e-8 at least,
         or of their own scores, + gamma (ours)

An answer that could not be parsed enters neither mean nor variance and earns 0, as in
`vqr1.iqa.thurstone`. An image with one valid answer is compared too, but where the scores' own
variance is asked for. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from vqr1.iqa.thurstone import GAMMA, mean_over_opponents, score_statistics

LEAST_WIDTH = 1e-4
"""Smallest standard deviation of a MOS (public code)."""


def margin_reward(
    scores: Tensor,
    mos: Tensor,
    valid: Tensor | None = None,
    *,
    width: float | None = 1.0,
    gamma: float = GAMMA,
    images: Tensor | None = None,
    mos_std: Tensor | None = None,
) -> Tensor:
    """Gaussian closeness of predicted to true margin, averaged over the other images.

    Args:
        scores: [B, K] scores on the scale of `mos`.
        mos: [B] MOS of the same data set, higher is better.
        valid: [B, K] bool; None takes every finite score as valid.
        width: s, in units of the scale; None takes the standard deviation of both images' own
            scores.
        gamma: added to the summed variances where `width` is None.
        images: see `mean_over_opponents`.
        mos_std: [B] standard deviation of each image's single ratings on the scale of `mos`, used
            in place of `width`.

    Returns:
        [B, K] in [0, 1], the type of `scores`; 0 for invalid answers.
    """
    valid = torch.isfinite(scores) if valid is None else valid.bool()
    statistics = score_statistics(scores, valid)
    if mos_std is not None:
        own = mos_std.clamp_min(LEAST_WIDTH) ** 2
        variance = own[:, None] + own[None, :]
        statistics = replace(statistics, comparable=valid.any(dim=1))
    elif width is None:
        variance = statistics.variance[:, None] + statistics.variance[None, :] + gamma
    else:
        variance = torch.full_like(mos[:, None] - mos[None, :], width**2)
        statistics = replace(statistics, comparable=valid.any(dim=1))
    true = (mos[:, None] - mos[None, :])[:, None, :]
    error = scores[:, :, None] - statistics.mean[None, None, :] - true
    return mean_over_opponents(
        torch.exp(-0.5 * error**2 / variance[:, None, :]).to(scores.dtype),
        statistics,
        valid,
        images,
    )

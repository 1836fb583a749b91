r"""Soft preferences: a ranking reward in which a small difference of MOS is no certain order.

Source: TATAR (arXiv 2603.19779), its reward for aesthetics. Scores and MOS on [0, 1]:

    p(i, j)    = sigmoid( (MOS_i - MOS_j) / tau )
    p_k(i, j)  = sigmoid( (q_k(i) - mu(j)) / s ),  s = tau, or sqrt(var_i + var_j + e)
    r_k(i)     = 1 - mean over j != i of H(p, p_k) / -ln e,  weights exp(-|MOS_i - MOS_j| / m)

with H the binary cross-entropy, p_k limited to [e, 1 - e], mu and var mean and population variance
of the valid scores, tau = .08, m = .12; e = 1e-4 with s = tau, else 1e-6. An invalid answer earns
0 and enters no statistics; so does an image without an opponent. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TAU = 0.08
"""Difference of MOS on [0, 1] at which the preference is sigmoid(1)."""
WEIGHT_WIDTH = 0.12
"""m of the module header."""
EPSILON = {False: 1e-4, True: 1e-6}
"""e, without and with the scores' own variance."""


def soft_preference_reward(
    scores: Tensor,
    mos: Tensor,
    valid: Tensor,
    *,
    own_variance: bool = False,
    images: Tensor | None = None,
) -> Tensor:
    """R of the module header.

    Args:
        scores: [B, K] on [0, 1]; anything where not valid.
        mos: [B] on [0, 1].
        valid: [B, K] bool.
        own_variance: s of both images' scores instead of tau.
        images: [B] equal for copies of one image, which are not compared; None: all differ.

    Returns:
        [B, K] in [0, 1], the type of `scores`.
    """
    valid = valid.bool()
    mos = mos.to(scores.dtype)
    scores = torch.where(valid, scores, torch.zeros_like(scores))
    count = valid.sum(dim=1)
    mean = scores.sum(dim=1) / count.clamp_min(1)
    epsilon = EPSILON[own_variance]
    if own_variance:
        squares = torch.where(valid, (scores - mean[:, None]) ** 2, torch.zeros_like(scores))
        variance = squares.sum(dim=1) / count.clamp_min(1)
        width = (variance[:, None] + variance[None, :] + epsilon).sqrt()
    else:
        width = torch.full_like(mos[:, None] - mos[None, :], TAU)
    true = torch.sigmoid((mos[:, None] - mos[None, :]) / TAU)[:, None, :]
    predicted = torch.sigmoid((scores[:, :, None] - mean) / width[:, None, :])
    predicted = predicted.clamp(epsilon, 1.0 - epsilon)
    entropy = -(true * predicted.log() + (1.0 - true) * (1.0 - predicted).log())
    if images is None:
        images = torch.arange(len(mos), device=mos.device)
    opponents = (images[:, None] != images[None, :]) & (count > 0)[None, :]
    weights = torch.exp(-(mos[:, None] - mos[None, :]).abs() / WEIGHT_WIDTH) * opponents
    total = weights.sum(dim=1)
    loss = (weights[:, None, :] * entropy).sum(dim=2) / total.clamp_min(1e-30)[:, None]
    reward = (1.0 + loss / math.log(epsilon)).clamp(0.0, 1.0)
    return torch.where(valid & (total > 0)[:, None], reward, torch.zeros_like(reward))

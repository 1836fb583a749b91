"""The share of its weight that a term of the loss still has: 1 at the start, by a cosine to 0.

    share(s) = (1 + cos(pi s / (until total))) / 2,   0 from step until x total on

Source: the weight of the perception term in Q-Hawkeye (arXiv 2601.22920), whose form the KL's takes
too (`loss.kl_until`).
"""

from __future__ import annotations

import math


def falling_share(step: int, total_steps: int, until: float | None) -> float:
    """Share of the weight in a step, in [0, 1].

    Args:
        step: optimiser steps taken so far, from 0.
        total_steps: optimiser steps in all.
        until: share of the training after which it is 0, in (0, 1]; None keeps 1 to the end.
    """
    if until is None:
        return 1.0
    progress = step / (until * total_steps)
    return 0.5 * (1.0 + math.cos(math.pi * progress)) if progress < 1 else 0.0

"""Rewards of a response's words and length, as pure functions; no score is read here.

| rule | source |
|---|---|
| repetition | Q-Hawkeye (arXiv 2601.22920): .25 off for every occurrence of a word or character that is seen more than five times in the answer, -2 at most |
| overlong | DAPO (2503.14476): 0, then falling linearly to -1 over the last tokens before a limit |
| word limits | TATAR (2603.19779): quality answers of more than 65 words earn nothing, aesthetic ones of fewer than 125 |
| length bonus | VQ-Insight (2506.18564): .2 (paper .1) for right answers of 320 to 512 tokens |
| degradation | Q-Insight (2503.22679): .25 for the class, .75 for the severity of the right class |
| tool use | IQA-T1 (2607.12375): up to three calls are worth 1, more cost, a repeated one -1 |
| improvement | MR-IQA-2 (2608.18579): sign(d) (1 - exp(-d^2 / 2 tau^2)) of an edit's gain d |
"""  # noqa: E501

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

OFTEN = 5
"""Occurrences up to which a word or character is no repetition."""


def repetition_penalty(text: str, each: float = 0.25, most: float = 2.0) -> float:
    """Minus what the repetitions of a text cost, in [-most, 0].

    Args:
        text: the answer; linear in its length.
        each: of every occurrence of what is repeated.
        most: the largest penalty.
    """
    counts = [Counter(text.split()), Counter(sign for sign in text if not sign.isspace())]
    repeated = sum(n for count in counts for n in count.values() if n > OFTEN)
    return -min(most, each * repeated) if repeated else 0.0


def overlong_penalty(lengths: Tensor, longest: int, cache: int, most: float = 1.0) -> Tensor:
    """Minus the share of the last `cache` tokens that a response uses, in [-most, 0].

    Args:
        lengths: [...] tokens of each response.
        longest: Lmax: from here on the penalty is `most`.
        cache: Lc: tokens before it over which it rises.
        most: the largest penalty.

    Returns:
        [...] float64.
    """
    over = (lengths.double() - (longest - cache)) / cache
    return -most * over.clamp(0.0, 1.0)


def within_words(text: str, fewest: int, most: int | None) -> bool:
    """Whether a text has so many blank-separated words, both ends included."""
    count = len(text.split())
    return count >= fewest and (most is None or count <= most)


def length_bonus(lengths: Tensor, rewards: Tensor, shortest: int, longest: int) -> Tensor:
    """1 for a response of allowed length whose reward is above .1, else 0 (public code).

    Args:
        lengths: [..., K] tokens of each response.
        rewards: [..., K] of each response.
        shortest: fewest tokens.
        longest: most tokens.

    Returns:
        [..., K]; 0 for a group with a single response above .1.
    """
    right = rewards > 0.1
    fits = (lengths >= shortest) & (lengths <= longest)
    return (fits & right & (right.sum(dim=-1, keepdim=True) > 1)).to(rewards.dtype)


def tool_use(calls: Sequence[str], free: int = 3) -> tuple[float, float]:
    """What calls of tools earn: use in [-inf, 1], and 0 or -1 for repetition.

    Args:
        calls: names of the tools in the order of their calls.
        free: calls up to which use is worth 1; k more take .1 k^2 away. No call at all is worth 0.
    """
    excess = max(len(calls) - free, 0)
    usage = 1.0 - 0.1 * excess**2 if calls else 0.0
    return usage, -1.0 if len(set(calls)) < len(calls) else 0.0


def degradation_reward(
    stated: tuple[str | None, str | None], true: tuple[str | None, str | None]
) -> float:
    """.25 for the right class of distortion, and .75 more for the right severity with it.

    Args:
        stated: class and severity that the answer names, None where it names none: then it earns
            nothing.
        true: those of the label; words are compared exactly.
    """
    if None in stated or stated[0] != true[0]:
        return 0.0
    return 1.0 if stated[1] == true[1] else 0.25


def stated_degradation(text: str) -> tuple[str | None, str | None]:
    """Class and severity that an answer between tags states; None for what it does not."""
    found = _ANSWER.search(text)
    try:
        stated = json.loads(found[1]) if found else None
    except ValueError:
        return None, None
    if not isinstance(stated, dict):
        return None, None
    values = (stated.get("distortion_class"), stated.get("severity"))
    first, second = (value if isinstance(value, str) else None for value in values)
    return first, second


def signed_improvement(delta: Tensor, tau: float = 1.0) -> Tensor:
    """[...] sign(d) (1 - exp(-d^2 / 2 tau^2)) in (-1, 1): what an edit's gain is worth."""
    return torch.sign(delta) * -torch.expm1(-0.5 * (delta / tau) ** 2)


def scaled_to_100(value: float, low: float, high: float) -> float:
    """A score on [low, high] put on [0, 100], limited to it.

    The public code of TATAR guesses the scale of each number (up to 1: shares), which makes 100 of
    the score 1 of 5; here the scale is given.
    """
    share = (value - low) / (high - low)
    return 100.0 * min(max(share, 0.0), 1.0) if math.isfinite(share) else math.nan

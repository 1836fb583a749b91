"""Rewards of a response's words and length: `vqr1.iqa.text_rules` with its constants bound."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vqr1.iqa.answers.published_rules import first_answer
from vqr1.iqa.text_rules import (
    degradation_reward,
    length_bonus,
    overlong_penalty,
    repetition_penalty,
    stated_degradation,
    within_words,
)
from vqr1.rewards.base import RewardInputs
from vqr1.rewards.closeness import RelativeReward

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def _of_each(inputs: RewardInputs, rule: Callable[[int, str], float]) -> Tensor:
    """[B, K] of a rule on image number and response."""
    texts: Sequence[Sequence[str]] = inputs.details.texts
    values = [[rule(b, text) for text in row] for b, row in enumerate(texts)]
    return torch.tensor(values, dtype=inputs.scores.dtype, device=inputs.scores.device)


def answer_of(text: str) -> str:
    """What the last answer tags hold; the whole response without them."""
    found = _ANSWER.findall(text)
    return str(found[-1]) if found else text


def written(label: float | str | None) -> str | None:
    """A label as an answer writes it: 3 for the number 3.0 of a column; None where it is empty."""
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return None if label is None else str(label)


class RepetitionReward:
    """Minus the repetitions within the answer (Q-Hawkeye).

    Args:
        each: of every occurrence of a word or character that is seen more than five times.
        most: the largest penalty.

    Raises:
        ValueError: a constant is out of range.
    """

    ranks = False
    needs = ("texts",)

    def __init__(self, each: float = 0.25, most: float = 2.0) -> None:
        for name, value in (("each", each), ("most", most)):
            if not 0 <= value < math.inf:
                raise ValueError(f"{name}={value}: must be 0 or above, and finite")
        self.each = each
        self.most = most

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [-most, 0]."""
        return _of_each(
            inputs, lambda _, text: repetition_penalty(answer_of(text), self.each, self.most)
        )


class OverlongReward:
    """Minus the share of the last tokens before a limit that a response uses (DAPO).

    Args:
        longest: tokens from which on the penalty is `most`; `rollout.sampling.max_new_tokens`.
        cache: tokens before it over which it rises.
        most: the largest penalty.

    Raises:
        ValueError: a constant is out of range.
    """

    ranks = False

    def __init__(self, longest: int, cache: int, most: float = 1.0) -> None:
        if not 0 < cache <= longest:
            raise ValueError(f"cache={cache}, longest={longest}: must be above 0 and rise")
        if not 0 <= most < math.inf:
            raise ValueError(f"most={most}: must be 0 or above, and finite")
        self.longest = longest
        self.cache = cache
        self.most = most

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [-most, 0]."""
        assert inputs.lengths is not None, "a step has lengths"
        penalty = overlong_penalty(inputs.lengths, self.longest, self.cache, self.most)
        return penalty.to(inputs.scores.dtype)


class LengthBonusReward:
    """1 for a right response of allowed length, else 0 (VQ-Insight, public code).

    Right is a response whose relative closeness (`RelativeReward`) is above .1; where only one of
    an image's responses is, none has the bonus.

    Args:
        shortest: fewest tokens.
        longest: most tokens.

    Raises:
        ValueError: a bound is out of range.
    """

    ranks = False
    absolute = True

    def __init__(self, shortest: int = 320, longest: int = 512) -> None:
        if not 0 <= shortest <= longest:
            raise ValueError(
                f"shortest={shortest}, longest={longest}: must not be negative, and rise"
            )
        self.shortest = shortest
        self.longest = longest

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] of 0 and 1; 0 for invalid answers."""
        assert inputs.lengths is not None, "a step has lengths"
        return length_bonus(inputs.lengths, RelativeReward()(inputs), self.shortest, self.longest)


class WordCountReward:
    """1 for a response of allowed length in words, else 0 (TATAR).

    Args:
        fewest: fewest words.
        most: most words; None: any number.

    Raises:
        ValueError: a bound is out of range.
    """

    ranks = False
    needs = ("texts",)

    def __init__(self, fewest: int = 0, most: int | None = 65) -> None:
        if fewest < 0 or (most is not None and most < fewest):
            raise ValueError(f"fewest={fewest}, most={most}: must be 0 or above, and rise")
        self.fewest = fewest
        self.most = most

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] of 0 and 1."""
        return _of_each(inputs, lambda _, t: float(within_words(t, self.fewest, self.most)))


class StatedWordReward:
    """1 for an answer that is exactly the word of a label column, else 0 (Q-Insight's comparison).

    Args:
        column: name of the column; a whole number in it is written in digits.
    """

    ranks = False
    needs = ("texts",)

    def __init__(self, column: str) -> None:
        self.column = column
        self.label_columns = (column,)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] of 0 and 1, by the first answer between tags."""
        right = tuple(map(written, inputs.details.columns[self.column]))
        return _of_each(inputs, lambda b, text: float(first_answer(text) == right[b]))


class DegradationReward:
    """.25 for the right class of distortion, .75 more for its severity (Q-Insight).

    The answer is JSON with the keys `distortion_class` and `severity`; the class is compared with
    the label's distortion, the severity with a further label column.

    Args:
        severity: name of the column; None: the labels have none, and only the class can be right.
    """

    ranks = False
    needs = ("texts", "distortion")

    def __init__(self, severity: str | None = "severity") -> None:
        self.severity = severity
        self.label_columns = () if severity is None else (severity,)

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] in [0, 1]."""
        found = inputs.details
        severities = found.columns.get(self.severity or "", (None,) * len(found.texts))

        def rule(image: int, text: str) -> float:
            true = (found.distortions[image], written(severities[image]))
            return degradation_reward(stated_degradation(text), true)

        return _of_each(inputs, rule)

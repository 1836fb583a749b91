"""What a reward is, and the weighted sum of several.

A reward of your own needs no change here: any callable object from `RewardInputs` to a [B, K]
tensor, named by `_target_` in a YAML file under `conf/reward/`. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from vqr1.errors import ConfigError, RunFaultError

LARGEST_REWARD = 1e15
"""Largest size of a reward: the square of 1e19 and more overflows float32, and with it a group's
standard deviation where that is added up in float32."""

SMALLEST_CONSTANT = 1.2e-38
"""Smallest normal float32: a width or variance below it becomes 0, and 0 / 0 is no number."""


def check_constant(name: str, value: float, *, square: bool = False) -> None:
    """Check a constant that a reward divides by.

    Args:
        name: of the argument.
        value: what was given.
        square: its square is divided by.

    Raises:
        ValueError: it is not above 0 in float32, or not finite.
    """
    least = SMALLEST_CONSTANT**0.5 if square else SMALLEST_CONSTANT
    if not least <= value < math.inf:
        raise ValueError(f"{name}={value}: must be above 0 ({least:.1g} at least), and finite")


@dataclass(frozen=True)
class RewardInputs:
    """Everything a reward may look at: one comparison pool, all of one data set.

    Scores and MOS are on one scale, whatever scale the prompt asks for (`vqr1.rewards.scale`).

    Attributes:
        scores: [B, K] float32 parsed scores, scaled so that the ends of the asked range are 1 and
            5; NaN where not valid.
        valid: [B, K] bool, the answer could be parsed.
        format_compliant: [B, K] bool, the response has the required format.
        mos: [B] float32 MOS on the same scale, higher is better: in [1, 5], or scaled from the
            asked range with `mos_scale=published`.
        images: [B] int64 row of each image in its set's label table; copies of one image, which
            must not be compared with each other, have the same. None: all images differ.
    """

    scores: Tensor
    valid: Tensor
    format_compliant: Tensor
    mos: Tensor
    images: Tensor | None = None


class Reward(Protocol):
    """A reward term.

    A class may also have `absolute = True`: distances between scores and MOS count, and not their
    order only. Where MOS are as published, these have to be on the scale that the prompt asks for.

    Attributes:
        ranks: True when the reward compares images with each other and so needs a pool of two or
            more images.
    """

    ranks: bool

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] reward of each response, floating point, on the device of the scores.

        Finite for invalid responses too, within +-`LARGEST_REWARD`.
        """
        ...


def checked_reward(name: str, value: object, inputs: RewardInputs) -> Tensor:
    """What a term gave, checked to be one reward a response.

    Args:
        name: the term's name.
        value: what it returned.
        inputs: what it was given.

    Returns:
        [B, K] of the type of the scores.

    Raises:
        ConfigError: no tensor, or another shape, type or device.
        RunFaultError: a reward is NaN or infinite, or too large.
    """
    key, scores = f"reward.terms.{name}", inputs.scores
    expected = f"a [B, K] = {list(scores.shape)} floating-point tensor on {scores.device}"
    if not isinstance(value, Tensor):
        raise ConfigError([f"{key}: gave a {type(value).__name__}; it must return {expected}"])
    # Any other shape would be broadcast: [K] gives all images the same rewards.
    if value.shape != scores.shape:
        raise ConfigError([f"{key}: gave the shape {list(value.shape)}; it must return {expected}"])
    if not value.dtype.is_floating_point:
        raise ConfigError([f"{key}: gave {value.dtype}; it must return {expected} (.float())"])
    if value.device != scores.device:
        raise ConfigError([f"{key}: gave a tensor on {value.device}; it must return {expected}"])
    return finite_reward(key, value.detach().to(scores.dtype))


def finite_reward(key: str, values: Tensor) -> Tensor:
    """The rewards [B, K], checked to be numbers that a group's statistics can hold.

    Raises:
        RunFaultError: one is not; names `key`.
    """
    # NaN fails the comparison too.
    bad = ~(values.abs() <= LARGEST_REWARD)
    if bool(bad.any()):
        image, response = bad.nonzero()[0].tolist()
        raise RunFaultError(
            f"{key}: gave {float(values[image, response])} for response {response} of image "
            f"{image} ({int(bad.sum())} of {bad.numel()} rewards); rewards must be finite, and at "
            f"most {LARGEST_REWARD:g} in size, for unreadable answers too"
        )
    return values


class WeightedRewards:
    """Weighted sum of named reward terms.

    Args:
        terms: each term's weight and reward by name.
    """

    def __init__(self, terms: Mapping[str, tuple[float, Reward]]) -> None:
        self.terms = dict(terms)

    @property
    def ranks(self) -> bool:
        """True when any term compares images with each other."""
        return any(reward.ranks for _, reward in self.terms.values())

    @property
    def weights(self) -> dict[str, float]:
        """Each term's weight by name."""
        return {name: weight for name, (weight, _) in self.terms.items()}

    @property
    def absolute(self) -> list[str]:
        """Names of the terms to which distances between scores and MOS count."""
        return [name for name, (_, r) in self.terms.items() if getattr(r, "absolute", False)]

    def __call__(self, inputs: RewardInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the terms.

        Returns:
            The [B, K] weighted sum, and each term's own unweighted [B, K] reward by name.

        Raises:
            ConfigError: a term gave no [B, K] floating-point tensor on the scores' device.
            RunFaultError: a term's reward, or the sum, is not finite.
        """
        parts = {
            name: checked_reward(name, reward(inputs), inputs)
            for name, (_, reward) in self.terms.items()
        }
        total = sum(weight * parts[name] for name, (weight, _) in self.terms.items())
        assert isinstance(total, Tensor), "a reward needs at least one term"
        return finite_reward("reward.terms (weighted sum)", total), parts

"""What a reward is, and the weighted sum of several.

A reward of your own needs no change here: any callable object from `RewardInputs` to a [B, K]
tensor, named by `_target_` in a YAML file under `conf/reward/`. Shapes: see `vqr1.records`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from vqr1.errors import ConfigError, RunFaultError
from vqr1.iqa.uncertainty import group_uncertainty

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


Need = Literal["mos_std", "reference", "distortion", "attributes", "texts", "logprobs"]
"""What a reward may ask for by its attribute `needs`, so that a run that lacks it is refused."""

OWN_ONLY: frozenset[Need] = frozenset({"distortion", "texts", "logprobs"})
"""What is not sent to other processes: only rewards that do not rank may need it."""


@dataclass(frozen=True)
class OwnDetails:
    """What only rewards that do not rank may look at: it stays in the process that sampled it.

    Attributes:
        texts: B lists of K responses; empty where the engine gives none.
        reasoning: B lists of K texts between the tags of reasoning, None where there is none.
        distortions: B kinds of distortion, None where unknown.
        references: B names of the undistorted image, None where unknown.
        columns: B values of each further label column by name, words included.
        logprobs: [B, K, C] sampler log-probabilities of the tokens; None where the engine reports
            none.
        mask: [B, K, C] bool, the sampled tokens.
    """

    texts: Sequence[Sequence[str]]
    reasoning: Sequence[Sequence[str | None]]
    distortions: Sequence[str | None]
    references: Sequence[str | None]
    columns: Mapping[str, Sequence[float | str | None]]
    logprobs: Tensor | None
    mask: Tensor


@dataclass(frozen=True)
class RewardInputs:
    """Everything a reward may look at, all of one data set.

    A reward that ranks is given one comparison pool, which may hold images of other processes; one
    that does not is given the images of its own process, with `own`.

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
        mos_std: [B] float32 standard deviation of the single ratings, on the same scale; NaN where
            the set has none.
        references: [B] int64, equal for images of one undistorted image; -1 unknown.
        lengths: [B, K] int64 tokens of each response.
        attributes: [B, K] of each number that the answer states beside the score
            (`AnswerForm.ratings`) by name, scaled as `scores`; NaN where one could not be read.
        columns: [B] numbers of each further label column by name, as the file has them; NaN where
            one is empty or a word.
        preferences: [B, B] float32 in [0, 1] where pairs are learnt from (`target=pairs`): stated
            preference for row over column, NaN where nothing is stated; None elsewhere. Rewards
            that do not look at it rank by `mos`, which are then scores fitted to all pairs.
        own: texts, log-probabilities and label words; None for rewards that rank.
    """

    scores: Tensor
    valid: Tensor
    format_compliant: Tensor
    mos: Tensor
    images: Tensor | None = None
    mos_std: Tensor | None = None
    references: Tensor | None = None
    lengths: Tensor | None = None
    attributes: Mapping[str, Tensor] = field(default_factory=dict)
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    preferences: Tensor | None = None
    own: OwnDetails | None = None

    @property
    def uncertainty(self) -> Tensor:
        """[B] how much an image's valid scores disagree, in [0, 1] (`vqr1.iqa.uncertainty`)."""
        return group_uncertainty(self.scores.masked_fill(~self.valid, math.nan))

    @property
    def details(self) -> OwnDetails:
        """`own`, of a reward that does not rank.

        Raises:
            ConfigError: the reward ranks images, which has no such details.
        """
        if self.own is None:
            raise ConfigError(
                [
                    "reward.terms: a term looks at texts or label words, and has been given none; "
                    "a class that ranks images (ranks=True) cannot"
                ]
            )
        return self.own


class Reward(Protocol):
    """A reward term.

    A class may also have `absolute = True`: distances between scores and MOS count, and not their
    order only. Where MOS are as published, these have to be on the scale that the prompt asks for.
    And it may have `needs = ("mos_std",)`: names of `Need` without which it cannot be computed; a
    run whose labels, answer form or engine lack one is refused at its start. Names of further label
    columns that it looks at stand in `label_columns`, likewise; those of them that must hold
    numbers in `number_columns`. Names of the answer's further scores that it looks at stand in
    `attribute_names`. Of `attributes`, the numbers that an answer
    states beside the score, it needs `least_attributes` (1 where it has none).

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


def needs_of(reward: object) -> tuple[Need, ...]:
    """What a reward asks for."""
    return tuple(getattr(reward, "needs", ()))


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

    def label_columns(self) -> dict[str, list[str]]:
        """By name of a further label column, the terms that cannot be computed without it."""
        found: dict[str, list[str]] = {}
        for name, (_, reward) in self.terms.items():
            for column in getattr(reward, "label_columns", ()):
                found.setdefault(column, []).append(name)
        return found

    def number_columns(self) -> dict[str, list[str]]:
        """By name of a further label column, the terms that need numbers there."""
        found: dict[str, list[str]] = {}
        for name, (_, reward) in self.terms.items():
            for column in getattr(reward, "number_columns", ()):
                found.setdefault(column, []).append(name)
        return found

    def least_attributes(self) -> dict[str, int]:
        """By name of a term that needs attributes, how many."""
        return {
            name: getattr(self.terms[name][1], "least_attributes", 1)
            for name in self.needing("attributes")
        }

    def needing(self, need: Need) -> list[str]:
        """Names of the terms that cannot be computed without something."""
        return [name for name, (_, reward) in self.terms.items() if need in needs_of(reward)]

    def of_kind(self, inputs: RewardInputs, *, ranks: bool) -> dict[str, Tensor]:
        """The unweighted [B, K] rewards by name of the terms that rank, or of those that do not.

        Raises:
            ConfigError, RunFaultError: as `checked_reward`.
        """
        return {
            name: checked_reward(name, reward(inputs), inputs)
            for name, (_, reward) in self.terms.items()
            if reward.ranks == ranks
        }

    def total(self, parts: Mapping[str, Tensor]) -> Tensor:
        """[B, K] weighted sum of all terms' rewards.

        Raises:
            RunFaultError: it is not finite.
        """
        total = sum(weight * parts[name] for name, (weight, _) in self.terms.items())
        assert isinstance(total, Tensor), "a reward needs at least one term"
        return finite_reward("reward.terms (weighted sum)", total)

    def __call__(self, inputs: RewardInputs) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum the terms.

        Returns:
            The [B, K] weighted sum, and each term's own unweighted [B, K] reward by name.

        Raises:
            ConfigError: a term gave no [B, K] floating-point tensor on the scores' device.
            RunFaultError: a term's reward, or the sum, is not finite.
        """
        found = {**self.of_kind(inputs, ranks=True), **self.of_kind(inputs, ranks=False)}
        parts = {name: found[name] for name in self.terms}
        return self.total(parts), parts

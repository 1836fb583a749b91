"""What an advantage rule receives and what it must return.

A rule of your own needs no change here: any callable object from `AdvantageInputs` to a [G, K]
tensor, named by `_target_` in a YAML file under `conf/advantage/`.

Shape legend, beside that of `vqr1.records`: G images of all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from vqr1.errors import ConfigError, RunFaultError

VARIANCE_TOLERANCE = 1e-6
"""Rewards of a group that lie closer together than this differ by rounding only."""


def groups_with_variance(rewards: Tensor) -> Tensor:
    """[B] bool: True where the K rewards of a group differ, so that there is something to learn.

    Args:
        rewards: [B, K] total rewards.
    """
    return (rewards.amax(dim=1) - rewards.amin(dim=1)) > VARIANCE_TOLERANCE


@dataclass(frozen=True)
class AdvantageInputs:
    """Everything an advantage rule may look at: the responses of one step, of all ranks.

    Attributes:
        rewards: [G, K] float32 weighted sum of all reward terms.
        terms: each term's unweighted [G, K] reward by name.
        valid: [G, K] bool, the answer could be parsed.
        lengths: [G, K] int64 tokens of the response.
        scores: [G, K] float32 parsed scores on [1, 5] (`vqr1.rewards.scale`), NaN where not valid;
            None where a caller has none.
        weights: the terms' weights by name; a term that is not named has 1.
    """

    rewards: Tensor
    terms: Mapping[str, Tensor]
    valid: Tensor
    lengths: Tensor
    scores: Tensor | None = None
    weights: Mapping[str, float] = field(default_factory=dict)


class AdvantageRule(Protocol):
    """From rewards to advantages.

    A class may also have `fields = ("reasoning", "score")`, names of fields of the answer
    (`AnswerForm.spans`): it then gives [G, K, F], an advantage of each of the F fields, which goes
    to the tokens of that field only (`vqr1.training.token_fields`). The field `response` is the
    whole of a response.

    It may have `terms = ("margin", "format")`, names of the reward terms that it looks at where it
    does not look at all: a run whose reward has other terms is refused at its start.

    It may have `order_only = True` where it takes away what a reward that names a score asks for: a
    run with such a term (`Reward.absolute`) is refused.

    A class may have `trains_equal_groups = True` where it compares more than a group's total
    rewards: a group then takes part in the update where any of its advantages is not 0, and not
    only where its total rewards differ.
    """

    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """[G, K] finite advantage of each response, floating point, on the device of the rewards.

        Groups whose total rewards are equal (`groups_with_variance`) are not trained on, whatever
        their advantages are, without `trains_equal_groups`.
        """
        ...


def fields_of(rule: AdvantageRule) -> tuple[str, ...]:
    """The fields of the answer that a rule gives an advantage each; empty for whole responses."""
    return tuple(getattr(rule, "fields", ()))


def terms_of(rule: AdvantageRule) -> tuple[str, ...] | None:
    """The reward terms that a rule looks at; None for all that there are."""
    found = getattr(rule, "terms", None)
    return None if found is None else tuple(found)


def trained_groups(rule: AdvantageRule, rewards: Tensor, advantages: Tensor) -> Tensor:
    """[G] bool, the groups that take part in the update.

    Args:
        rule: the advantage rule.
        rewards: [G, K] total rewards.
        advantages: [G, K] or [G, K, F] of the rule.
    """
    if getattr(rule, "trains_equal_groups", False):
        return (advantages != 0).flatten(1).any(dim=1)
    return groups_with_variance(rewards)


def checked_advantages(value: object, rewards: Tensor, fields: Sequence[str] = ()) -> Tensor:
    """What a rule returned, checked to be one advantage a response, or one a field of it.

    Args:
        value: what it returned.
        rewards: [G, K] total rewards.
        fields: names of the rule's F fields (`fields_of`).

    Returns:
        [G, K], with fields [G, K, F], of the type of the rewards.

    Raises:
        ConfigError: no tensor, or another shape, type or device.
        RunFaultError: an advantage is NaN or infinite.
    """
    shape = [*rewards.shape, len(fields)] if fields else list(rewards.shape)
    axes = "[G, K, F]" if fields else "[G, K]"
    expected = f"a {axes} = {shape} floating-point tensor on {rewards.device}"
    if not isinstance(value, Tensor):
        raise ConfigError([f"advantage: gave a {type(value).__name__}; it must return {expected}"])
    # Any other shape would be broadcast: [K] gives all images the same advantages.
    if list(value.shape) != shape or not value.dtype.is_floating_point:
        found = f"{value.dtype} of the shape {list(value.shape)}"
        raise ConfigError([f"advantage: gave {found}; it must return {expected}"])
    if value.device != rewards.device:
        raise ConfigError(
            [f"advantage: gave a tensor on {value.device}; it must return {expected}"]
        )
    bad = ~torch.isfinite(value)
    if bool(bad.any()):
        place = bad.nonzero()[0].tolist()
        image, response = place[:2]
        raise RunFaultError(
            f"advantage: gave {float(value[tuple(place)])} for response {response} of image "
            f"{image} ({int(bad.sum())} of {bad.numel()} advantages); advantages must be finite"
        )
    return value.detach().to(rewards.dtype)

"""Every function of `method_vectors.json` that is implemented, on the inputs and outputs of the
public code it is named after."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.methods import losses, parsers, rewards

FUNCTIONS = {**losses.FUNCTIONS, **rewards.FUNCTIONS, **parsers.FUNCTIONS}

ABSENT = {
    "zoom_iqa_adjust_bbox": "its tool is not here (conf/method/zoom_iqa.yaml)",
    "zoom_iqa_isotonic_correlations": "a fit on the test images, which is no metric of ours",
    "truncated_importance_weights": "of its four modes only token_truncate without a floor is here",
    "verl_rollout_is_weights": "normalised over the batch and masked: not here",
    "dynamic_sampling_selection": "takes other prompts; here the same images are answered again",
}
"""Why the others are not here, by key."""

NO_REWARD = "a response without a reward: ours has one for every response (vqr1.rewards.Reward)"

SKIPPED: dict[str, dict[int, str]] = {
    "dr_grpo_advantages": {9: NO_REWARD},
    "gdpo_advantages": {9: NO_REWARD, 10: NO_REWARD},
    "grpo_batch_scaled_advantages": {9: NO_REWARD},
    "grpo_group_advantages": {9: NO_REWARD},
    "rloo_advantages": {9: NO_REWARD},
    "preresq_r1_reward": {9: "0 / 0 there: equal MOS, all predicted exactly; ours are finite"},
    "mr_iqa2_signed_improvement_reward": {10: "raises there; here NaN stays NaN"},
}
"""Cases in which ours differs on purpose, by key and number."""


@cache
def vectors(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))


def number(value: Any) -> Any:
    """Non-finite numbers are strings there."""
    names = {"NaN": math.nan, "nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    return names.get(value, value) if isinstance(value, str) else value


def assert_close(found: Any, expected: Any, tolerance: float, where: str) -> None:
    expected = number(expected)
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_close(found[key], value, tolerance, f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for n, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, other, tolerance, f"{where}[{n}]")
    elif isinstance(expected, float | int) and not isinstance(expected, bool):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance, nan_ok=True), where
    else:
        assert found == expected, where


@pytest.mark.parametrize("key", sorted(FUNCTIONS))
def test_equals_the_public_code(key: str, shared: Path) -> None:
    entry = vectors(shared / "reference" / "method_vectors.json")[key]
    for n, (case, expected) in enumerate(zip(entry["inputs"], entry["outputs"], strict=True)):
        if n not in SKIPPED.get(key, {}):
            assert_close(FUNCTIONS[key](case), expected, entry["tolerance"], f"{key}[{n}]")


def test_every_key_is_here_or_says_why_not(shared: Path) -> None:
    keys = set(vectors(shared / "reference" / "method_vectors.json"))
    assert FUNCTIONS.keys() | ABSENT.keys() == keys
    assert not FUNCTIONS.keys() & ABSENT.keys()
    assert len(keys) == 85
    assert len(FUNCTIONS) >= 60

"""Rewards of further scores: fidelity to the order of a label column, and what they ask for."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import TrainConfig, validate
from vqr1.errors import ConfigError
from vqr1.iqa.thurstone import fidelity_reward
from vqr1.rewards import AttributeFidelity, RewardInputs
from vqr1.rewards.build import build_rewards
from vqr1.training.checks import check_training
from vqr1.training.label_checks import check_labels

TERM = (
    "answer=json", "answer.scores=[align]", "+reward.terms.align.attribute=align",
    "+reward.terms.align._target_=vqr1.rewards.AttributeFidelity",
)  # fmt: skip


def test_the_attribute_is_compared_with_its_column() -> None:
    generator = torch.Generator().manual_seed(0)
    scores, align = torch.rand(2, 4, 3, generator=generator) * 4 + 1
    align[2, 1] = torch.nan
    column = torch.tensor([30.0, 10.0, 20.0, 20.0])
    inputs = RewardInputs(
        scores=scores,
        valid=torch.ones(4, 3, dtype=torch.bool),
        format_compliant=torch.ones(4, 3, dtype=torch.bool),
        mos=torch.tensor([1.0, 2.0, 3.0, 4.0]),
        attributes={"align": align},
        columns={"fit": column},
    )
    found = AttributeFidelity("align", "fit", variance_floor=0.1)(inputs)
    # Scores, order and validity are the attribute's; the order alone counts.
    expected = fidelity_reward(align, column, align.isfinite(), variance_floor=0.1)
    assert torch.equal(found, expected)
    assert found[2, 1] == 0
    assert torch.equal(
        fidelity_reward(align, column * 7 - 3, align.isfinite(), variance_floor=0.1), expected
    )
    # Stated preferences (target=pairs) are about the ranked score, not about this one.
    stated = replace(inputs, preferences=torch.rand(4, 4, generator=generator))
    assert torch.equal(AttributeFidelity("align", "fit", variance_floor=0.1)(stated), expected)


def config_of(*overrides: str) -> TrainConfig:
    return validate(TrainConfig, plain_values(compose_config("train", [*overrides, "run_dir=run"])))


def labelled(further: list[dict[str, float | str]]) -> Any:
    table = pd.DataFrame({"image": [f"{n}.png" for n in range(len(further))], "further": further})
    table["mos"] = range(len(further))
    return SimpleNamespace(key="dataset", name="csv", table=table, rows=lambda _: table,
                           config=SimpleNamespace(mos_scale="minmax"))  # fmt: skip


@pytest.mark.parametrize(
    ("further", "message"),
    [
        ([{"align": 1.0}, {"align": 2}], None),
        ([{"align": 1.0}, {"align": "good"}], "dataset: column 'align' of csv holds 'good' for "
         "1.png, and reward.terms.align needs a number there"),
        ([{}, {"align": 2.0}], "dataset: column 'align' of csv holds nothing for 0.png, and "),
        ([{"x": 1.0}, {}], "the labels of csv have no further column 'align' (they have x)"),
    ],
)  # fmt: skip
def test_columns_must_hold_numbers(further: list[Any], message: str | None) -> None:
    config = config_of(*TERM)
    rewards = build_rewards(config.reward)
    if message is None:
        check_labels(config, rewards, [labelled(further)])
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        check_labels(config, rewards, [labelled(further)])


def test_the_answer_must_state_the_score() -> None:
    config = config_of(*TERM, "answer.scores=[beauty]")
    with pytest.raises(ConfigError, match=r"reward\.terms\.align: it needs the score 'align', and"):
        check_training(config, build_rewards(config.reward))

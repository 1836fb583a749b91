"""The command on a model card asks as the training did."""

from __future__ import annotations

import shlex

import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import ScoreConfig, TrainConfig, validate
from vqr1.training.model_card_command import ASKED, asking

CASES = {
    (): ["prompt=thinking"],
    ("prompt=short",): ["prompt=short"],
    ("prompt=preresq", "answer.names=[a,b]"): None,
    ("prompt=levels", "+answer.levels.awful=0", "~answer.levels.bad"): None,
    ("prompt=thinking", "answer=boxed", "answer.score_range=[0,100]"): None,
    ("prompt=short", "prompt.text='It\\'s \"$this\", {good}?'", "prompt.system=null"): None,
    ("prompt=thinking", "prompt.name=own", "prompt.system='Be kind, = strict'",
     "prompt.enable_thinking=false", "answer.reasoning=null"): None,
}  # fmt: skip


@pytest.mark.parametrize("keys", CASES)
def test_the_command_asks_as_the_training_did(keys: tuple[str, ...]) -> None:
    trained = plain_values(compose_config("train", ["run_dir=run", *keys]))
    found = asking(trained["prompt"], trained["answer"])
    assert found is not None
    if CASES[keys] is not None:
        assert found == CASES[keys]
    composed = plain_values(compose_config("score", shlex.split(" ".join(found))))
    scored, whole = validate(ScoreConfig, composed), validate(TrainConfig, trained)
    assert scored.answer.form == whole.answer.form
    for key in ASKED:
        assert getattr(scored.prompt, key) == getattr(whole.prompt, key)


def test_a_class_of_ones_own_has_no_command() -> None:
    trained = plain_values(compose_config("train", ["run_dir=run"]))
    assert asking(trained["prompt"], {"_target_": "mine.Form"}) is None

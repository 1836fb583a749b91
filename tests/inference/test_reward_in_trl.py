"""The recipe's code runs: two steps of TRL's trainer with the metric as the reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.pages import blocks

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "docs" / "reward_in_trl.md"
EXAMPLE = ROOT / "examples" / "reward_in_trl.py"


@pytest.mark.slow
def test_the_recipe_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks(RECIPE)
    assert EXAMPLE.read_text().endswith(block.text)
    names: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(block.text, str(RECIPE), "exec"), names)
    trainer, metric, quality = (names[name] for name in ("trainer", "metric", "quality"))
    assert trainer.state.global_step == 2
    rewards = [row["reward"] for row in trainer.state.log_history if "reward" in row]
    assert len(rewards) == 2
    assert all(1.0 <= float(reward) <= 5.0 for reward in rewards)
    # The reward is the metric of the changed image, and nothing where there is no number.
    (image,) = names["images"][0]
    answers = [[{"content": "by 1"}], [{"content": "not at all"}]]
    reward, none = quality(answers, images=[[image], [image]])
    assert reward == pytest.approx(float(metric(image)), abs=1e-4)
    assert none is None
    assert not any(
        weight.requires_grad for weight in metric.scorer._backend._policy.model.parameters()
    )

"""Every choice of `conf/model` composes, and is planned without a download."""

from __future__ import annotations

import pytest

from vqr1.cli.plan import load_train_config, main
from vqr1.config import config_dir
from vqr1.planning.memory import plan_memory
from vqr1.planning.shape import read_shape, share_of_work

pytestmark = pytest.mark.medium

CHOICES = sorted(file.stem for file in (config_dir() / "model").glob("*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_a_model_is_planned(choice: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_train_config([f"model={choice}", "hardware=1gpu"])
    shape = read_shape(config.model)
    recommended = config.model.recommended
    assert recommended is not None
    # Its file states the language model's size, with the output head where that is not tied.
    counted = shape.embedding + shape.head + shape.text
    assert counted == pytest.approx(recommended.parameters, rel=0.01)
    work = share_of_work(config, shape)
    assert 0 < work.tower.tokens < work.prompt
    assert work.tower.flops > 0
    plan = plan_memory(config, shape, work, process=0.0)
    # Weights, gradients and two numbers of optimizer state in float32; the reference in bfloat16
    # is in the host's memory.
    assert plan.peak > 4 * 4 * shape.total
    assert plan.host >= 2 * shape.total
    assert main([f"model={choice}", "hardware=1gpu", "--image", "512x384"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{config.model.name}: {shape.total / 1e6:,.1f} M weights")

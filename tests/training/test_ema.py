from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.cli.test_configs import train_config
from tests.support.tiny_models import tiny_model
from tests.training.test_grpo import Batches, PatternReward, make_module, ranking_batch
from vqr1.errors import ConfigError
from vqr1.rewards.build import build_rewards
from vqr1.training.callbacks import EmaWeights
from vqr1.training.checks import check_training


class Weights(L.Callback):
    """The policy's weights after each step."""

    def __init__(self) -> None:
        self.policy: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.policy.append(torch.nn.utils.parameters_to_vector(pl_module.model.parameters()))


def train(
    steps: int, checkpoint: Path | None = None, save: Path | None = None
) -> tuple[Weights, torch.Tensor]:
    """A run, and the weights of its policy after the average was put in place."""
    module, _ = make_module(tiny_model(seed=1), PatternReward())
    average, seen = EmaWeights(0.75), Weights()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, enable_checkpointing=False,
        callbacks=[average, seen],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Batches(ranking_batch(), 100), batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    average.apply(module)
    return seen, torch.nn.utils.parameters_to_vector(module.model.parameters())


@pytest.mark.medium
def test_the_average_by_hand_and_after_a_resume(tmp_path: Path) -> None:
    seen, average = train(3)
    start = torch.nn.utils.parameters_to_vector(tiny_model(seed=1).parameters())
    # .75 of the old and .25 of the new, three times: .75^3, .75^2 .25, .75 .25, .25
    one, two, three = seen.policy
    expected = 0.421875 * start + 0.140625 * one + 0.1875 * two + 0.25 * three
    torch.testing.assert_close(average, expected, rtol=1e-5, atol=1e-7)
    assert not torch.allclose(average, three, atol=1e-5)

    train(2, save=tmp_path / "two.ckpt")
    again, resumed = train(3, checkpoint=tmp_path / "two.ckpt")
    assert len(again.policy) == 1
    assert torch.equal(resumed, average)


def test_sharded_weights_have_no_average() -> None:
    config = train_config("hardware=8gpu_fsdp2", "optimizer.ema_decay=0.99")
    with pytest.raises(ConfigError, match=r"optimizer\.ema_decay=0\.99, hardware\.strategy=fsdp2"):
        check_training(config, build_rewards(config.reward))

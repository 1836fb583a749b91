"""A reference that follows the policy, and a run that continues with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from tests.support.tiny_models import tiny_model
from tests.training.test_grpo import Batches, K, PatternReward, make_module, ranking_batch
from vqr1.config import GrpoConfig
from vqr1.errors import ConfigError
from vqr1.policy.reference import FrozenCopy
from vqr1.policy.vision import VisionCache
from vqr1.rewards.build import build_rewards
from vqr1.training.callbacks import ReferenceSync
from vqr1.training.checks import check_training


class Weights(L.Callback):
    """Weights of policy and reference after each step."""

    def __init__(self) -> None:
        self.policy: list[torch.Tensor] = []
        self.reference: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.policy.append(torch.nn.utils.parameters_to_vector(pl_module.model.parameters()))
        reference = pl_module.reference.model.parameters()
        self.reference.append(torch.nn.utils.parameters_to_vector(reference))


def train(steps: int, checkpoint: Path | None = None, save: Path | None = None) -> Weights:
    grpo = GrpoConfig(group_size=K, reference_sync_every=2, reference_mixup=0.5)
    module, _ = make_module(tiny_model(seed=1), PatternReward(), grpo=grpo)
    module.vision_cache = VisionCache()
    seen = Weights()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, enable_checkpointing=False,
        callbacks=[ReferenceSync(2, 0.5), seen],
    )  # fmt: skip
    loader = torch.utils.data.DataLoader(Batches(ranking_batch(), 100), batch_size=None)
    trainer.fit(module, loader, ckpt_path=checkpoint, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    return seen


@pytest.mark.medium
def test_it_moves_every_second_step_and_a_resumed_run_equals_a_whole_one(tmp_path: Path) -> None:
    whole = train(5)
    start = torch.nn.utils.parameters_to_vector(tiny_model(seed=1).parameters())
    assert torch.equal(whole.reference[0], start)
    # Half way from the start to the policy after two steps, then half way to that after four.
    first = torch.lerp(start, whole.policy[1], 0.5)
    assert torch.equal(whole.reference[1], first)
    assert torch.equal(whole.reference[2], first)
    assert torch.equal(whole.reference[3], torch.lerp(first, whole.policy[3], 0.5))
    assert not torch.equal(whole.policy[3], whole.policy[1])

    train(3, save=tmp_path / "three.ckpt")
    resumed = train(5, checkpoint=tmp_path / "three.ckpt")
    assert len(resumed.policy) == 2
    assert torch.equal(resumed.reference[-1], whole.reference[-1])
    assert torch.equal(resumed.policy[-1], whole.policy[-1])


@pytest.mark.parametrize(
    ("overrides", "printed"),
    [
        (["loss.kl_weight=0"], "loss.kl_weight=0.0: there is no reference"),
        (["+model.lora.rank=4"], "model.lora: the reference is the policy without its adapters"),
    ],
)
def test_a_reference_that_cannot_follow(overrides: list[str], printed: str) -> None:
    from tests.cli.test_configs import train_config

    config = train_config("grpo.reference_sync_every=10", *overrides)
    with pytest.raises(ConfigError) as caught:
        check_training(config, build_rewards(config.reward))
    (line,) = caught.value.problems
    assert line.startswith(f"grpo.reference_sync_every=10, {printed}")


def test_the_cache_forgets_a_tower_that_has_changed() -> None:
    model = tiny_model(seed=1)
    reference = FrozenCopy(model, vision_frozen=False)
    cache, batch = VisionCache(), ranking_batch()
    before = cache.encode(reference.model, batch.prompts)
    with torch.no_grad():
        model.model.visual.patch_embed.proj.weight.mul_(2.0)
    reference.follow(model.state_dict().items(), 1.0)
    cache.forget()
    after = cache.encode(reference.model, batch.prompts)
    assert not torch.equal(before.flat[0], after.flat[0])

"""Our side: the training step as `train.py` runs it, with a clock around its phases.

The vision tower is trained, so the reference computes features of its own; nothing is kept from
step to step (every step sees its images for the first time).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.clock import Clock
from bench.linear import watch_linear_layers
from bench.setup import KL_WEIGHT, LEARNING_RATE, EndlessTokenizer, Size, Subject, loaded_images
from vqr1.config import GrpoConfig, OptimizerConfig, PromptConfig, SamplingConfig
from vqr1.iqa.answers import FreeText
from vqr1.policy.fast_layers import use_fast_layers
from vqr1.policy.loading import Policy
from vqr1.policy.memory import peak_memory_mib
from vqr1.policy.prompts import PromptBuilder
from vqr1.records import RankingBatch
from vqr1.rewards import RewardInputs, WeightedRewards
from vqr1.rollout.local import LocalEngine
from vqr1.training.advantages import GroupNormalised
from vqr1.training.losses import GrpoLoss
from vqr1.training.stages.grpo import GrpoModule
from vqr1.training.step import StepSettings
from vqr1.training.task import RANKING, Task
from vqr1.training.validation import Validator, validation_modes

MICRO_BATCH_TOKENS = 2**17


class AnyReward:
    """Rewards that differ within each group, so that every group teaches something."""

    ranks = False

    def __call__(self, inputs: RewardInputs) -> Tensor:
        """[B, K] of 0, 1 and 2."""
        group = inputs.scores.shape[1]
        numbers = torch.arange(group, device=inputs.scores.device).remainder(3).float()
        return numbers.expand_as(inputs.scores)


class _Timed(GrpoModule):
    """The training step with a clock; the computation is untouched."""

    clock: Clock

    def _sample(self, *args: Any) -> Any:
        with self.clock.phase("generation"):
            return super()._sample(*args)

    def _reference_logprobs(self, *args: Any) -> Any:
        with self.clock.phase("reference"):
            return super()._reference_logprobs(*args)

    def _update(self, *args: Any) -> Any:
        with self.clock.phase("update"):
            return super()._update(*args)


class _Batches(Dataset[RankingBatch]):
    """The same images at every step, processed anew; begins the clock of each step."""

    def __init__(self, builder: PromptBuilder, size: Size, clock: Clock, steps: int) -> None:
        self._images, self._builder = loaded_images(size), builder
        self._clock, self._steps = clock, steps

    def __len__(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> RankingBatch:
        self._clock.begin()
        with self._clock.phase("images"):
            prompts = self._builder(self._images)
        count = torch.arange(len(prompts))
        names = tuple((f"{number}.png",) for number in range(len(prompts)))
        return RankingBatch("bench", names, prompts, 1.0 + count.float(), count)


class _StepEnd(L.Callback):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self._clock.end()


def load(subject: Subject, folder: Path, device: torch.device, linears: bool) -> Policy:
    """The policy; see `use_fast_layers`."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    model = subject.family.model_class().from_pretrained(folder, dtype=dtype)
    reader = subject.processor()
    model.image_encoding = subject.family.image_encoding(reader.image_processor)
    use_fast_layers(model, linears=linears)
    return Policy(model.to(device).eval(), reader, str(folder))


def _module(policy: Policy, size: Size, clock: Clock, steps: int) -> GrpoModule:
    sampling = SamplingConfig(max_new_tokens=size.tokens)
    endless = EndlessTokenizer(policy.processor.tokenizer, policy.family.end_of_turn)
    engine = LocalEngine(policy.model, endless, MICRO_BATCH_TOKENS)
    prompt = PromptConfig(name="any", text="")
    _Timed.clock = clock
    return _Timed(
        policy,
        engine,
        {RANKING: Task(WeightedRewards({"any": (1.0, AnyReward())}), FreeText())},
        Validator(engine, validation_modes(sampling, 0, 0, prompt, FreeText())),
        StepSettings(
            grpo=GrpoConfig(group_size=size.group),
            loss=GrpoLoss(kl_weight=KL_WEIGHT),
            advantage=GroupNormalised(),
            sampling=sampling,
            optimizer=OptimizerConfig(lr=LEARNING_RATE),
            micro_batch_tokens=MICRO_BATCH_TOKENS,
            total_steps=steps,
            seed=0,
        ),
    )


def run(
    subject: Subject,
    size: Size,
    folder: Path,
    work: Path,
    device: torch.device,
    steps: int,
    linears: bool,
) -> dict[str, Any]:
    """Runs one warm-up step and `steps` timed ones; see `peer.run`.

    `linears` False leaves linear layers PyTorch's own.
    """
    policy, clock = load(subject, folder, device, linears), Clock()
    watch_linear_layers(policy.model, clock)
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_steps=steps + 1,
        logger=False,
        callbacks=[_StepEnd(clock)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=work,
    )
    batches = _Batches(subject.builder(policy.processor), size, clock, steps + 1)
    trainer.fit(_module(policy, size, clock, steps + 1), DataLoader(batches, batch_size=None))
    return {"steps": clock.steps[1:], "peak_mib": peak_memory_mib(device)}

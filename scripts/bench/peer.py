"""The peer: TRL's GRPOTrainer as it ships, with a clock around its phases.

Gradient checkpointing is off (TRL's default is on), which makes TRL faster and is what our side
does too. Old log-probabilities are not computed by either side (one inner iteration on policy).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from bench.clock import Clock
from bench.linear import watch_linear_layers
from bench.setup import KL_WEIGHT, LEARNING_RATE, Place, Size, Subject, loaded_images
from vqr1.policy.memory import peak_memory_mib


class _Timed(GRPOTrainer):
    """GRPOTrainer with a clock; the computation is untouched."""

    clock: Clock

    def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
        with self.clock.phase("generation"):
            return super()._generate_single_turn(*args, **kwargs)

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **kwargs: Any) -> Any:
        if model is self.ref_model:
            with self.clock.phase("reference"):
                return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)
        return super()._get_per_token_logps_and_entropies(model, *args, **kwargs)


class _StepClock(TrainerCallback):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._clock.begin()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._clock.end()


def _any_reward(completions: list[Any], **_: Any) -> list[float]:
    """Rewards that differ within each group, so that every group teaches something."""
    return [float(number % 3) for number in range(len(completions))]


def run(
    subject: Subject, size: Size, folder: Path, work: Path, place: Place, steps: int, parts: int
) -> dict[str, Any]:
    """Runs one warm-up step and `steps` timed ones.

    Args:
        subject: the model's family.
        size: the problem.
        folder: weights.
        work: folder for the trainer's own files.
        place: where to run.
        steps: timed steps.
        parts: micro-batches of a step, whose gradients are accumulated.

    Returns:
        Times of each step in seconds and the peak memory in MiB.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    model = subject.family.model_class().from_pretrained(folder, dtype=place.dtype)
    rows = size.images * size.group
    config = GRPOConfig(
        output_dir=str(work),
        per_device_train_batch_size=rows // parts,
        gradient_accumulation_steps=parts,
        num_generations=size.group,
        max_completion_length=size.tokens,
        generation_kwargs={"min_new_tokens": size.tokens},
        temperature=1.0,
        beta=KL_WEIGHT,
        learning_rate=LEARNING_RATE,
        max_steps=steps + 1,
        gradient_checkpointing=False,
        use_cpu=not place.cuda,
        bf16=place.cuda or place.mixed,
        report_to=[],
        save_strategy="no",
        logging_steps=10**6,
        disable_tqdm=True,
        shuffle_dataset=False,
    )
    question = [{"role": "user", "content": subject.question}]
    images = loaded_images(size)
    repeated = [images[i % len(images)] for i in range(len(images) * (steps + 1))]
    data = Dataset.from_dict(
        {"prompt": [question] * len(repeated), "images": [[image] for image in repeated]}
    )
    clock = Clock()
    _Timed.clock = clock
    trainer = _Timed(
        model=model,
        reward_funcs=_any_reward,
        args=config,
        train_dataset=data,
        processing_class=subject.processor(),
        callbacks=[_StepClock(clock)],
    )
    watch_linear_layers(trainer.model, clock)
    trainer.train()
    return {"steps": clock.steps[1:], "peak_mib": peak_memory_mib(place.device)}

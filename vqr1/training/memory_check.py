"""Whether the planned memory of a step fits the device, asked before a model loads.

The plan is of the largest images that the model's limits admit and of responses at their limit, so
that a run which passes does not end in its thousandth step. Counted are all phases of a step;
validation and test need less than its rollout.

Not here: the plan (`vqr1.planning.memory`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from vqr1.config import HardwareConfig, TrainConfig, read_choice, validate
from vqr1.errors import ConfigError, ModelError
from vqr1.planning.memory import MemoryPlan, plan_memory
from vqr1.planning.shape import ModelShape, read_shape, share_of_work
from vqr1.rollout.turns import free_memory

REFUSED = 1.15
"""Of the free memory; the plan is held to this factor of what is measured (docs/scale.md)."""


def memory_line(config: TrainConfig, free: float | None) -> tuple[str, bool] | None:
    """What to print of a plan that is above the free memory, and whether to refuse; None: it fits.

    Args:
        config: of the training.
        free: bytes free on the device; None on a CPU, where nothing is planned.
    """
    check = config.hardware.memory_check
    if free is None or check == "skip":
        return None
    try:
        shape = read_shape(config.model)
        plan = _plan(config, shape)
    except (ConfigError, ModelError):
        return None  # whoever loads the model reports it
    if plan.peak <= free:
        return None
    refused = check == "refuse" and plan.peak > REFUSED * free
    fits = next((words for words, other in _others(config) if _fits(other, shape, free)), None)
    line = (
        f"hardware.memory_check: the {plan.worst} of a step is planned at {plan.peak / 1e9:.1f} GB "
        f"and this device has {free / 1e9:.1f} GB free (images at model.max_pixels="
        f"{config.model.max_pixels}, responses of {config.rollout.sampling.max_new_tokens} tokens)"
        f"; {'no single key makes it fit: choose a smaller model' if fits is None else fits}"
    )
    return f"{line}{', or hardware.memory_check=warn to start it all the same' * refused}", refused


def check_memory(config: TrainConfig) -> list[str]:
    """The problem of a step that this process's GPU does not hold; a warning is printed.

    Args:
        config: of a training on GPUs.
    """
    if not torch.cuda.is_available():
        return []
    found = memory_line(config, free_memory(torch.device("cuda", torch.cuda.current_device())))
    if found is None:
        return []
    line, refused = found
    if refused:
        return [line]
    print(f"warning: {line}")
    return []


def _plan(config: TrainConfig, shape: ModelShape) -> MemoryPlan:
    return plan_memory(config, shape, share_of_work(config, shape), process=0.0)


def _fits(config: TrainConfig, shape: ModelShape, free: float) -> bool:
    # Adapters are counted with the shape.
    own = shape if config.model.lora is None else read_shape(config.model)
    try:
        return _plan(config, own).peak <= free
    except ConfigError:
        return False  # the processes cannot share the images


def _others(config: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """What else could be chosen, the smallest change first, each with its words."""
    hardware = config.hardware

    def on(words: str, **changes: Any) -> tuple[str, TrainConfig]:
        return words, replace(config, hardware=replace(hardware, **changes))

    if not hardware.gradient_checkpointing:
        yield on("use hardware.gradient_checkpointing=true", gradient_checkpointing=True)
    for tokens in (8192, 4096, 2048):
        if tokens < hardware.micro_batch_tokens:
            words = f"use hardware.micro_batch_tokens={tokens}"
            if not hardware.gradient_checkpointing:
                words += " with hardware.gradient_checkpointing=true"
            yield on(words, micro_batch_tokens=tokens, gradient_checkpointing=True)
    if hardware.reference == "device":
        yield on("use hardware.reference=host", reference="host")
    if hardware.strategy == "auto":
        yield "use hardware=8gpu_fsdp2", with_profile(config, "1gpu", "8gpu_fsdp2")
    if config.model.lora is None:
        yield from _adapters(config)


def _adapters(config: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """Adapters on one GPU, with as little else as makes them fit."""
    words, one = "use hardware=1gpu_lora", with_profile(config, "1gpu_lora")
    again = replace(one, hardware=replace(one.hardware, gradient_checkpointing=True))
    added = "hardware.gradient_checkpointing=true"
    yield words, one
    yield f"{words} with {added}", again
    if config.loader.global_batch_size is not None:
        # One process would take the step's images by itself.
        loader = replace(config.loader, global_batch_size=None)
        words += " with loader.global_batch_size=null"
        yield words, replace(one, loader=loader)
        yield f"{words} and {added}", replace(again, loader=loader)


def with_profile(config: TrainConfig, *files: str) -> TrainConfig:
    """A configuration with the values of a profile: what `hardware=NAME` would plan and run.

    Args:
        config: of a training.
        files: of `conf/hardware`, the profile's own last, after those that its defaults list names.
    """
    values: dict[str, Any] = {}
    for name in files:
        values |= read_choice("hardware", name, "hardware")
    # A profile of other groups too has its values by group.
    hardware = validate(HardwareConfig, values.get("hardware", values))
    model = replace(config.model, **values.get("model", {}))
    return replace(config, hardware=hardware, model=model)

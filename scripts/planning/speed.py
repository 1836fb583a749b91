"""Operations and seconds of a step, counted; nothing here is measured but a CPU's two rates.

    seconds = operations / (peak rate x share)  +  bytes of decoding / (memory rate x share)
              + bytes between processes / link rate  +  bytes of the optimiser / memory rate

Nothing is taken to overlap. A decoding step reads the text model, the output head and all keys
once. What a step needs is counted by `bench.flops`; recomputation under gradient checkpointing is
added here.

Not here: reading and resizing pictures, validation, checkpoints, waiting for the slowest process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bench.flops import step_flops

from planning.memory import Sizes, images_at_once, tower_trains
from planning.shape import ModelShape, Work
from vqr1.config import TrainConfig


@dataclass(frozen=True)
class Machine:
    """One device and its links.

    Attributes:
        memory: bytes of the device; None where it is the host's.
        rate: operations a second of large matrix products in the type of the passes, at most.
        bandwidth: bytes a second that its memory gives, at most.
        link: bytes a second to the other devices of its node, in one direction.
        network: bytes a second of one device's part of the node's network, in one direction.
    """

    memory: float | None
    rate: float
    bandwidth: float
    link: float
    network: float


GPUS = {
    "a100": Machine(80e9, 312e12, 2.04e12, 300e9, 25e9),
    "h100": Machine(80e9, 989e12, 3.35e12, 450e9, 50e9),
    "h200": Machine(141e9, 989e12, 4.8e12, 450e9, 50e9),
    "l40s": Machine(48e9, 362e12, 0.864e12, 32e9, 12.5e9),
}
"""Vendor's figures: SXM modules (L40S: PCIe), dense bfloat16; a network of 200 (A100), 400 (H100,
H200) or 100 (L40S) Gbit/s a device."""


@dataclass(frozen=True)
class Operations:
    """Operations of one process's step.

    Attributes:
        reading: pictures and prompts before sampling.
        decoding: responses, token by token.
        reference: the reference pass.
        update: forward and backward passes, all inner iterations.
        again: computed a second time under gradient checkpointing, beside `update`.
    """

    reading: float
    decoding: float
    reference: float
    update: float
    again: float

    @property
    def total(self) -> float:
        """All of them."""
        return self.reading + self.decoding + self.reference + self.update + self.again


def count_operations(config: TrainConfig, shape: ModelShape, work: Work) -> Operations:
    """What one process computes in one step, features of pictures never being kept."""
    counted = step_flops(
        shape.config, work.patches, work.prompt, work.images, work.group, work.response
    )
    text, tower = counted.prompt + counted.responses, tower_trains(config)
    iterations = config.grpo.inner_iterations
    # Adapters: gradients of the rows, but none of the weights they sit on.
    backward = 1 if shape.adapters else 2
    update = iterations * (1 + backward) * text
    again = iterations * text
    if tower:
        # The first forward pass was the rollout's.
        update += (iterations - 1 + 2 * iterations) * counted.vision
        again += iterations * counted.vision
    reference = 0.0
    if config.grpo.kl_weight > 0:
        reference = text + (counted.vision if tower else 0.0)
    return Operations(
        counted.vision + counted.prompt,
        counted.responses,
        reference,
        update,
        again if config.hardware.gradient_checkpointing else 0.0,
    )


@dataclass(frozen=True)
class Assumptions:
    """What turns counts into seconds.

    Attributes:
        compute: share of the peak rate that large passes reach.
        decode: share of the memory's rate that decoding reaches.
    """

    compute: float
    decode: float


def decoded_bytes(config: TrainConfig, shape: ModelShape, work: Work) -> float:
    """Bytes that a process reads to sample its responses."""
    text, size = shape.config.text_config, Sizes.of(config)
    budget = config.rollout.micro_batch_tokens
    images = images_at_once(budget, work.images, work.entries)
    slots = max(1, min(work.group, budget // (work.response * images)))
    turns = math.ceil(work.images / images) * math.ceil(work.group / slots)
    weight = float(size.weight)
    if size.inner < size.weight:
        # Autocast reads float32, writes bfloat16 and reads that, at every token.
        weight = size.weight + 2.0 * size.inner
        if config.hardware.strategy == "fsdp2":
            weight = float(size.inner)
    weights = (shape.text + (shape.head or shape.embedding)) * weight + shape.adapters * 4
    width = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
    row = 2 * text.num_hidden_layers * width * size.inner
    prompts = work.images * work.prompt * math.ceil(work.group / slots)
    own = work.images * work.group * work.response / 2
    return (work.response - 1) * (turns * weights + (prompts + own) * row)


def exchanged_bytes(config: TrainConfig, shape: ModelShape, work: Work) -> float:
    """Bytes that a process sends in one step, by rings of all processes."""
    hardware, size = config.hardware, Sizes.of(config)
    processes = hardware.devices * hardware.nodes
    ring = (processes - 1) / processes
    trained = shape.adapters or shape.total - (0 if tower_trains(config) else shape.vision)
    gradients = trained * 4.0
    images = images_at_once(hardware.micro_batch_tokens, work.images, work.entries)
    passes = math.ceil(work.images / images) * config.grpo.inner_iterations
    if hardware.strategy == "fsdp2":
        weights = float(shape.total * size.inner)
    else:
        weights = float(shape.total * size.weight)
    updates = config.grpo.inner_iterations
    sent = {
        # Added up once an update.
        "auto": 2 * gradients * updates,
        # Each pass's gradients to their owners; new weights to all.
        "zero2": gradients * passes + weights * updates,
    }
    # Weights for sampling, and for both directions of each pass.
    divided = weights * (1 + 2 * passes) + gradients * passes
    return ring * sent.get(hardware.strategy, divided)


@dataclass(frozen=True)
class Seconds:
    """Expected seconds of a step, by part."""

    reading: float
    decoding: float
    reference: float
    update: float
    exchange: float
    optimiser: float

    @property
    def total(self) -> float:
        """All of them, one after the other."""
        return (
            self.reading + self.decoding + self.reference + self.update
            + self.exchange + self.optimiser
        )  # fmt: skip


def expected_seconds(
    config: TrainConfig, shape: ModelShape, work: Work, machine: Machine, assumed: Assumptions
) -> Seconds:
    """Seconds of one step; every process does the same."""
    counted = count_operations(config, shape, work)
    rate = machine.rate * assumed.compute
    hardware = config.hardware
    link = machine.link if hardware.nodes == 1 else min(machine.link, machine.network)
    trained = shape.adapters or shape.total - (0 if tower_trains(config) else shape.vision)
    shares = 1 if hardware.strategy == "auto" else hardware.devices * hardware.nodes
    # AdamW reads weight, gradient and two moments, and writes all but the gradient.
    moved = 7 * 4 * trained / shares * config.grpo.inner_iterations
    decoding = decoded_bytes(config, shape, work) / (machine.bandwidth * assumed.decode)
    return Seconds(
        counted.reading / rate,
        max(decoding, counted.decoding / rate),
        counted.reference / rate,
        (counted.update + counted.again) / rate,
        exchanged_bytes(config, shape, work) / link,
        moved / machine.bandwidth,
    )

"""Operations and seconds of a step, counted; nothing here is measured but a CPU's two rates.

    seconds = operations / (peak rate x share)  +  bytes of decoding / (memory rate x share)
              + bytes between processes / link rate  +  bytes to and from the host / PCIe rate
              + bytes of the optimiser / rate of the memory that it is in

Nothing is taken to overlap. A decoding step reads the text model, the output head and all keys
once. What a step needs is counted by `flops.py`; recomputation under gradient checkpointing is
added here.

Not here: reading and resizing images, validation, checkpoints, waiting for the slowest process.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vqr1.config import TrainConfig
from vqr1.device import HALF
from vqr1.planning.flops import attention_widths, step_flops
from vqr1.planning.memory import (
    Sizes,
    has_copy,
    images_at_once,
    reference_bytes,
    rollout_budget,
    trained_vision,
    vision_trains,
)
from vqr1.planning.shape import ModelShape, Work


@dataclass(frozen=True)
class Machine:
    """One device and its links.

    Attributes:
        memory: bytes of the device; None where it is the host's.
        rate: operations a second of large matrix products in the type of the passes, at most.
        bandwidth: bytes a second that its memory gives, at most.
        link: bytes a second to the other devices of its node, in one direction.
        network: bytes a second of one device's part of the node's network, in one direction.
        pcie: bytes a second between the device and host memory, in one direction.
        host: bytes a second of host memory, for all devices of a node together.
    """

    memory: float | None
    rate: float
    bandwidth: float
    link: float
    network: float
    pcie: float
    host: float


GPUS = {
    "a100": Machine(80e9, 312e12, 2.04e12, 300e9, 25e9, 32e9, 410e9),
    "h100": Machine(80e9, 989e12, 3.35e12, 450e9, 50e9, 64e9, 614e9),
    "h200": Machine(141e9, 989e12, 4.8e12, 450e9, 50e9, 64e9, 614e9),
    "l40s": Machine(48e9, 362e12, 0.864e12, 32e9, 12.5e9, 32e9, 410e9),
}
"""Vendor's metrics: SXM modules (L40S: PCIe), dense bfloat16; a network of 200 (A100), 400 (H100,
H200) or 100 (L40S) Gbit/s a device. PCIe: 16 lanes, generation 4 (A100, L40S) or 5. Host memory:
two processors with 8 channels each, DDR4-3200 (DGX A100; assumed for the L40S) or DDR5-4800 (DGX
H100 and H200)."""

ADAMW_NUMBERS = 20
"""Numbers that PyTorch's AdamW reads and writes for each weight, one operation after another: decay
2, first moment 3, second 2 + 3, its root, quotient and sum 2 + 2 + 2, weight 4."""

FUSED_NUMBERS = 7
"""The same in one kernel: weight and both moments read and written, the gradient read."""


@dataclass(frozen=True)
class Operations:
    """Operations of one process's step.

    Attributes:
        reading: images and prompts before sampling.
        decoding: responses, token by token.
        reference: the reference pass.
        degraded: forward passes over the degraded copies of all images, all inner iterations.
        update: forward and backward passes, all inner iterations.
        again: computed a second time under gradient checkpointing, beside `update`.
    """

    reading: float
    decoding: float
    reference: float
    degraded: float
    update: float
    again: float

    @property
    def total(self) -> float:
        """All of them."""
        return (
            self.reading + self.decoding + self.reference + self.degraded + self.update + self.again
        )


def count_operations(config: TrainConfig, shape: ModelShape, work: Work) -> Operations:
    """What one process computes in one step, features of images never being kept.

    Of the perception term's steps: later ones make no copies (`loss.perception.until`).
    """
    counted = step_flops(
        shape.config,
        work.tower.flops,
        work.prompt,
        work.images,
        work.group,
        work.response,
        shape.family.text_extra(shape.config.text_config),
    )
    text, vision = counted.prompt + counted.responses, vision_trains(config)
    iterations = config.grpo.num_iterations
    # Adapters: gradients of the rows, but none of the weights they sit on.
    backward = 1 if shape.adapters else 2
    update = iterations * (1 + backward) * text
    again = iterations * text
    if vision:
        # The first forward pass was the rollout's; backward goes as far as weights train.
        share = trained_vision(config, shape) / shape.vision
        update += (iterations - 1 + 2 * iterations * share) * counted.vision
        again += iterations * share * counted.vision
    reference = 0.0
    if config.loss.has_reference:
        reference = text + (counted.vision if vision else 0.0)
    return Operations(
        counted.vision + counted.prompt,
        counted.responses,
        reference,
        iterations * counted.forward if config.loss.perception.weight else 0.0,
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
    budget = rollout_budget(config)
    images = images_at_once(budget, work.images, work.entries)
    slots = max(1, min(work.group, budget // (work.response * images)))
    turns = math.ceil(work.images / images) * math.ceil(work.group / slots)
    # Adapters are merged for the rollout, and float32 weights have bfloat16 copies.
    weight = size.inner if config.hardware.accelerator == "gpu" else size.weight
    merged = config.hardware.accelerator == "gpu" and config.hardware.precision == HALF
    weights = float((shape.text + (shape.head or shape.embedding)) * weight)
    weights += 0 if merged else shape.adapters * 4
    _, width = attention_widths(text)
    extra = shape.family.text_extra(text)
    row = 2 * (text.num_hidden_layers - extra.linear) * width * size.inner
    prompts = work.images * work.prompt * math.ceil(work.group / slots)
    responses = work.images * work.group
    # States are read and written.
    states = 2 * responses * extra.linear * extra.state * 4.0
    kept = (prompts + responses * work.response / 2) * row
    return (work.response - 1) * (turns * weights + kept + states)


def trained_numbers(config: TrainConfig, shape: ModelShape) -> int:
    """Weights that train."""
    return (shape.adapters or shape.total - shape.vision) + trained_vision(config, shape)


def passes_of_update(config: TrainConfig, work: Work) -> int:
    """Micro-batches of one optimiser step."""
    images = images_at_once(config.hardware.micro_batch_tokens, work.images, work.entries)
    return math.ceil(work.images / images)


def exchanged_bytes(config: TrainConfig, shape: ModelShape, work: Work) -> float:
    """Bytes that a process sends in one step, by rings of all processes."""
    hardware, size = config.hardware, Sizes.of(config)
    processes = hardware.devices * hardware.nodes
    ring = (processes - 1) / processes
    gradients = trained_numbers(config, shape) * 4.0
    passes = passes_of_update(config, work) * config.grpo.num_iterations
    if hardware.strategy == "fsdp2":
        weights = float(shape.total * size.inner)
    else:
        weights = float(shape.total * size.weight)
    updates = config.grpo.num_iterations
    sent = {
        # Added up once an update.
        "auto": 2 * gradients * updates,
        # Each pass's gradients to their owners; new weights to all.
        "zero2": gradients * passes + weights * updates,
    }
    # Weights for sampling, and for both directions of each pass.
    divided = weights * (1 + 2 * passes) + gradients * passes
    sharded = hardware.reference == "sharded" and has_copy(config, shape)
    # Put together for its pass.
    reference = reference_bytes(config, shape) if sharded else 0.0
    return ring * (sent.get(hardware.strategy, divided) + reference)


def host_bytes(config: TrainConfig, shape: ModelShape, work: Work) -> float:
    """Bytes that a process moves between host memory and its device in one step."""
    hardware, size = config.hardware, Sizes.of(config)
    if hardware.accelerator != "gpu":
        return 0.0
    moved = 0.0
    if hardware.reference == "host" and has_copy(config, shape):
        moved += reference_bytes(config, shape)
    if hardware.offload:
        share = trained_numbers(config, shape) / (hardware.devices * hardware.nodes)
        # DeepSpeed adds up on the device what it keeps in host memory: gradients go both ways in
        # each pass and once more at the end. The new weights go back.
        ways = 2 * (passes_of_update(config, work) + 1)
        moved += share * (4 * ways + size.weight) * config.grpo.num_iterations
    return moved


def optimiser_seconds(config: TrainConfig, shape: ModelShape, machine: Machine) -> float:
    """Seconds of a step in which AdamW moves weights, gradients and optimizer state."""
    hardware = config.hardware
    shares = 1 if hardware.strategy == "auto" else hardware.devices * hardware.nodes
    fused = hardware.accelerator == "gpu" and not hardware.offload
    numbers = FUSED_NUMBERS if fused else ADAMW_NUMBERS
    moved = numbers * 4 * trained_numbers(config, shape) / shares
    # All processes of a node are at its memory at once.
    rate = machine.host / hardware.devices if hardware.offload else machine.bandwidth
    return moved * config.grpo.num_iterations / rate


@dataclass(frozen=True)
class Seconds:
    """Expected seconds of a step, by part; `host` is what goes to and from host memory."""

    reading: float
    decoding: float
    reference: float
    degraded: float
    update: float
    exchange: float
    host: float
    optimiser: float

    @property
    def total(self) -> float:
        """All of them, one after the other."""
        return (
            self.reading + self.decoding + self.reference + self.degraded + self.update
            + self.exchange + self.host + self.optimiser
        )  # fmt: skip


def expected_seconds(
    config: TrainConfig, shape: ModelShape, work: Work, machine: Machine, assumed: Assumptions
) -> Seconds:
    """Seconds of one step; every process does the same."""
    counted = count_operations(config, shape, work)
    rate = machine.rate * assumed.compute
    hardware = config.hardware
    link = machine.link if hardware.nodes == 1 else min(machine.link, machine.network)
    decoding = decoded_bytes(config, shape, work) / (machine.bandwidth * assumed.decode)
    return Seconds(
        counted.reading / rate,
        max(decoding, counted.decoding / rate),
        counted.reference / rate,
        counted.degraded / rate,
        (counted.update + counted.again) / rate,
        exchanged_bytes(config, shape, work) / link,
        host_bytes(config, shape, work) / machine.pcie,
        optimiser_seconds(config, shape, machine),
    )


def vote_seconds(
    config: TrainConfig, shape: ModelShape, work: Work, machine: Machine, assumed: Assumptions
) -> float:
    """Seconds of a process's votes (`target=self_vote`), which it casts before the first step.

    Args:
        config: the training's configuration.
        shape: its model.
        work: its prompts and their responses (`vqr1.planning.shape.share_of_votes`).
        machine: the device.
        assumed: shares of its rates.
    """
    seconds = expected_seconds(config, shape, work, machine, assumed)
    return seconds.reading + seconds.decoding

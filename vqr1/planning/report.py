"""The plan as text: a table of memory by phase, and lines on time.

Not here: what is planned (`memory.py`, `saved.py`, `speed.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from vqr1.config import TrainConfig
from vqr1.planning.memory import MemoryPlan
from vqr1.planning.saved import SavedShards
from vqr1.planning.shape import KindOfStep, ModelShape, share_of_votes
from vqr1.planning.speed import (
    Assumptions,
    Machine,
    Operations,
    Seconds,
    count_operations,
    expected_seconds,
    vote_seconds,
)


def print_memory(plan: MemoryPlan, limit: float | None, processes: int) -> None:
    """A table: terms downwards, phases across, in MiB; `processes` are those of one node."""
    phases = list(plan.phases)
    names = list(dict.fromkeys(name for terms in plan.phases.values() for name in terms))
    print(f"{'MiB of each process':<22}" + "".join(f"{phase:>16}" for phase in phases))
    for name in names:
        values = [terms.get(name, 0.0) / 2**20 for terms in plan.phases.values()]
        if any(values):
            print(f"  {name:<20}" + "".join(f"{value:>16,.0f}" for value in values))
    sums = [sum(terms.values()) / 2**20 for terms in plan.phases.values()]
    print(f"  {'all':<20}" + "".join(f"{value:>16,.0f}" for value in sums))
    text = f"peak: {plan.peak / 2**20:,.0f} MiB, in the {plan.worst}"
    if limit is not None:
        text += f"; {plan.peak / limit:.0%} of the device's {limit / 1e9:.0f} GB"
        text += " - TOO MUCH" if plan.peak > limit else ""
    print(text)
    if plan.host:
        print(
            f"host memory besides: {plan.host / 2**20:,.0f} MiB of each process, "
            f"{plan.host * processes / 1e9:,.0f} GB of a node's {processes}"
        )


def print_saved(saved: SavedShards, processes: int) -> None:
    """A line on what the processes of a sharded run write of each checkpoint."""
    print(
        f"a checkpoint: {saved.total / 1e9:,.1f} GB, at most {saved.rank / 1e9:,.1f} GB by each of "
        f"{processes} processes, tensor by tensor through host memory: {saved.largest / 1e9:,.2f} "
        "GB at a time"
    )


def _parts(counts: Operations | Seconds, unit: float) -> str:
    """The total and its parts."""
    parts = [f"{name} {value / unit:,.2f}" for name, value in asdict(counts).items()]
    return f"{counts.total / unit:,.2f} ({', '.join(parts)})"


def print_time(
    config: TrainConfig,
    shape: ModelShape,
    steps_of: Sequence[KindOfStep],
    machine: Machine,
    assumed: Assumptions,
    images: int | None = None,
    price: float | None = None,
    size: tuple[int, int] | None = None,
) -> None:
    """Tokens, operations and seconds of a step, and of the run where its length is known.

    Args:
        config: the training's configuration.
        shape: its model.
        steps_of: its kinds of steps; what the first one does is shown in detail.
        machine: the device.
        assumed: shares of its rates.
        images: training images, by which a run of epochs has a length.
        price: of a device hour.
        size: width and height of the images as they are on disk; None: the largest.
    """
    work = steps_of[0].work
    gpu = config.hardware.accelerator == "gpu"
    processes = config.hardware.devices * config.hardware.nodes
    counted = count_operations(config, shape, work)
    seconds = expected_seconds(config, shape, work, machine, assumed)
    print(
        f"a step: {work.images * processes} images x {work.group} responses, prompt {work.prompt} "
        f"tokens, response {work.response}; {work.tokens * processes:,} tokens"
    )
    print(f"operations of each process, in 1e12: {_parts(counted, 1e12)}")
    kind = "vendor's rates" if gpu else "rates measured here"
    print(f"seconds of a step: {_parts(seconds, 1.0)}")
    mean = 0.0
    for kind_of in steps_of:
        parts = expected_seconds(config, shape, kind_of.work, machine, assumed)
        # The last steps make no degraded copies.
        own = parts.total - (1 - config.loss.perception.until) * parts.degraded
        mean += kind_of.share * own
        if kind_of.name:
            print(
                f"  a step of task {kind_of.name} ({kind_of.share:.0%} of the steps): prompt "
                f"{kind_of.work.prompt} tokens, {own:,.2f} s"
            )
    print(
        f"  {kind}: {assumed.compute:.0%} of {machine.rate / 1e12:.2f} TFLOP/s and "
        f"{assumed.decode:.0%} of {machine.bandwidth / 1e9:,.0f} GB/s; the shares are assumptions"
    )
    if config.rollout.engine != "local":
        print(f"  decoding by {config.rollout.engine} is counted as the local engine's")
    votes = _vote_hours(config, shape, machine, assumed, images, size)
    steps = config.max_steps
    if config.max_epochs is not None and images is not None:
        steps = config.max_epochs * (images // (work.images * processes))
        # A task has about an item for each image, and an epoch holds all of them.
        steps *= len(steps_of)
        steps *= config.grpo.num_iterations
    if steps is not None:
        rounds = config.votes.rounds if config.target == "self_vote" else 1
        hours = rounds * (steps / config.grpo.num_iterations * mean / 3600 + votes)
        every = f"{rounds} rounds of " if rounds > 1 else ""
        text = (
            f"{every}{steps} optimiser steps: {hours:.1f} h, {hours * processes:.1f} device hours"
        )
        if price is not None:
            text += f", {hours * processes * price:,.0f} at {price:g} an hour"
        print(f"{text}; without validation, checkpoints and loading")


def _vote_hours(
    config: TrainConfig, shape: ModelShape, machine: Machine, assumed: Assumptions,
    images: int | None, size: tuple[int, int] | None,
) -> float:  # fmt: skip
    """Print the hours of the votes before the first step, and return them; 0 without any."""
    if config.target != "self_vote":
        return 0.0
    if images is None:
        print("  the votes before the first step are not counted: give --images")
        return 0.0
    work = share_of_votes(config, shape, images, size)
    hours = vote_seconds(config, shape, work, machine, assumed) / 3600
    print(
        f"votes of each process: {work.images:,} prompts x {work.group} responses, prompt "
        f"{work.prompt} tokens: {hours:.2f} h before the first step"
    )
    return hours

"""Steps of each arm at equal compute: counted operations (`vqr1.planning`), not time.

The budget is what `BASELINE_STEPS` steps of the baseline take. Counted are all passes of a
training: rollout, reference and update (`vqr1.planning.speed.count_operations`), the pass of
degraded copies, the teacher's answers of a distillation and the votes of a policy on pairs. A
response counts with the mean length that the arm's start writes, not with its limit. Not counted:
validation and test, the start's lessons in its answer form, and the teacher's own training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from arms import ARMS, BASELINE, Arm

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import TrainConfig, validate
from vqr1.planning.flops import step_flops
from vqr1.planning.shape import ModelShape, Work, read_shape, share_of_work
from vqr1.planning.speed import count_operations

BASELINE_STEPS = 60
IMAGE = (112, 112)
"""Width and height of what the tiny policy is shown: every image becomes 64 patches."""
LEVEL_TOKENS = 8
"""Tokens of "The quality of the image is excellent" with the end of the turn; another word takes
up to two more, one percent of a step."""


@dataclass(frozen=True)
class Plan:
    """What an arm does.

    Attributes:
        steps: optimiser steps of each of its trainings.
        rounds: trainings.
        batch: B of a step.
        group: K.
        prompt: tokens of a prompt.
        response: tokens of a response, as counted.
        per_step: operations of an optimiser step.
        before: operations before the first step of each training: votes, a teacher's answers.
    """

    steps: int
    rounds: int
    batch: int
    group: int
    prompt: int
    response: float
    per_step: float
    before: float

    @property
    def total(self) -> float:
        """All operations."""
        return self.rounds * (self.before + self.steps * self.per_step)


def config_of(arm: Arm, *overrides: str) -> TrainConfig:
    """An arm's configuration, validated."""
    given = [*arm.overrides, "run_dir=unused", *overrides]
    return validate(TrainConfig, plain_values(compose_config("train", given)))


def plan_of(arm: Arm, tokens: float, budget: float | None = None) -> Plan:
    """What an arm does within a budget.

    Args:
        arm: the arm.
        tokens: mean length of its start's responses.
        budget: operations; None: `BASELINE_STEPS` steps whatever they cost.
    """
    config = config_of(arm)
    stage = config.stage.target.rpartition(".")[2]
    shape = read_shape(config.model)
    work = share_of_work(config, shape, IMAGE)
    updates = 1
    if stage == "SftStage":
        tokens, work = LEVEL_TOKENS, replace(work, group=1)
        per_step, before = _sft(shape, replace(work, response=LEVEL_TOKENS)), 0.0
    elif stage == "DistillStage":
        # The tower alone, forward and backward.
        per_step = 3 * work.images * work.tower.flops
        samples = int(config.stage.arguments["samples"])
        seen = _images(config) + 16
        # Sampling, and the pass that reads the answers' hidden states.
        before = 2 * _forward(shape, work, seen, samples, tokens)
        work = replace(work, group=samples)
    else:
        updates = config.grpo.num_iterations
        whole = _at(lambda c: _grpo(config, shape, replace(work, response=c)), tokens)
        per_step = whole / updates
        before = 0.0
        if config.target == "self_vote":
            before = _forward(shape, work, _images(config), config.votes.count, tokens)
    steps = BASELINE_STEPS
    if budget is not None:
        batches = (budget / arm.rounds - before) / (per_step * updates)
        steps = max(round(batches), 1) * updates
    return Plan(steps, arm.rounds, work.images, work.group, work.prompt, tokens, per_step, before)


def budget_of(tokens: float) -> float:
    """Operations of the baseline."""
    return plan_of(ARMS[BASELINE], tokens).total


def _images(config: TrainConfig) -> int:
    found = config.dataset.max_images  # type: ignore[union-attr]
    assert found is not None
    return found


def _at(count: object, tokens: float) -> float:
    """A count at a length between two whole ones."""
    low = int(tokens)
    first, second = (count(length) for length in (low, low + 1))  # type: ignore[operator]
    return float(first + (tokens - low) * (second - first))


def _grpo(config: TrainConfig, shape: ModelShape, work: Work) -> float:
    found = count_operations(config, shape, work)
    perception = config.loss.perception
    # One pass of the copies without a gradient, in a share of the steps.
    copies = perception.until * (found.reading + found.decoding) if perception.weight else 0.0
    return found.total + copies


def _sft(shape: ModelShape, work: Work) -> float:
    return 3 * _counted(shape, work, work.images, 1, work.response)


def _counted(shape: ModelShape, work: Work, images: int, group: int, tokens: int) -> float:
    flops = step_flops(shape.config, work.tower.flops, work.prompt, images, group, tokens)
    return flops.forward


def _forward(shape: ModelShape, work: Work, images: int, group: int, tokens: float) -> float:
    return _at(lambda c: _counted(shape, work, images, group, c), tokens)

"""Rules that tie several configuration keys together, checked before a model loads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from vqr1.config import TrainConfig, VotesConfig, placeholder_problem
from vqr1.config.training import PARTS
from vqr1.distributed.hardware import hardware_problems, share_of_step, share_problem, this_machine
from vqr1.errors import ConfigError
from vqr1.evaluation.metrics import metrics_of, monitored
from vqr1.inference.mode_checks import level_problems
from vqr1.rewards import WeightedRewards
from vqr1.rewards.base import Need
from vqr1.rewards.scale import mos_fit
from vqr1.rollout.vllm_client import RECONNECTIONS
from vqr1.rollout.vllm_requests import fitting_logprobs
from vqr1.tracking.other_loggers import logger_problems
from vqr1.training.advantages import build_advantage
from vqr1.training.losses import build_loss
from vqr1.training.losses.perception import perception_problems
from vqr1.training.stages import build_stage

if TYPE_CHECKING:
    # It imports pandas, which a mistake on the command line does not wait for.
    from vqr1.data.labelled_set import LabelledSet

LOST_IN_ROUNDING = 1e-4
"""Learning rate below which AdamW leaves many bfloat16 weights as they are: its step is about the
learning rate, and half a unit in the last place of a weight of .05 is 1e-4."""


def check_training(config: TrainConfig, rewards: WeightedRewards) -> None:
    """Raise one ConfigError with every problem of a training configuration."""
    problems = logger_problems(config.logger) + _missing_parts(config)
    if config.chain is not None:
        problems.append(
            f"chain={config.chain}: it is taken from the command line only; give it there"
        )
    processes = config.hardware.devices * config.hardware.nodes
    wanted = config.loader.global_batch_size
    if wanted is not None and share_of_step(wanted, processes) is None:
        problems.append(share_problem(wanted, processes))
    try:
        problems += build_stage(config.stage).problems(config, rewards)
    except ConfigError as error:
        problems += error.problems
    if config.max_steps is None and config.max_epochs is None:
        problems.append("max_steps=None, max_epochs=None: one of them must be a number")
    if config.max_steps is not None and config.max_epochs is not None:
        problems.append(
            f"max_steps={config.max_steps}, max_epochs={config.max_epochs}: only one of them may "
            "be a number; set the other to null"
        )
    decay, strategy = config.optimizer.ema_decay, config.hardware.strategy
    if decay is not None and strategy != "auto":
        problems.append(
            f"optimizer.ema_decay={decay}, hardware.strategy={strategy}: an average needs whole "
            "weights in every process; use hardware.strategy=auto, or optimizer.ema_decay=null"
        )
    if not config.answer.form.scored:
        problems.append(
            f"prompt={config.prompt.name}, answer: it asks for no score, so there is nothing to "
            "rank; choose prompt=thinking or prompt=non_thinking, without answer=free"
        )
    problems += hardware_problems(config.hardware, this_machine())
    problems += _dtype_problems(config)
    problems += _validation_problems(config)
    problems += _metric_problems(config)
    if problems:
        raise ConfigError(problems)


def _validation_problems(config: TrainConfig) -> list[str]:
    """Why validations cannot be taken as asked."""
    checkpoint, levels = config.callbacks.checkpoint, config.validation.mode == "levels"
    problems = []
    if levels:
        problems += level_problems(
            config.answer.form, "validation.mode=levels", "validation.mode=answers"
        )
    if levels and config.rollout.engine != "local":
        problems.append(
            f"validation.mode=levels, rollout.engine={config.rollout.engine}: the words' logits "
            "are read from the policy in this process; use rollout=local"
        )
    if checkpoint is None or not checkpoint.monitor.endswith("_greedy"):
        return problems
    if levels or config.validation.samples == 0:
        only = "validation.mode=levels" if levels else "validation.samples=0"
        problems.append(
            f"callbacks.checkpoint.monitor={checkpoint.monitor}: with {only} the greedy metrics "
            "are val/srcc and val/plcc themselves; name one of these"
        )
    return problems


def ranking_problems(config: TrainConfig, rewards: WeightedRewards) -> list[str]:
    """Rules of a training by sampled responses (`stage=grpo`), one line each."""
    processes = config.hardware.devices * config.hardware.nodes
    pool = config.loader.global_batch_size or config.loader.batch_size * processes
    problems = _pool_problems(config, rewards, pool, processes)
    problems += _reference_problems(config)
    problems += _part_problems(config)
    problems += perception_problems(config.loss.perception)
    problems += _attribute_problems(config, rewards)
    problems += _engine_problems(config, rewards)
    if config.rollout.sampling.temperature == 0:
        problems.append(
            "rollout.sampling.temperature=0.0: greedy responses are all alike, so that every "
            "group has zero variance; use a temperature above 0"
        )
    penalty = config.rollout.sampling.repetition_penalty
    if penalty != 1:
        problems.append(
            f"rollout.sampling.repetition_penalty={penalty:g}: responses would be drawn from "
            "another distribution than the policy whose gradient is taken; set it to 1 (an "
            "evaluation has mode.sampling.repetition_penalty)"
        )
    if config.target != "mos":
        problems += [
            f"target={config.target}, reward.terms.{name}: it needs standard deviations of the "
            "MOS, and pairs have none; choose another reward, or target=mos"
            for name in rewards.needing("mos_std")
        ]
    if config.target == "self_vote":
        problems += _vote_problems(config.votes)
    return problems


def _vote_problems(votes: VotesConfig) -> list[str]:
    """Why the policy cannot vote as asked."""
    problems = []
    if votes.rounds > 1:
        problems.append(
            f"votes.rounds={votes.rounds}: rounds are trainings one after the other, which start "
            "processes of their own: run them without a launcher and without -m, or one by one "
            "with votes.rounds=1 and init_from"
        )
    if votes.by == "scores":
        return problems
    if votes.count % 2:
        problems.append(
            f"votes.count={votes.count}: half of the comparisons show the images in each order; "
            "use an even number"
        )
    problem = placeholder_problem(votes.text, 2)
    if problem is not None:
        problems.append(
            f"votes.text: {problem.replace('prompt.images=2', 'a comparison has 2 images')}"
        )
    return problems


def _metric_problems(config: TrainConfig) -> list[str]:
    """Why a metric cannot be computed, or cannot choose the best checkpoint."""
    try:
        names = monitored(metrics_of(config.metrics, config.target))
    except ConfigError as error:
        return error.problems
    checkpoint = config.callbacks.checkpoint
    if checkpoint is None or checkpoint.monitor in names:
        return []
    return [
        f"callbacks.checkpoint.monitor={checkpoint.monitor!r}: no validation logs it to choose by; "
        f"use one of {', '.join(names)}"
    ]


def check_labels(
    config: TrainConfig, rewards: WeightedRewards, sets: Iterable[LabelledSet]
) -> None:
    """Check that scores can be subtracted from MOS where a reward does so, and what labels lack.

    Raises:
        ConfigError: every set whose MOS are as published and not on the scale that the prompt asks
            for, and every set whose training images lack a label that a reward needs.
    """
    sets = list(sets)
    asked = config.answer.form.score_range
    problems = []
    # Scores fitted to pairs are on [1, 5].
    for labelled in sets if rewards.absolute and config.target == "mos" else ():
        lowest, highest = labelled.table["mos"].min(), labelled.table["mos"].max()
        if labelled.config.mos_scale == "published" and not mos_fit(lowest, highest, asked):
            problems.append(
                f"{labelled.key}.mos_scale=published, answer.score_range={list(asked)}: the MOS "
                f"run from {lowest:g} to {highest:g}, and scores are compared with them by value "
                f"({', '.join(f'reward.terms.{name}' for name in rewards.absolute)}); use "
                "mos_scale=minmax, or ask for scores on that scale (answer.score_range and "
                "prompt.text)"
            )
    problems += _label_problems(rewards, sets) + _column_problems(rewards, sets)
    if problems:
        raise ConfigError(problems)


_LABELS: Mapping[Need, str] = {
    "mos_std": "std", "reference": "reference", "distortion": "distortion"
}  # fmt: skip
"""Column of the labels that a reward may need."""


def _label_problems(rewards: WeightedRewards, sets: Iterable[LabelledSet]) -> list[str]:
    """Sets whose training images lack what a reward needs of the labels, a line for each."""
    problems = []
    for need, column in _LABELS.items():
        terms = ", ".join(f"reward.terms.{name}" for name in rewards.needing(need))
        problems += missing_labels(sets, column, terms, "reward") if terms else []
    return problems


def missing_labels(
    sets: Iterable[LabelledSet], column: str, who: str, other: str = "stage"
) -> list[str]:
    """Sets whose training images lack a label, a line for each.

    Args:
        sets: the data sets.
        column: of their label tables.
        who: what needs it.
        other: what else can be chosen in its place.
    """
    problems = []
    for labelled in sets:
        rows = labelled.rows("train")
        missing = int(rows[column].isna().sum())
        if missing:
            problems.append(
                f"{labelled.key}: {missing} of {len(rows)} training images of {labelled.name} "
                f"have no {column}, and {who} needs it; train without the set, or choose another "
                f"{other}"
            )
    return problems


def _column_problems(rewards: WeightedRewards, sets: Iterable[LabelledSet]) -> list[str]:
    """Sets whose training images all lack a further label column that a reward looks at."""
    problems = []
    for column, terms in rewards.label_columns().items():
        named = ", ".join(f"reward.terms.{name}" for name in terms)
        for labelled in sets:
            further = labelled.rows("train")["further"]
            if not any(column in (values or ()) for values in further):
                known = sorted({name for values in further for name in values or ()})
                problems.append(
                    f"{labelled.key}: the labels of {labelled.name} have no further column "
                    f"{column!r} (they have {', '.join(known) or 'none'}), and {named} needs it; "
                    "add it to the labels, or name another column"
                )
    return problems


def _attribute_problems(config: TrainConfig, rewards: WeightedRewards) -> list[str]:
    """Rewards of several ratings, with an answer that states one."""
    if config.answer.form.attributes:
        return []
    return [
        f"reward.terms.{name}: it needs further ratings beside the score, and the answer form has "
        "none; use a form with attributes, such as prompt=preresq (answer=five_ratings)"
        for name in rewards.needing("attributes")
    ]


def _pool_problems(
    config: TrainConfig, rewards: WeightedRewards, images: int, processes: int
) -> list[str]:
    """Why a step of so many images has no pools that a reward can compare."""
    pool = config.grpo.pool
    if isinstance(pool, int):
        if images % pool == 0:
            return []
        fitting = ", ".join(str(n) for n in range(2, images + 1) if images % n == 0)
        return [
            f"grpo.pool={pool}: the {images} images of a step (of all processes) cannot be shared "
            f"out {pool} by {pool}; use one of {fitting or 'global, rank'}, or another "
            "loader.global_batch_size"
        ]
    share = images // processes if pool == "rank" else images
    if not rewards.ranks or share >= 2:
        return []
    where = f"grpo.pool=rank, {processes} processes, " if pool == "rank" and processes > 1 else ""
    return [
        f"{where}loader.batch_size={share}: a ranking reward compares images with each other "
        "and needs at least 2; raise it"
    ]


def _dtype_problems(config: TrainConfig) -> list[str]:
    """Why weights of a type cannot train."""
    model, rate = config.model, config.optimizer.lr
    if model.lora is not None:
        if model.freeze_vision == "tower" and model.dtype != "float32":
            return [
                f"model.dtype={model.dtype}, model.freeze_vision=tower: the projector's weights "
                "have this type, and its updates are lost in their rounding; use "
                "model.dtype=float32"
            ]
        return []
    if model.dtype == "float16":
        return [
            "model.dtype=float16, model.lora=null: gradients and updates of float16 weights "
            "overflow beyond 65504 and vanish below 6e-8; use model.dtype=float32 (with "
            "hardware.precision=bf16-mixed on a GPU), or adapters (model.lora)"
        ]
    if model.dtype == "bfloat16" and rate < LOST_IN_ROUNDING:
        return [
            f"model.dtype={model.dtype}, optimizer.lr={rate}: updates this "
            "small are lost in the rounding of such weights; use model.dtype=float32 or adapters "
            "(model.lora)"
        ]
    return []


def _engine_problems(config: TrainConfig, rewards: WeightedRewards) -> list[str]:
    """Why an engine cannot serve this training."""
    rollout, sampling, hardware = config.rollout, config.rollout.sampling, config.hardware
    problems = []
    served = rollout.engine == "vllm_server"
    if served and rollout.server.weights == "adapter" and config.model.lora is None:
        problems.append(
            "rollout.server.weights=adapter, model.lora=null: there are no adapters to send; "
            "use rollout.server.weights=merged, or set model.lora"
        )
    elif served and rollout.server.weights == "adapter" and config.model.freeze_vision == "tower":
        problems.append(
            "rollout.server.weights=adapter, model.freeze_vision=tower: the projector trains too "
            "and would not be sent; use rollout.server.weights=merged"
        )
    together = hardware.devices * hardware.nodes > 1
    server, minutes = rollout.server, hardware.process_group_timeout_minutes
    longest = (RECONNECTIONS + 1) * (server.patience_s + server.timeout_s)
    if served and together and longest >= 60 * minutes:
        problems.append(
            f"rollout.server.patience_s={server.patience_s:g}, "
            f"rollout.server.timeout_s={server.timeout_s:g}, "
            f"hardware.process_group_timeout_minutes={minutes:g}: a process may wait for a lost "
            f"server {RECONNECTIONS + 1} times as long as the first two, {longest:g} s in all, and "
            "the others stop waiting for it before; lower them, or raise the last"
        )
    if rollout.engine == "vllm_server" and not fitting_logprobs(sampling):
        problems += [
            f"rollout.engine=vllm_server, reward.terms.{name}: needs sampler log-probabilities, "
            f"and at rollout.sampling.temperature={sampling.temperature} vLLM reports none of the "
            "whole distribution; use temperature 1, or rollout=local"
            for name in rewards.needing("logprobs")
        ]
    if rollout.engine == "vllm_colocated" and not fitting_logprobs(sampling):
        problems.append(
            f"rollout.engine=vllm_colocated, rollout.sampling.temperature={sampling.temperature}: "
            "vLLM reports no log-probabilities of the whole distribution there; use temperature 1, "
            "or rollout.sampling.top_k=0 and rollout.sampling.top_p=1"
        )
    return problems


def _missing_parts(config: TrainConfig) -> list[str]:
    """What the method needs that is not here, in at most one line."""
    if config.method is None or not config.method.requires:
        return []
    missing = " and ".join(PARTS[part] for part in config.method.requires)
    return [
        f"method={config.method.name}: it needs {missing}, which no training here has yet; choose "
        "another method, or train what is here of it with method.requires=[]"
    ]


def _part_problems(config: TrainConfig) -> list[str]:
    """Why the loss or the advantage rule cannot be built."""
    problems: list[str] = []
    for build in (lambda: build_loss(config.loss), lambda: build_advantage(config.advantage)):
        try:
            build()
        except ConfigError as error:
            problems += error.problems
    return problems


def _reference_problems(config: TrainConfig) -> list[str]:
    """Why a reference that shall follow the policy cannot."""
    every = config.grpo.reference_sync_every
    if every is None:
        return []
    weight = config.loss.kl_weight
    if not config.loss.has_reference:
        return [
            f"grpo.reference_sync_every={every}, loss.kl_weight={weight}: there is no reference; "
            "raise the weight, or leave grpo.reference_sync_every=null"
        ]
    if config.model.lora is not None:
        return [
            f"grpo.reference_sync_every={every}, model.lora: the reference is the policy without "
            "its adapters and cannot move; use model.lora=null, or grpo.reference_sync_every=null"
        ]
    return []

"""Rules that tie several configuration keys together, checked before a model loads."""

from __future__ import annotations

from vqr1.config import TrainConfig
from vqr1.config.training import PARTS
from vqr1.distributed.hardware import hardware_problems, share_of_step, share_problem, this_machine
from vqr1.errors import ConfigError
from vqr1.evaluation.metrics import metrics_of, monitored
from vqr1.inference.mode_checks import level_problems
from vqr1.policy.quantization import quantization_problems, rollout_problems
from vqr1.rewards import WeightedRewards
from vqr1.student.files import is_student
from vqr1.tracking.other_loggers import logger_problems
from vqr1.training.engine_checks import engine_problems
from vqr1.training.stages import build_stage

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
    if is_student(config.model):
        problems.append(
            f"model.path={config.model.path}: a student (stage=distill), which is not trained "
            "further and is no teacher; give its teacher"
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
    problems += _dtype_problems(config) + _rate_problems(config)
    problems += quantization_problems(config.model, config.hardware, trains=True)
    problems += rollout_problems(config.model, config.rollout)
    problems += engine_problems(config) + _validation_problems(config)
    problems += _metric_problems(config)
    if not problems and config.hardware.accelerator == "gpu":
        # The planner imports transformers, for which a sweep's parent does not wait.
        from vqr1.training.memory_check import check_memory

        # Of a configuration that is right otherwise: it is planned as it will run.
        problems = check_memory(config)
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
    if config.validation.questions is not None and config.rollout.engine != "local":
        problems.append(
            f"validation.questions={config.validation.questions}, "
            f"rollout.engine={config.rollout.engine}: this engine is given one prompt for all "
            "images; use rollout=local, or evaluate the exported model with questions=FILE"
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


def _rate_problems(config: TrainConfig) -> list[str]:
    """Why a learning rate is of nothing."""
    model, rate = config.model, config.optimizer.lr_connector
    frozen = model.freeze_vision is True or (model.lora is not None and not model.freeze_vision)
    if rate is None or not frozen:
        return []
    return [
        f"optimizer.lr_connector={rate}: the merger or projector does not train "
        f"(model.freeze_vision={model.freeze_vision}, "
        f"model.lora={'null' if model.lora is None else 'adapters'}); set it to null, or "
        "model.freeze_vision=tower"
    ]


def _missing_parts(config: TrainConfig) -> list[str]:
    """What the method needs that is not here, in at most one line."""
    if config.method is None or not config.method.requires:
        return []
    missing = " and ".join(PARTS[part] for part in config.method.requires)
    return [
        f"method={config.method.name}: it needs {missing}, which no training here has yet; choose "
        "another method, or train what is here of it with method.requires=[]"
    ]

"""Rules of auxiliary tasks that can be seen in a configuration alone.

Not here: what their sets' labels have to hold (`vqr1.data.tasks`).
"""

from __future__ import annotations

from collections.abc import Mapping

from vqr1.config import TaskConfig, TrainConfig
from vqr1.data.tasks import TaskData, build_task_data
from vqr1.errors import ConfigError
from vqr1.rewards import WeightedRewards
from vqr1.rewards.base import Need
from vqr1.rewards.build import build_rewards
from vqr1.training.advantages import build_advantage
from vqr1.training.advantages.base import fields_of, terms_of
from vqr1.training.losses import build_loss
from vqr1.training.token_fields import RESPONSE

_UNKNOWN: tuple[Need, ...] = ("mos_std", "reference", "attributes")
"""What items have no value of."""


def task_problems(config: TrainConfig) -> list[str]:
    """Rules that the auxiliary tasks of a training break, one line each."""
    tasks = config.tasks
    if not tasks:
        return []
    problems = _share_problems(tasks)
    if config.rollout.engine != "local":
        problems.append(
            f"tasks={'+'.join(tasks)}, rollout.engine={config.rollout.engine}: this engine is "
            "given one prompt for all images; use rollout=local, or train without tasks"
        )
    for name, task in tasks.items():
        key = f"tasks.{name}"
        try:
            data, rewards = build_task_data(task, key), build_rewards(task.reward, f"{key}.reward")
        except ConfigError as error:
            problems += error.problems
            continue
        problems += data.problems(f"{key}.data")
        if data.images != task.prompt.images:
            problems.append(
                f"{key}.prompt.images={task.prompt.images}: its data have {data.images} images an "
                f"item; set it to {data.images}, and {key}.prompt.text to match"
            )
        problems += _reward_problems(key, rewards, data)
        problems += _credit_problems(config, key, task, rewards)
    return problems


def _share_problems(tasks: Mapping[str, TaskConfig]) -> list[str]:
    total = sum(task.share for task in tasks.values())
    if total <= 1 + 1e-9:
        return []
    listed = ", ".join(f"tasks.{name}.share={task.share:g}" for name, task in tasks.items())
    return [f"{listed}: together {total:g}; shares of the steps must sum to 1 at most, lower them"]


def _reward_problems(key: str, rewards: WeightedRewards, data: TaskData) -> list[str]:
    """Terms that compare images, or look at what the items do not have."""
    problems = [
        f"{key}.reward.terms.{name}: it compares the scores of images, and a task asks for none; "
        "choose a reward of each response by itself"
        for name, (_, reward) in rewards.terms.items()
        if reward.ranks or name in rewards.absolute
    ]
    have = ", ".join(sorted(data.columns))
    needed: list[tuple[str, str]] = [
        (need, name) for need in _UNKNOWN for name in rewards.needing(need)
    ]
    if "distortion" not in data.columns:
        needed += [("distortion", name) for name in rewards.needing("distortion")]
    needed += [
        (column, name)
        for column, names in rewards.label_columns().items()
        if column not in data.columns
        for name in names
    ]
    return problems + [
        f"{key}.reward.terms.{name}: it needs {what}, and the task's items state {have}; choose "
        f"another reward, or other data ({key}.data)"
        for what, name in needed
    ]


def _credit_problems(
    config: TrainConfig, key: str, task: TaskConfig, rewards: WeightedRewards
) -> list[str]:
    """What the advantage rule and the loss look at, and the task does not have."""
    try:
        rule, loss = build_advantage(config.advantage), build_loss(config.loss)
    except ConfigError:
        return []  # reported of the ranked task
    fields = (RESPONSE, *task.answer.form.fields)
    strange = [field for field in (*fields_of(rule), *loss.fields) if field not in fields]
    missing = [term for term in terms_of(rule) or () if term not in rewards.terms]
    problems = []
    if strange or missing:
        problems.append(
            f"{key}: advantage and loss look at {', '.join(dict.fromkeys([*missing, *strange]))}, "
            "which its reward and its answer do not have; use a rule of the whole response, such "
            "as advantage=group_normalised"
        )
    return problems

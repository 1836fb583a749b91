"""Keys of auxiliary tasks, which are mixed into a training (`tasks`, `conf/tasks`)."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from vqr1.config.answer import AnyAnswer
from vqr1.config.data import AnyDataset
from vqr1.config.model import PromptConfig
from vqr1.config.targets import arguments_apart
from vqr1.config.types import STRICT_KEYS

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(config=STRICT_KEYS, kw_only=True)
class RewardConfig:
    """Weighted sum of reward terms."""

    terms: dict[str, dict[str, Any]]
    """Terms by name: each has `_target_` (a class of `vqr1.rewards` or your own), `weight`, and the
    class's own arguments."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class TaskDataConfig:
    """What a task asks about, and what is right."""

    target: Annotated[str, Field(alias="_target_")]
    """Class of the task's data, a subclass of `vqr1.data.tasks.TaskData`."""
    arguments: dict[str, Any]
    """The class's arguments, which it checks itself."""


@dataclass(config=STRICT_KEYS, kw_only=True)
class TaskConfig:
    """One auxiliary task: a step of it has a prompt, an answer form and rewards of its own."""

    share: Annotated[float, Field(gt=0, le=1)]
    """Share of the steps that train this task. What the tasks leave of 1 ranks images, as without
    tasks."""
    dataset: AnyDataset | None = None
    """Set or mixture that the task draws its images from; null: those of the training."""
    prompt: PromptConfig
    """What is asked; its number of images is that of `data`."""
    answer: AnyAnswer
    """How a response has to be written."""
    reward: RewardConfig
    """What a response earns; terms cannot compare images of a step."""
    data: Annotated[TaskDataConfig, arguments_apart()]
    """Images and what is right about them, from the labels of the set."""


def _named(tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
    for name in tasks:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no name of a task: it must be small letters, digits and _"
            )
    return tasks


Tasks = Annotated[dict[str, TaskConfig], AfterValidator(_named)]
"""Auxiliary tasks by name."""

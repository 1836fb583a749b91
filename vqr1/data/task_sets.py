"""Auxiliary tasks of a training with their sets opened, as what batches are planned and made of.

A task's items of one set are one more part of the plan of batches, named `task:set`, beside the
sets that are ranked: so a step holds one task, and which is drawn, dealt to processes and resumed
as sets are.

Not here: what items are (`vqr1.data.tasks`), the order of batches (`ranking_batches.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from vqr1.config import MixtureConfig, TaskConfig
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split
from vqr1.data.opened_sets import open_sets
from vqr1.data.prompts import AskedTask, ImageSource
from vqr1.data.questions import Question
from vqr1.data.ranking_images import SetImages
from vqr1.data.tasks import Item, TaskData, build_task_data
from vqr1.data.tasks.base import item_rows, subset

_MARK = ":"


def part_name(task: str, dataset: str) -> str:
    """Name of a task's items of a set among the parts of a plan."""
    return f"{task}{_MARK}{dataset}" if task else dataset


def is_task(part: str) -> bool:
    """Whether a part of a plan is that of an auxiliary task."""
    return _MARK in part


@dataclass(frozen=True)
class TaskSource:
    """What a task is opened from.

    Attributes:
        config: the task's.
        prompts: makes its prompts.
    """

    config: TaskConfig
    prompts: ImageSource


@dataclass(frozen=True)
class TaskSets:
    """One task, opened.

    Attributes:
        name: of the task.
        source: what it was opened from.
        data: makes its items.
        sets: where they come from, by name.
        seed: of all draws.
    """

    name: str
    source: TaskSource
    data: TaskData
    sets: Mapping[str, LabelledSet]
    seed: int

    @property
    def key(self) -> str:
        """Dotted key of the task."""
        return f"tasks.{self.name}"

    @property
    def share(self) -> float:
        """Of the steps."""
        return self.source.config.share

    @property
    def own_sets(self) -> dict[str, LabelledSet]:
        """By part name, its sets where they are not those of the training."""
        if self.source.config.dataset is None:
            return {}
        return {part_name(self.name, name): labelled for name, labelled in self.sets.items()}

    @property
    def weights(self) -> Mapping[str, float] | None:
        """Relative shares of its own sets; None: those of the training, or by their sizes."""
        own = self.source.config.dataset
        return own.weights if isinstance(own, MixtureConfig) else None

    def items(self, split: Split) -> dict[str, list[Item]]:
        """By set, the items of a split; sets without any are not in it."""
        key = f"{self.key}.data"
        found = {
            name: self.data.items(labelled, split, self.seed, key)
            for name, labelled in self.sets.items()
        }
        return {name: items for name, items in found.items() if items}

    def questions(self, split: Split, most: int | None) -> dict[str, list[Question]]:
        """By set, at most so many items of a split as questions (`Question.images` as in items)."""
        text = self.source.config.prompt.text
        return {
            name: [
                replace(question, groups={"task": self.name, **question.groups})
                for number, item in enumerate(subset(items, most, self.seed), 1)
                for question in [self.data.question(item, text, f"{self.name}: item {number}")]
            ]
            for name, items in self.items(split).items()
        }

    @cached_property
    def parts(self) -> dict[str, SetImages]:
        """The training items by part name.

        Raises:
            ConfigError, DataError: the labels do not hold what the task asks for.
        """
        asked = AskedTask(self.name, self.source.prompts)
        return {
            part_name(self.name, name): SetImages(
                self.sets[name],
                item_rows(items),
                torch.zeros(len(items), dtype=torch.uint8).share_memory_(),
                task=asked,
            )
            for name, items in self.items("train").items()
        }

    def __str__(self) -> str:
        items = ", ".join(f"{len(part)} of {part.name}" for part in self.parts.values())
        return f"share {self.share:g}, items: {items}"


def open_tasks(
    sources: Mapping[str, TaskSource], sets: Mapping[str, LabelledSet], seed: int
) -> dict[str, TaskSets]:
    """The tasks of a training.

    Args:
        sources: by name.
        sets: of the training, for tasks without sets of their own.
        seed: of all draws.

    Raises:
        ConfigError, DataError: as `vqr1.data.opened_sets.open_sets`.
    """
    found = {}
    for name, source in sources.items():
        key, own = f"tasks.{name}", source.config.dataset
        opened = sets if own is None else open_sets(own, key=f"{key}.dataset")
        found[name] = TaskSets(name, source, build_task_data(source.config, key), opened, seed)
    return found

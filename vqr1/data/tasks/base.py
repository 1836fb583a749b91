"""What a task's data are: items of one to four images, and words that are right about them.

An item is a row as those of a labelled set's table, so that everything that loads, orders and
labels rows serves tasks too; `further` holds the words that rewards compare answers with, and
`damage` what is done to its images after they are resized.

Data of a task of your own need no change here: a subclass of `TaskData`, named by `_target_` in a
YAML file under `conf/tasks/`, whose further keys are its arguments.

Not here: prompts, rewards and shares (`vqr1.config.tasks`), batches (`ranking_images.py`).
"""

from __future__ import annotations

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from vqr1.config.targets import build_target
from vqr1.config.tasks import TaskConfig
from vqr1.data.degraded import Damage
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split
from vqr1.data.questions import Question
from vqr1.errors import ConfigError
from vqr1.row_names import row_name


@dataclass(frozen=True)
class Item:
    """What a task asks once.

    Attributes:
        images: paths in the prompt's order, relative to the set's image root.
        words: what is right, by label column.
        distortion: likewise the kind of distortion; None where the task is about none.
        damage: what is done to the images; None leaves them as they are.
        name: of the item; None: after its images.
    """

    images: tuple[str, ...]
    words: Mapping[str, str]
    distortion: str | None = None
    damage: Damage | None = None
    name: str | None = None


class TaskData(ABC):
    """The data of one task; its arguments are the YAML file's further keys."""

    columns: frozenset[str]
    """Label columns that every item has, `distortion` among them where it has one."""

    @property
    @abstractmethod
    def images(self) -> int:
        """Images of one item."""

    @abstractmethod
    def items(self, labelled: LabelledSet, split: Split, seed: int, key: str) -> list[Item]:
        """The items of one split of a set, in its order; the same for the same seed.

        Args:
            labelled: the set.
            split: whose images are asked about, and no others.
            seed: of all draws.
            key: dotted key of these data, for messages.

        Raises:
            ConfigError, DataError: the labels do not hold what is asked for.
        """

    @abstractmethod
    def question(self, item: Item, text: str, where: str) -> Question:
        """An item as a question, by which answers to it are evaluated.

        Args:
            item: of `items`.
            text: the task's prompt.
            where: names the item in messages.
        """

    def problems(self, key: str) -> list[str]:
        """Rules that the arguments break, one line each.

        Args:
            key: dotted key of these data.
        """
        return []


def build_task_data(config: TaskConfig, key: str) -> TaskData:
    """The data that a task names.

    Args:
        config: the task's.
        key: its dotted key.

    Raises:
        ConfigError: there is no such class, it is no data of a task, or refuses an argument.
    """
    built = build_target(f"{key}.data", config.data.target, config.data.arguments)
    if not isinstance(built, TaskData):
        raise ConfigError(
            [
                f"{key}.data._target_={config.data.target}: it is no subclass of "
                "vqr1.data.tasks.TaskData"
            ]
        )
    return built


def item_rows(items: Sequence[Item]) -> pd.DataFrame:
    """Items as rows of a labelled set's table, without MOS, and their damage in one more column."""
    none = [math.nan] * len(items)
    return pd.DataFrame(
        {
            "images": pd.Series([item.images for item in items], dtype=object),
            "image": [item.name or row_name(item.images) for item in items],
            "mos_scaled": none,
            "std_scaled": none,
            "reference": pd.Series([None] * len(items), dtype=object),
            "distortion": pd.Series([item.distortion for item in items], dtype=object),
            "further": pd.Series([dict(item.words) for item in items], dtype=object),
            "damage": pd.Series([item.damage for item in items], dtype=object),
        }
    )


def drawn_number(*key: object) -> int:
    """A number below 2^63 that a key always gives."""
    digest = hashlib.sha256(":".join(map(str, key)).encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:8]) >> 1


def subset(items: Sequence[Item], count: int | None, seed: int) -> list[Item]:
    """At most so many of the items, drawn by hash, in their order."""
    if count is None or len(items) <= count:
        return list(items)
    order = sorted(range(len(items)), key=lambda n: drawn_number(seed, "subset", items[n].images))
    return [items[n] for n in sorted(order[:count])]

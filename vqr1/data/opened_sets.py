"""The sets of a configuration, opened: one, or those of a mixture by name.

Not here: how one set is read (`labelled_set.py`), and their batches (`datamodule.py`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from vqr1.config import DatasetConfig, MixtureConfig
from vqr1.data.labelled_set import LabelledSet, open_dataset
from vqr1.data.split_duplicates import without_near_duplicates
from vqr1.data.unlabelled import mention_unlabelled
from vqr1.distributed.collectives import get_rank
from vqr1.errors import ConfigError


def open_sets(
    dataset: DatasetConfig | MixtureConfig, *, compared: bool = True, key: str = "dataset"
) -> dict[str, LabelledSet]:
    """Open the set, or all sets of a mixture, by name.

    Args:
        dataset: the set or the mixture.
        compared: with `split.near_duplicates`, images of different splits are compared. Nobody
            needs it who trains on none of them.
        key: its dotted configuration key.

    Raises:
        ConfigError: a mixture is empty or holds a set twice, or a key does not fit its set; all
            splits' problems together.
        DataError: labels or images are not as their format states, or near-identical images lie in
            two splits and are refused.
    """
    sets = _opened(dataset, key)
    if get_rank() == 0:
        for labelled in sets.values():
            mention_unlabelled(labelled)
    if not compared:
        return sets
    return without_near_duplicates(sets, shown=get_rank() == 0)


def _opened(dataset: DatasetConfig | MixtureConfig, key: str) -> dict[str, LabelledSet]:
    if isinstance(dataset, DatasetConfig):
        return {dataset.set_name: open_dataset(dataset, key)}
    if not dataset.parts:
        raise ConfigError([f"{key}.parts={{}}: a mixture needs at least one set"])
    _check_distinct(dataset.parts, key)
    sets: dict[str, LabelledSet] = {}
    problems: list[str] = []
    for name, part in dataset.parts.items():
        try:
            sets[name] = open_dataset(part, f"{key}.parts.{name}", name)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return sets


def _check_distinct(parts: Mapping[str, DatasetConfig], key: str) -> None:
    seen: dict[tuple[object, ...], str] = {}
    for name, part in parts.items():
        root = None if part.root is None else Path(os.path.expanduser(part.root)).resolve()
        identity = (part.name, root, part.path, part.label_file, part.select)
        if root is None and part.path is None and part.name != "demo":
            continue  # reported as a missing root
        if identity in seen:
            raise ConfigError(
                [
                    f"{key}.parts.{name}: the same set as {key}.parts.{seen[identity]} "
                    f"({part.name}, root {part.root}); list it once, and give it more batches with "
                    f"{key}.weights"
                ]
            )
        seen[identity] = name

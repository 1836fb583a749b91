"""The predictions of an evaluation on disk: partial files of its ranks, and the finished file.

Not here: how partial files are written and resumed (`vqr1.inference.resume`), and what a row holds
(`prediction_file.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vqr1.durable import make_folder, write_file
from vqr1.errors import ConfigError, DataError
from vqr1.evaluation.labels import relabelled, same_labels
from vqr1.evaluation.prediction_file import read_predictions, write_predictions
from vqr1.evaluation.predictions import NOTHING, Predictions, concatenate
from vqr1.inference import resume
from vqr1.inference.resume import Partials, cut_to_committed, table_order

SETTINGS = "evaluation.json"

Key = tuple[str, str]
"""Data set and image name."""


@dataclass(frozen=True)
class PlannedBatch:
    """One batch of an evaluation.

    Attributes:
        dataset: its data set.
        images: names of its images, in table order.
    """

    dataset: str
    images: tuple[str, ...]

    @property
    def keys(self) -> tuple[Key, ...]:
        """Data set and name of each image."""
        return tuple((self.dataset, image) for image in self.images)


def finished_file(run_dir: Path) -> Path | None:
    """The finished predictions of a run directory, or None."""
    for name in ("predictions.csv", "predictions.parquet"):
        if (run_dir / name).is_file():
            return run_dir / name
    return None


def partials(run_dir: Path) -> Partials:
    """The partial files of a run directory."""
    return Partials(run_dir, "predictions.partial-", ".csv")


def check_settings(run_dir: Path, settings: Mapping[str, Any]) -> None:
    """Remember what decides the answers, or compare with what an earlier start remembered.

    Args:
        run_dir: the evaluation's folder.
        settings: plain values by dotted key.

    Raises:
        ConfigError: an evaluation with other settings lies there; names every key.
    """
    path = run_dir / SETTINGS
    if not path.exists():
        make_folder(run_dir, above=True)
        write_file(path, json.dumps(settings, indent=2) + "\n")
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    if not saved.keys() & settings.keys():
        # Of a model, of a file of predictions, a comparison: they have no settings in common.
        raise ConfigError(
            [
                f"run_dir={str(run_dir)!r}: the evaluation there is one of another kind; choose "
                "another run_dir"
            ]
        )
    begun = f"the evaluation in run_dir={str(run_dir)!r} was started"
    resume.check_settings(saved, settings, begun, ", or choose another run_dir")


def read_partials(run_dir: Path) -> Predictions | None:
    """Everything that was committed so far; None if nothing was. Nobody may be writing."""
    parts = []
    for path in partials(run_dir).all():
        cut_to_committed(path)
        # A file of the head line only, or of nothing, holds no batch yet.
        with path.open(encoding="utf-8") as file:
            lines = sum(1 for _, line in zip(range(2), file, strict=False) if line)
        if lines == 2:
            parts.append(read_predictions(path))
    return concatenate(parts) if parts else None


def remaining(plan: Sequence[PlannedBatch], done: Predictions | None) -> list[int]:
    """Numbers of the batches that nobody has scored."""
    known = set() if done is None else set(_keys(done))
    return resume.remaining([batch.keys for batch in plan], known)


def merge(run_dir: Path, plan: Sequence[PlannedBatch], suffix: str) -> Predictions:
    """Turn the partial files into the finished one.

    Args:
        run_dir: the evaluation's folder.
        plan: all batches; their order becomes the order of the rows.
        suffix: `.csv` or `.parquet`.

    Raises:
        ConfigError: the folder holds rows of images that are not in the plan.
        DataError: nothing was scored.
        RuntimeError: an image was scored twice.
    """
    scored = read_partials(run_dir)
    if scored is None:
        raise DataError(NOTHING)
    planned = [batch.keys for batch in plan]
    known = {key for keys in planned for key in keys}
    strange = [image for name, image in _keys(scored) if (name, image) not in known]
    if strange:
        raise ConfigError(
            [
                f"run_dir={str(run_dir)!r}: {len(strange)} images were scored there that are not "
                f"among those asked for, the first is {strange[0]}; choose another run_dir"
            ]
        )
    try:
        order = table_order(planned, _keys(scored))
    except ValueError as error:
        raise RuntimeError(f"{run_dir}: {error}") from error
    merged = scored.rows(np.array(order, dtype=np.int64))
    write_predictions(merged, run_dir / f"predictions{suffix}")
    partials(run_dir).remove()
    return merged


def with_present_labels(
    run_dir: Path, predictions: Predictions, tables: Mapping[str, pd.DataFrame]
) -> Predictions:
    """The finished predictions with the labels that their sets have now.

    Answers do not depend on labels, so an evaluation may be continued or repeated with other ones;
    the finished file is written again where it holds others.

    Args:
        run_dir: the evaluation's folder, which holds a finished file.
        predictions: what that file holds.
        tables: the sets' label tables, by name.

    Raises:
        DataError: a scored image without a label now.
    """
    present = relabelled(predictions, tables)
    finished = finished_file(run_dir)
    if finished is not None and not same_labels(predictions, present):
        write_predictions(present, finished)
    return present


def plan_digest(plan: Sequence[PlannedBatch], dataset: str) -> str:
    """SHA-256 over the names of a set's planned images, in order."""
    names = [image for batch in plan if batch.dataset == dataset for image in batch.images]
    return hashlib.sha256(json.dumps([dataset, names]).encode()).hexdigest()


def _keys(predictions: Predictions) -> list[Key]:
    return list(zip(predictions.datasets, predictions.images, strict=True))

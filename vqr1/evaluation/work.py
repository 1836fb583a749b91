"""What is left to score, and putting the shares together: continuing and sharing out evaluations.

What it does: batches are planned once for a whole evaluation, in table order. Every process appends
the batches of its share to a partial file of its own. Whatever partial files an earlier, stopped
start left behind count as done, with any number of processes then and now. When all is done, the
rows are put into table order, each image exactly once, and become the finished file. The settings
that decide the answers are kept beside them: continuing with other settings is refused.

Since batches are planned the same way every time and an engine draws an image's answers from the
seed and the image alone, the figures do not depend on interruptions or on the number of processes.

What it leaves out: the processes themselves (`vqr1.evaluation.workers`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vqr1.config.earlier import changed_settings
from vqr1.errors import ConfigError
from vqr1.evaluation.prediction_file import read_predictions, write_predictions
from vqr1.evaluation.prediction_stream import committed_mark, cut_to_committed, replace_file
from vqr1.evaluation.predictions import Predictions, concatenate

SETTINGS = "evaluation.json"
_PARTIAL = "predictions.partial-"


@dataclass(frozen=True)
class PlannedBatch:
    """One batch of an evaluation.

    Attributes:
        dataset: its data set.
        images: names of its images, in table order.
    """

    dataset: str
    images: tuple[str, ...]


def finished_file(run_dir: Path) -> Path | None:
    """The finished predictions of a run directory, or None."""
    for name in ("predictions.csv", "predictions.parquet"):
        if (run_dir / name).is_file():
            return run_dir / name
    return None


def partial_file(run_dir: Path, rank: int) -> Path:
    """The file that process `rank` appends to."""
    return run_dir / f"{_PARTIAL}{rank}.csv"


def partial_files(run_dir: Path) -> list[Path]:
    """All partial files of a run directory."""
    return sorted(run_dir.glob(f"{_PARTIAL}*.csv"))


def check_settings(run_dir: Path, settings: Mapping[str, Any]) -> None:
    """Remember what decides the answers, or compare with what an earlier start remembered.

    Args:
        run_dir: the evaluation's folder.
        settings: plain values by dotted key.

    Raises:
        ConfigError: an evaluation with other settings lies there; names every key.
    """
    path = run_dir / SETTINGS
    current = json.loads(json.dumps(settings))
    if not path.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        replace_file(path, json.dumps(current, indent=2) + "\n")
        return
    saved = json.loads(path.read_text(encoding="utf-8"))
    if not saved.keys() & current.keys():
        # Of a model, of a file of predictions, a comparison: they have no settings in common.
        raise ConfigError(
            [
                f"run_dir={str(run_dir)!r}: the evaluation there is one of another kind; choose "
                "another run_dir"
            ]
        )
    problems = [
        f"{problem}, or choose another run_dir"
        for problem in changed_settings(
            saved, current, f"the evaluation in run_dir={str(run_dir)!r} was started"
        )
    ]
    if problems:
        raise ConfigError(problems)


def read_partials(run_dir: Path) -> Predictions | None:
    """Everything that was committed so far; None if nothing was. Nobody may be writing."""
    parts = []
    for path in partial_files(run_dir):
        cut_to_committed(path)
        # A file of the head line only, or of nothing, holds no batch yet.
        with path.open(encoding="utf-8") as file:
            lines = sum(1 for _, line in zip(range(2), file, strict=False) if line)
        if lines == 2:
            parts.append(read_predictions(path))
    return concatenate(parts) if parts else None


def remaining(plan: Sequence[PlannedBatch], done: Predictions | None) -> list[int]:
    """Numbers of the batches that nobody has scored.

    A batch is committed as a whole, so one image of it is enough to know that it is done; images
    that do not decode are in no file.
    """
    if done is None:
        return list(range(len(plan)))
    known = set(zip(done.datasets, done.images, strict=True))
    return [
        number
        for number, batch in enumerate(plan)
        if not any((batch.dataset, image) in known for image in batch.images)
    ]


def merge(run_dir: Path, plan: Sequence[PlannedBatch], suffix: str) -> Predictions:
    """Turn the partial files into the finished one.

    Args:
        run_dir: the evaluation's folder.
        plan: all batches; their order becomes the order of the rows.
        suffix: `.csv` or `.parquet`.

    Raises:
        ConfigError: the folder holds rows of images that are not in the plan.
        RuntimeError: nothing was scored, or an image was scored twice.
    """
    scored = read_partials(run_dir)
    if scored is None:
        raise RuntimeError(f"{run_dir}: no image was scored")
    place = {
        (batch.dataset, image): number
        for number, (batch, image) in enumerate((b, i) for b in plan for i in b.images)
    }
    keys = list(zip(scored.datasets, scored.images, strict=True))
    if len(set(keys)) != len(keys):
        raise RuntimeError(f"{run_dir}: {len(keys) - len(set(keys))} images were scored twice")
    strange = [image for name, image in keys if (name, image) not in place]
    if strange:
        raise ConfigError(
            [
                f"run_dir={str(run_dir)!r}: {len(strange)} images were scored there that are not "
                f"among those asked for, the first is {strange[0]}; choose another run_dir"
            ]
        )
    order = np.argsort([place[key] for key in keys], kind="stable")
    merged = scored.rows(order)
    write_predictions(merged, run_dir / f"predictions{suffix}")
    remove_partials(run_dir)
    return merged


def remove_partials(run_dir: Path) -> None:
    """Delete partial files, whose rows the finished file holds."""
    for path in partial_files(run_dir):
        path.unlink()
        committed_mark(path).unlink(missing_ok=True)


def plan_digest(plan: Sequence[PlannedBatch], dataset: str) -> str:
    """SHA-256 over the names of a set's planned images, in order."""
    names = [image for batch in plan if batch.dataset == dataset for image in batch.images]
    return hashlib.sha256(json.dumps([dataset, names]).encode()).hexdigest()


def shares(numbers: Sequence[int], processes: int) -> list[list[int]]:
    """Batch numbers dealt in turn to processes."""
    return [list(numbers[rank::processes]) for rank in range(processes)]


def image_count(plan: Sequence[PlannedBatch], numbers: Iterable[int]) -> int:
    """Images in some batches of a plan."""
    return sum(len(plan[number].images) for number in numbers)

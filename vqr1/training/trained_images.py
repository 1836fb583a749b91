"""The record that a training leaves of its images (`vqr1.data.image_record`)."""

from __future__ import annotations

from pathlib import Path

from vqr1.config import TrainConfig
from vqr1.data.datamodule import RankingDataModule
from vqr1.data.image_record import (
    EXPORTS,
    RecordedImage,
    copy_record,
    read_record,
    record_of_model,
    recorded_images,
    write_record,
)
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split
from vqr1.evaluation.trained_on import TrainedOn, TrainingImages
from vqr1.training.resume import Run


def record_training_images(config: TrainConfig, data: RankingDataModule, run: Run) -> None:
    """Write the record of a run's training and validation images, and of its base model's.

    A resumed run keeps what it has; where other data were forced upon it, theirs are added.

    Raises:
        DataError: the record of the run, or of its base model, is damaged.
    """
    # What a start that failed has left may be of other images.
    before = read_record(run.run_dir) if run.resumed else None
    if before is not None and not run.changes:
        return
    limits: tuple[tuple[Split, int | None], ...] = (
        ("train", None),
        ("val", config.validation.max_images),
    )
    images = [
        (labelled.config.name, split, name, file)
        for labelled in data.learnt_sets.values()
        for split, limit in limits
        for name, file in _files(labelled, split, limit).items()
    ]
    unhashed = {
        labelled.config.name
        for labelled in data.learnt_sets.values()
        if labelled.config.split.near_duplicates == "ignore"
    }
    base = record_of_model(config.model.path) or []
    # The base model's validation images have chosen nothing of this run's.
    learnt: list[RecordedImage] = [image for image in base if image.split == "train"]
    recorded = recorded_images(images, unhashed, shown=True)
    write_record(run.run_dir, [*(before or []), *recorded, *learnt])


def trained_test_images(data: RankingDataModule, run_dir: Path) -> dict[str, TrainedOn]:
    """By set, how many of its test images the record of a run holds: copies, under any name.

    Raises:
        DataError: the record is damaged.
    """
    training = TrainingImages(read_record(run_dir) or [])
    return {
        name: training.seen(
            labelled.config.name,
            _files(labelled, "test"),
            hashed=labelled.config.split.near_duplicates != "ignore",
        )
        for name, labelled in data.sets.items()
    }


def add_to_exports(run_dir: Path) -> None:
    """Put the record of a run beside the weights that it has exported."""
    for name in EXPORTS:
        copy_record(run_dir, run_dir / name)


def _files(labelled: LabelledSet, split: Split, limit: int | None = None) -> dict[str, Path]:
    """File of each image of a split by its name in the set."""
    return labelled.own_files(labelled.rows(split, limit).index)

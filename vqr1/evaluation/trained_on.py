"""Which of an evaluation's images a model was trained on.

What it does: compares evaluated images with the record that a training leaves of its own
(`vqr1.data.image_record`), by the content of their files and by name.

    trained    the file's bytes are those of a training image, whatever its name
    renamed    of those, under a name that the training did not have
    chosen     the file's bytes are those of a validation image, which chose the exported step
    near       other bytes, near-identical to a training image by perceptual hash: re-encoded,
               resized, slightly cropped, or another version of the same photograph; not counted as
               trained on
    name_only  the name of a training image of the same set, other bytes, and not near

With `dataset.split.near_duplicates=exclude` an evaluation is without images that are trained,
chosen or near; with `refuse` it does not start.

Not here: images that one run's own splits share (`vqr1.data.split_duplicates`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqr1.data.image_record import (
    RecordedImage,
    file_digest,
    file_size,
    name_digest,
    record_of_model,
)
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.labels import Split
from vqr1.data.near_duplicates import image_hashes, near_pairs
from vqr1.data.split_duplicates import ACTING, act_on, without_rows


@dataclass(frozen=True)
class TrainedOn:
    """How many of a set's evaluated images a training has seen; the counts are explained above.

    Attributes:
        images: evaluated images.
        trained: those trained on.
        renamed: of those, under another name.
        chosen: those that chose the exported step.
        name_only: those of which only the name is a training image's.
        near: those near-identical to a training image, with other bytes.
    """

    images: int
    trained: int
    renamed: int = 0
    chosen: int = 0
    name_only: int = 0
    near: int = 0

    def sentences(self) -> list[str]:
        """What stands beside the set's metrics; nothing where no image was seen."""
        found = []
        if self.trained:
            renamed = f", {self.renamed} of them under another name" if self.renamed else ""
            found.append(
                f"the model was trained on {self.trained} of these {self.images} images (the same "
                f"files, by SHA-256{renamed})"
            )
        if self.chosen:
            found.append(
                f"{self.chosen} of these {self.images} images are the validation images that chose "
                "the exported step"
            )
        if self.near:
            found.append(
                f"{self.near} of these {self.images} images are near-identical to training images "
                "(perceptual hash)"
            )
        if self.name_only:
            found.append(
                f"{self.name_only} of these {self.images} images have the name of a training image "
                "and other bytes: other versions of it, perhaps"
            )
        return found

    def values(self) -> dict[str, int]:
        """Plain values for JSON."""
        return {
            "images": self.images,
            "trained": self.trained,
            "renamed": self.renamed,
            "validation": self.chosen,
            "name_only": self.name_only,
            "near_identical": self.near,
        }


class TrainingImages:
    """A training's images, to look others up.

    Args:
        recorded: what it left.
    """

    def __init__(self, recorded: Sequence[RecordedImage]) -> None:
        train = [image for image in recorded if image.split == "train"]
        self._train = {image.content for image in train if image.content}
        self._names = {image.name for image in train}
        self._chosen = {r.content for r in recorded if r.split == "val" and r.content}
        self._sizes = {image.size for image in recorded}
        self._hashes = sorted({i.perceptual_hash for i in train if i.perceptual_hash})

    def seen(self, dataset: str, images: Mapping[str, Path], *, hashed: bool = True) -> TrainedOn:
        """Count the images of one set that the training has seen.

        Args:
            dataset: name of the set's format (`kadid`, ...), as the training recorded it.
            images: file of each evaluated image by its name in the set.
            hashed: perceptual hashes are compared too, where the record holds any.
        """
        kinds = self._kinds(dataset, images, hashed)
        named = {name for name in images if name_digest(dataset, name) in self._names}
        trained = [name for name, kind in kinds.items() if kind == "trained"]
        near = {name for name, kind in kinds.items() if kind == "near"}
        return TrainedOn(
            len(images),
            len(trained),
            renamed=sum(name not in named for name in trained),
            chosen=sum(kind == "chosen" for kind in kinds.values()),
            name_only=len(named - near - set(trained)),
            near=len(near),
        )

    def known(self, dataset: str, images: Mapping[str, Path]) -> set[str]:
        """Names of the images that are trained, chosen or near; see `seen`."""
        return {name for name, kind in self._kinds(dataset, images, True).items() if kind}

    def _kinds(self, dataset: str, images: Mapping[str, Path], hashed: bool) -> dict[str, str]:
        """`trained`, `chosen`, `near` or nothing of each image, the first that fits."""
        kinds = {name: self._by_content(path) for name, path in images.items()}
        others = [name for name, kind in kinds.items() if not kind] if hashed else []
        if self._hashes and others:
            hashes = image_hashes([images[name] for name in others])
            for position in set(near_pairs(hashes, self._hashes)[:, 0].tolist()):
                kinds[others[position]] = "near"
        return kinds

    def _by_content(self, path: Path) -> str:
        # Only a file of an equal size can hold equal bytes: the others are not read.
        content = file_digest(path) if file_size(path) in self._sizes else ""
        if content in self._train:
            return "trained"
        return "chosen" if content in self._chosen else ""


def without_trained(
    sets: Mapping[str, LabelledSet], split: Split, model: str | None
) -> dict[str, LabelledSet]:
    """The sets without images that a model was trained on, where their configuration asks for it.

    Args:
        sets: those evaluated.
        split: the evaluated split.
        model: folder of the model; nothing is excluded where it has no record.

    Raises:
        DataError: a set with `split.near_duplicates=refuse` has such images, or the record is
            damaged.
    """
    acting = [s for s in sets.values() if s.config.split.near_duplicates in ACTING]
    recorded = record_of_model(model) if acting else None
    if recorded is None:
        return dict(sets)
    training = TrainingImages(recorded)
    found = dict(sets)
    for name, labelled in sets.items():
        if labelled.config.split.near_duplicates not in ACTING:
            continue
        rows: list[int] = []
        looked_at: set[int] = set()
        left = labelled
        while new := _known_rows(left, split, training, looked_at):
            rows += new
            # With `max_images` others take their place, which nobody has looked up yet.
            left = without_rows(labelled, rows)
        text = (
            f"{len(rows)} of {len(looked_at)} images of {name} are, or are near-identical to, "
            f"images that {model} was trained on or chosen by"
        )
        found[name] = act_on(labelled, rows, text)
    return found


def _known_rows(
    labelled: LabelledSet, split: Split, training: TrainingImages, looked_at: set[int]
) -> list[int]:
    """Rows of a split that a training has seen; without those looked at before, which are added."""
    part = labelled.rows(split)
    new = [int(row) for row in part.index if row not in looked_at]
    looked_at.update(new)
    known = training.known(labelled.config.name, labelled.own_files(new))
    return [row for row in new if not known.isdisjoint(part["own_images"][row])]

"""Which of an evaluation's images a model was trained on.

What it does: compares evaluated images with the record that a training leaves of its own
(`vqr1.data.image_record`), by the content of their files and by name.

    trained    the file's bytes are those of a training image, whatever its name
    renamed    of those, under a name that the training did not have
    chosen     the file's bytes are those of a validation image, which chose the exported step
    name_only  the name of a training image of the same set, other bytes: a resized or re-encoded
               copy, perhaps; not counted as trained on

Not here: copies of other bytes under other names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vqr1.data.image_record import RecordedImage, file_digest, file_size, name_digest


@dataclass(frozen=True)
class TrainedOn:
    """How many of a set's evaluated images a training has seen; the counts are explained above.

    Attributes:
        images: evaluated images.
        trained: those trained on.
        renamed: of those, under another name.
        chosen: those that chose the exported step.
        name_only: those of which only the name is a training image's.
    """

    images: int
    trained: int
    renamed: int = 0
    chosen: int = 0
    name_only: int = 0

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

    def seen(self, dataset: str, images: Mapping[str, Path]) -> TrainedOn:
        """Count the images of one set that the training has seen.

        Args:
            dataset: name of the set's format (`kadid`, ...), as the training recorded it.
            images: file of each evaluated image by its name in the set.
        """
        trained = renamed = chosen = name_only = 0
        for name, path in images.items():
            named = name_digest(dataset, name) in self._names
            # Only a file of an equal size can hold equal bytes: the others are not read.
            content = file_digest(path) if file_size(path) in self._sizes else ""
            if content in self._train:
                trained += 1
                renamed += not named
            else:
                chosen += content in self._chosen
                name_only += named
        return TrainedOn(len(images), trained, renamed, chosen, name_only)

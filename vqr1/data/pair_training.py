"""What a training on pairs takes of a set: its linked training images, their pairs and scores.

Only pairs of two training images (of the subset, where `max_images` draws one) are used; a training
image without any is not drawn. Pairs across splits are counted.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from vqr1.config import PairsConfig
from vqr1.data.fitted_scores import fitted
from vqr1.data.labelled_set import LabelledSet, scale_min_max
from vqr1.data.pair_batches import PairGraph
from vqr1.data.preference_file import read_pairs
from vqr1.errors import ConfigError, DataError
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.preferences import StatedPairs, groups_of


@dataclass(frozen=True)
class TrainingPairs:
    """The pairs that a training learns from.

    Attributes:
        rows: the training images that stand in one, under their numbers in the set's table.
        stated: the pairs, by row of the set's table.
        scores: [images] scores fitted to them, on [1, 5].
        graph: the pairs by position among `rows`.
        unlinked: training images without a pair among them.
        unused: pairs of the set with an image that is no training image.
        groups: groups of images that no pair connects with others.
    """

    rows: pd.DataFrame
    stated: StatedPairs
    scores: FloatArray
    graph: PairGraph
    unlinked: int
    unused: int
    groups: int

    def __str__(self) -> str:
        found = f"{len(self.stated)} pairs of {len(self.rows)} images"
        others = {
            "pairs with images outside the training split are not used": self.unused,
            "training images are in no pair and not drawn": self.unlinked,
            "groups of images are connected by no pair": self.groups if self.groups > 1 else 0,
        }
        return "; ".join([found, *(f"{count} {what}" for what, count in others.items() if count)])


def training_pairs(labelled: LabelledSet) -> TrainingPairs:
    """The training pairs of a set.

    Raises:
        ConfigError: the set has no file of pairs.
        DataError: no pair has both images in the training split, or all of them are equal.
    """
    if labelled.pairs is None:
        raise ConfigError(
            [
                f"target=pairs, {labelled.key}.pairs.file=None: name the file of pairs of "
                f"{labelled.name}, or train on its MOS (target=mos)"
            ]
        )
    train = labelled.rows("train")
    every = labelled.pairs.stated
    stated = every.within(train.index)
    if not len(stated):
        raise DataError(
            f"{labelled.key}.split: none of the {len(every)} pairs has both images in the training "
            "split"
        )
    linked, group = groups_of(stated)
    rows = train.loc[linked]
    places = np.full(len(labelled.table), -1)
    places[linked] = np.arange(len(linked))
    scores = scale_min_max(
        fitted(stated, linked, labelled.config), f"{labelled.key}.pairs: fitted scores"
    )
    return TrainingPairs(
        rows, stated, scores, PairGraph.of(stated.renumbered(places), len(linked)),
        len(train) - len(linked), len(every) - len(stated), int(group.max()) + 1,
    )  # fmt: skip


def drawn_pairs(labelled: LabelledSet, per_image: int, seed: int) -> TrainingPairs:
    """Random pairs of training images, on which nobody has voted yet.

    Each of `per_image / 2` drawn circles through all images pairs every image with its neighbours.

    Args:
        labelled: the set.
        per_image: pairs that an image is in, about; at least its number of partners: all pairs.
        seed: of the draw.

    Raises:
        DataError: fewer than two training images.
    """
    rows = labelled.rows("train")
    n = len(rows)
    if n < 2:
        raise DataError(f"{labelled.key}.split: target=self_vote needs two training images")
    if per_image >= n - 1:
        first, second = np.triu_indices(n, 1)
    else:
        rng = np.random.default_rng((seed, n, per_image))
        circles = [rng.permutation(n) for _ in range(-(-per_image // 2))]
        first = np.concatenate(circles)
        second = np.concatenate([np.roll(circle, -1) for circle in circles])
    none = np.zeros(len(first))
    places = StatedPairs.gather(first, second, none, none, none)
    numbers = rows.index.to_numpy()
    stated = replace(places, first=numbers[places.first], second=numbers[places.second])
    return TrainingPairs(rows, stated, np.zeros(n), PairGraph.of(places, n), 0, 0, 1)


def read_votes(file: Path, labelled: LabelledSet) -> StatedPairs:
    """The preferences of a file of votes, by row of the set's table.

    Raises:
        DataError: it is not as it was written.
    """
    pairs = PairsConfig(file=file.name, codes="probability", name_pattern="{}")
    config = replace(labelled.config, pairs=pairs)
    names = labelled.table["label_name"].tolist()
    found = read_pairs(config, file.parent, labelled.key, names)
    assert found is not None, "the configuration names a file"
    return found.stated


def voted(drawn: TrainingPairs, stated: StatedPairs, labelled: LabelledSet) -> TrainingPairs:
    """Drawn pairs with the votes on them; the order of batches stays that of the drawn ones.

    Args:
        drawn: as drawn.
        stated: the votes, by row of the set's table.
        labelled: the set.
    """
    scores = fitted(stated, drawn.rows.index.to_numpy(), labelled.config)
    return replace(drawn, stated=stated, scores=scale_min_max(scores, f"{labelled.key}: votes"))

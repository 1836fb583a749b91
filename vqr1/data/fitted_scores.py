"""Scores fitted to a set's pairs, where a number for each image is needed.

A set of pairs only gets them as its MOS when it is opened, and a training on pairs hands them to
the rewards that look at numbers. Each split is fitted by itself, to the pairs within it: no vote on
a test image decides a score that is trained on, or the other way round.

Not here: the models (`vqr1.iqa.preference_fit`).
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd

from vqr1.config import DatasetConfig
from vqr1.data.preference_file import read_pairs
from vqr1.errors import DataError
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.preference_fit import fit_scores
from vqr1.iqa.preferences import IntArray, StatedPairs, groups_of

logger = logging.getLogger(__name__)


def with_groups(labels: pd.DataFrame, config: DatasetConfig, root: Path, key: str) -> pd.DataFrame:
    """The labels with images that pairs connect as images of one reference.

    Args:
        labels: one row an image.
        config: the set, which has pairs.
        root: its folder.
        key: its dotted configuration key.
    """
    pairs = _stated(labels, config, root, key)
    rows, group = groups_of(pairs)
    reference = labels["reference"].copy()
    reference.iloc[rows] = [labels["image"].iat[int(rows[group == g][0])] for g in group]
    return labels.assign(reference=reference)


def with_fitted_scores(
    labels: pd.DataFrame, config: DatasetConfig, root: Path, key: str
) -> pd.DataFrame:
    """The labels with fitted scores as `mos`.

    An image without a pair within its own split leaves it.

    Args:
        labels: one row an image, with its split.
        config: the set, which has pairs.
        root: its folder.
        key: its dotted configuration key.

    Raises:
        DataError: no split has a pair.
    """
    pairs = _stated(labels, config, root, key)
    labels, used = labels.copy(), 0
    alone: list[str] = []
    for split in sorted(set(labels["split"].dropna())):
        rows = np.flatnonzero((labels["split"] == split).to_numpy())
        within = pairs.within(rows)
        used += len(within)
        linked, group = groups_of(within)
        labels.loc[labels.index[rows], "mos"] = fitted(pairs, rows, config)
        unlinked = np.setdiff1d(rows, linked)
        labels.loc[labels.index[unlinked], "split"] = None
        if len(unlinked):
            alone.append(f"{len(unlinked)} of {split}")
        if len(linked) and group.max():
            logger.warning(
                "%s.pairs: the pairs within %s leave %d groups of images unconnected; fitted "
                "scores compare inside a group only", key, split, int(group.max()) + 1,
            )  # fmt: skip
    if not used:
        raise DataError(f"{key}.split: no pair has both images in one split")
    if used < len(pairs):
        logger.warning(
            "%s.split: %d of %d pairs lie across splits and are not used",
            key, len(pairs) - used, len(pairs),
        )  # fmt: skip
    if alone:
        logger.warning(
            "%s.split: images without a pair within their split are in none: %s",
            key, ", ".join(alone),
        )  # fmt: skip
    return labels


def fitted(pairs: StatedPairs, rows: IntArray, config: DatasetConfig) -> FloatArray:
    """[r] scores of some rows, fitted to the pairs among them."""
    places = np.full(int(max(rows.max(initial=0), pairs.second.max(initial=0))) + 1, -1)
    places[rows] = np.arange(len(rows))
    return fit_scores(pairs.renumbered(places), len(rows), config.pairs.fit)


def _stated(labels: pd.DataFrame, config: DatasetConfig, root: Path, key: str) -> StatedPairs:
    found = read_pairs(config, root, key, labels["image"].tolist())
    assert found is not None, "the set's parser has read the file"
    return found.stated

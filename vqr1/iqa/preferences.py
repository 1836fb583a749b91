"""Stated preferences between pairs of images: one record, and what is counted of it.

A pair (i, j) of rows of one set has votes: for i, for j, and for "equal". Its preference is

    p(i, j) = (votes for i + half the votes for equal) / all votes        p(j, i) = 1 - p(i, j)

and its majority is i where p > 1/2, j where p < 1/2, else equal. A preference that was given as a
probability is one vote, divided.

Accuracy: the prediction of a pair is i where score_i - score_j > t, j where it is < -t, else equal
(t: the tie threshold). It earns 1 where it is the majority, else 1/2 where either of the two is
equal, else 0. Pairs whose majority is equal are counted so, or not at all (`TieRule`).

Cycles: three images of which each beats the next by majority (i over j over k over i): people who
are consistent leave none, whatever their scale. A drawn order of every triple gives 1 in 4.

Not here: files (`vqr1.data.preference_file`), scores fitted to preferences (`preference_fit.py`).

Shape legend: n images, m pairs.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from vqr1.iqa.correlation import FloatArray

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
HumanTies = Literal["half", "exclude"]
"""What a pair without a majority is to the accuracy: counted by the rule above, or excluded."""

DENSE_IMAGES = 4000
"""Most images whose triples are counted by dense matrices (two of 64 MB)."""
_SPARSE_PATHS = 30_000_000
"""Most paths of two steps whose ends are looked up one by one."""


@dataclass(frozen=True)
class TieRule:
    """How equal pairs are evaluated.

    Attributes:
        threshold: t, largest difference of scores that predicts "equal", at least 0.
        human: what pairs without a majority are.
    """

    threshold: float = 0.0
    human: HumanTies = "half"


@dataclass(frozen=True)
class StatedPairs:
    """Pairs of images of one set with their votes, each pair once.

    Attributes:
        first: [m] int64 row of i; rising, and of equal ones `second` rising.
        second: [m] int64 row of j, above `first`.
        wins: [m] float64 votes for i.
        losses: [m] float64 votes for j.
        equal: [m] float64 votes for "equal".
        rule: how equal pairs are evaluated.
    """

    first: IntArray
    second: IntArray
    wins: FloatArray
    losses: FloatArray
    equal: FloatArray
    rule: TieRule = TieRule()

    @classmethod
    def gather(
        cls,
        first: IntArray,
        second: IntArray,
        wins: FloatArray,
        losses: FloatArray,
        equal: FloatArray,
        *,
        rule: TieRule = TieRule(),
    ) -> StatedPairs:
        """Rows in any order and direction, the votes of one pair added up.

        Args:
            first: [rows] one image of each row.
            second: [rows] the other one, never the same.
            wins: [rows] votes for `first`.
            losses: [rows] votes for `second`.
            equal: [rows] votes for neither.
            rule: how equal pairs are evaluated.
        """
        turned = first > second
        low, high = np.where(turned, second, first), np.where(turned, first, second)
        up, down = np.where(turned, losses, wins), np.where(turned, wins, losses)
        keys, place = np.unique(_keys(low, high), return_inverse=True)
        votes = [
            np.bincount(place, part, minlength=len(keys)).astype(np.float64)
            for part in (up, down, equal)
        ]
        return cls(keys >> 32, keys & 0xFFFFFFFF, votes[0], votes[1], votes[2], rule)

    def __len__(self) -> int:
        return len(self.first)

    @property
    def votes(self) -> FloatArray:
        """[m] all votes."""
        return self.wins + self.losses + self.equal

    @property
    def preference(self) -> FloatArray:
        """[m] p(i, j) in [0, 1]."""
        return np.asarray((self.wins + 0.5 * self.equal) / self.votes)

    @property
    def majority(self) -> IntArray:
        """[m] 1 for i, -1 for j, 0 for equal."""
        return np.sign(self.wins - self.losses).astype(np.int64)

    def only(self, keep: BoolArray) -> StatedPairs:
        """The pairs that a mask [m] selects."""
        return replace(
            self,
            first=self.first[keep], second=self.second[keep], wins=self.wins[keep],
            losses=self.losses[keep], equal=self.equal[keep],
        )  # fmt: skip

    def within(self, rows: npt.ArrayLike) -> StatedPairs:
        """The pairs of which both images are among some rows."""
        wanted = np.asarray(rows, dtype=np.int64)
        return self.only(np.isin(self.first, wanted) & np.isin(self.second, wanted))

    def renumbered(self, places: IntArray) -> StatedPairs:
        """The same pairs of another table.

        Args:
            places: [rows of this table] row in the other one; -1: not there, and its pairs neither.
        """
        first, second = places[self.first], places[self.second]
        kept = self.only((first >= 0) & (second >= 0))
        return StatedPairs.gather(
            places[kept.first],
            places[kept.second],
            kept.wins,
            kept.losses,
            kept.equal,
            rule=self.rule,
        )

    def block(self, rows: IntArray) -> FloatArray:
        """[B, B] p(row b, row c) of B rows, which may repeat; NaN where nothing is stated."""
        low, high = np.minimum(*np.ix_(rows, rows)), np.maximum(*np.ix_(rows, rows))
        known = _keys(self.first, self.second)
        found = np.full(low.shape, np.nan)
        if len(known):
            asked = _keys(low, high)
            place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
            stated = known[place] == asked
            p = self.preference[place]
            forward = rows[:, None] < rows[None, :]
            found[stated] = np.where(forward, p, 1.0 - p)[stated]
        return found

    def digest(self) -> str:
        """SHA-256 of pairs and votes."""
        content = hashlib.sha256()
        for part in (self.first, self.second, self.wins, self.losses, self.equal):
            content.update(np.ascontiguousarray(part).tobytes())
        return content.hexdigest()


def _keys(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> IntArray:
    return (np.asarray(low, dtype=np.int64) << 32) | high


def pair_credits(difference: FloatArray, pairs: StatedPairs) -> tuple[FloatArray, BoolArray]:
    """What the predictions of pairs earn (module header).

    Args:
        difference: [m] score_i - score_j.
        pairs: the m pairs.

    Returns:
        [m] 0, 1/2 or 1; and [m] whether the pair is counted.
    """
    human, t = pairs.majority, pairs.rule.threshold
    predicted = np.where(np.abs(difference) <= t, 0, np.sign(difference))
    credit = 1.0 - 0.5 * np.abs(predicted - human)
    counted = human != 0 if pairs.rule.human == "exclude" else np.full(len(human), True)
    return credit, counted


@dataclass(frozen=True)
class Triples:
    """Triples of images of which all three pairs have a majority.

    Attributes:
        complete: all of them; -1 where they were not counted.
        cyclic: those that are a cycle.
        reason: why they were not counted.
    """

    complete: int
    cyclic: int
    reason: str | None = None


def count_triples(pairs: StatedPairs) -> Triples:
    """Triples and cycles among the majorities, by products of the matrix of who beats whom.

    With A(i, j) = 1 where i beats j, a cycle is counted three times on the diagonal of A^3, and a
    complete triple six times on that of (A + A^T)^3. Dense below `DENSE_IMAGES`, sparse where few
    paths of two steps exist; beyond both bounds nothing is counted.
    """
    decided = pairs.majority != 0
    rows, i, j = _compact(pairs.only(decided))
    forward = pairs.majority[decided] > 0
    n, better, worse = len(rows), np.where(forward, i, j), np.where(forward, j, i)
    if not n:
        return Triples(0, 0)
    degree = np.bincount(np.concatenate([i, j]), minlength=n).astype(np.float64)
    if float(degree @ degree) > _SPARSE_PATHS and n > DENSE_IMAGES:
        return Triples(-1, -1, f"{n} images and {len(i)} pairs are too many to count triples of")
    ones = np.ones(len(i), dtype=np.float32)
    beats = sparse.csr_array((ones, (better, worse)), shape=(n, n))
    if n <= DENSE_IMAGES and float(degree @ degree) > n * n:
        dense = beats.toarray()
        both = dense + dense.T
        cyclic = float(((dense @ dense) * dense.T).sum(dtype=np.float64))
        complete = float(((both @ both) * both).sum(dtype=np.float64))
    else:
        both = beats + beats.T
        cyclic = float(((beats @ beats) * beats.T).sum(dtype=np.float64))
        complete = float(((both @ both) * both).sum(dtype=np.float64))
    return Triples(round(complete / 6), round(cyclic / 3))


def groups_of(pairs: StatedPairs) -> tuple[IntArray, IntArray]:
    """The images that stand in pairs, and which of them pairs connect.

    Returns:
        [k] rows of the images, rising; [k] number of each one's group, from 0.
    """
    rows, i, j = _compact(pairs)
    graph = sparse.coo_array((np.ones(len(i)), (i, j)), shape=(len(rows), len(rows)))
    _, group = connected_components(graph, directed=False) if len(rows) else (0, np.empty(0))
    return rows, np.asarray(group, dtype=np.int64)


def _compact(pairs: StatedPairs) -> tuple[IntArray, IntArray, IntArray]:
    """Rows [k] that stand in pairs, and both images of each pair as places among them."""
    rows, places = np.unique(np.concatenate([pairs.first, pairs.second]), return_inverse=True)
    return rows.astype(np.int64), places[: len(pairs)], places[len(pairs) :]

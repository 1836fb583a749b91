"""The order of ranking batches where pairs are learnt from: a batch's images have pairs.

A pass over a set of n images is n / G steps of G distinct images each, G in groups of `pool` images
that are compared. A group grows image by image: the next one has a stated pair with the group if
any image has, was used least so far in the pass, has the most pairs with the group, and comes first
in an order that is drawn for the pass. Where every image has a pair with every other, this is the
drawn permutation; else images in few pairs may come less often than others.

Not here: how steps are dealt to processes and passes follow each other (`ranking_batches.py`).

Shape legend: n images, m pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vqr1.iqa.preferences import IntArray, StatedPairs

_USES, _LINKS = 1 << 42, 1 << 22
"""Weights of the uses and of the pairs with the group beside the drawn order (n < 2^22)."""


@dataclass(frozen=True)
class PairGraph:
    """Which images of a set are compared in stated pairs.

    Attributes:
        partners: [2 m] positions of each image's partners, image after image.
        starts: [n + 1] where each image's partners start.
    """

    partners: IntArray
    starts: IntArray

    @classmethod
    def of(cls, pairs: StatedPairs, n: int) -> PairGraph:
        """The graph of pairs of positions 0 to n - 1."""
        ends = np.concatenate([pairs.first, pairs.second])
        others = np.concatenate([pairs.second, pairs.first])
        order = np.lexsort((others, ends))
        starts = np.searchsorted(ends[order], np.arange(n + 1))
        return cls(others[order], starts.astype(np.int64))

    def of_image(self, position: int) -> IntArray:
        """Its partners."""
        return self.partners[self.starts[position] : self.starts[position + 1]]

    def digest(self) -> str:
        """First digits of the SHA-256 of the graph, by which a resumed order knows it."""
        content = hashlib.sha256(self.partners.tobytes() + self.starts.tobytes())
        return content.hexdigest()[:16]


def linked_steps(
    graph: PairGraph, order: Sequence[int], steps: int, size: int, pool: int
) -> list[list[int]]:
    """The steps of one pass (module header).

    Args:
        graph: of the set.
        order: [n] the positions in the order that was drawn for the pass.
        steps: how many.
        size: G, at most n.
        pool: images of a group.
    """
    n = len(order)
    rank = np.empty(n, dtype=np.int64)
    rank[np.asarray(order)] = np.arange(n)
    uses = np.zeros(n, dtype=np.int64)
    return [_step(graph, rank, uses, size, pool) for _ in range(steps)]


def _step(graph: PairGraph, rank: IntArray, uses: IntArray, size: int, pool: int) -> list[int]:
    chosen: list[int] = []
    free = np.full(len(rank), True)
    links = np.zeros(len(rank), dtype=np.int64)
    while len(chosen) < size:
        if len(chosen) % pool == 0:
            links[:] = 0
        among = np.flatnonzero(free & (links > 0))
        among = among if len(among) else np.flatnonzero(free)
        worth = _LINKS * np.minimum(links[among], pool) - _USES * uses[among] - rank[among]
        best = int(among[np.argmax(worth)])
        chosen.append(best)
        free[best] = False
        uses[best] += 1
        links[graph.of_image(best)] += 1
    return chosen

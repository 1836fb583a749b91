"""Which of several images is better, and how sure the model is: pairs and rankings of results.

    comparison = compare(scorer.score(["a.png", "b.png"]))
    comparison.probability(0, 1)    # P(a better than b); probability(1, 0) is 1 minus it
    comparison.ranking              # best first, with the ranks that each image may have

What it needs of each image is a score with a standard deviation, from K answers (`mode=sampled`) or
from the distribution over the answer's numbers (`mode=expected`). The mathematics is that of
`vqr1.iqa.pairs`. Images without both are excluded and named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

from vqr1.config import ComparisonConfig
from vqr1.errors import DataError
from vqr1.inference.result import Result
from vqr1.iqa.correlation import FloatArray
from vqr1.iqa.pairs import (
    preference_blocks,
    preference_matrix,
    rank_intervals,
    ranks_of,
    win_rates,
)


@dataclass(frozen=True)
class Ranked:
    """One image's place among the others.

    Attributes:
        rank: by score, 1 is the best; equal scores share the better rank.
        path: the file as it was given; None for images and tensors.
        position: which of the results that were compared, from 0.
        score: the mean score.
        std: its standard deviation as the model gave it, unscaled.
        win_rate: probability, in [0, 1], that it is better than another one of these images.
        rank_low: best rank that it may have, at the configured level.
        rank_high: worst rank that it may have.
        decoded_at: as `Result.decoded_at`.
    """

    rank: int
    path: str | None
    position: int
    score: float
    std: float
    win_rate: float
    rank_low: int
    rank_high: int
    decoded_at: str | None = None


@dataclass(frozen=True)
class Comparison:
    """Images that were compared.

    Attributes:
        results: the n images with score and standard deviation, in the order given.
        ranking: the same images, best first.
        excluded: images without score or standard deviation.
        config: what the probabilities were computed with.
    """

    results: tuple[Result, ...]
    ranking: tuple[Ranked, ...]
    excluded: tuple[Result, ...]
    config: ComparisonConfig

    @cached_property
    def probabilities(self) -> FloatArray:
        """[n, n] P(row better than column); P + its transpose is 1 everywhere."""
        mean, std = _numbers(self.results)
        return preference_matrix(
            mean, std, std_scale=self.config.std_scale, gamma=self.config.gamma
        )

    def probability_rows(self) -> Iterator[FloatArray]:
        """The rows [n] of `probabilities` one after the other, without holding all of them."""
        mean, std = _numbers(self.results)
        blocks = preference_blocks(
            mean, std, std_scale=self.config.std_scale, gamma=self.config.gamma
        )
        return chain.from_iterable(blocks)

    def probability(self, first: int, second: int) -> float:
        """P(`results[first]` is better than `results[second]`)."""
        mean, std = _numbers([self.results[first], self.results[second]])
        pair = preference_matrix(
            mean, std, std_scale=self.config.std_scale, gamma=self.config.gamma
        )
        return float(pair[0, 1])


def compare(
    results: Sequence[Result], config: ComparisonConfig | None = None, *, seed: int = 0
) -> Comparison:
    """Compare images by their results.

    Args:
        results: as `Scorer.score` gives them.
        config: how; None takes the published form of the probability.
        seed: of the draws after the rank intervals.

    Raises:
        DataError: fewer than two images with score and standard deviation.
    """
    config = ComparisonConfig() if config is None else config
    usable = tuple(result for result in results if is_comparable(result))
    excluded = tuple(result for result in results if not is_comparable(result))
    if len(usable) < 2:
        raise DataError(
            f"{len(usable)} of {len(results)} images have a score with a standard deviation, and "
            "two are needed to compare; mode=greedy gives none, and an unreadable image or an "
            "invalid answer has neither"
        )
    mean, std = _numbers(usable)
    rates = win_rates(mean, std, std_scale=config.std_scale, gamma=config.gamma)
    low, high = rank_intervals(
        mean, std, std_scale=config.std_scale, gamma=config.gamma,
        level=config.level, draws=config.draws, seed=seed,
    )  # fmt: skip
    ranks = ranks_of(mean)
    ranking = tuple(
        Ranked(
            rank=int(ranks[i]),
            path=usable[i].path,
            position=int(i),
            score=float(mean[i]),
            std=float(std[i]),
            win_rate=float(rates[i]),
            # Ties make the drawn ranks finer than the shared one.
            rank_low=min(int(low[i]), int(ranks[i])),
            rank_high=max(int(high[i]), int(ranks[i])),
            decoded_at=usable[i].decoded_at,
        )
        for i in np.argsort(-mean, kind="stable")
    )
    return Comparison(usable, ranking, excluded, config)


def is_comparable(result: Result) -> bool:
    """Whether a result has both a score and a standard deviation."""
    return result.error is None and result.score is not None and result.std is not None


def _numbers(results: Sequence[Result]) -> tuple[FloatArray, FloatArray]:
    """Means and standard deviations [n] of results that have both."""
    mean = np.array([result.score for result in results], dtype=np.float64)
    std = np.array([result.std for result in results], dtype=np.float64)
    return mean, std

"""How scores order stated pairs of images (`target=pairs`): what stands beside the accuracy.

The accuracy itself, with its interval over images, is an entry of the registry
(`vqr1.evaluation.metrics.PREFERENCE_ACCURACY`). Here: which pairs it is over, equal ones, cycles in
the statements, and the likelihood of the votes where answers have a standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vqr1.config import DatasetConfig, MixtureConfig
from vqr1.data.labelled_set import LabelledSet
from vqr1.data.location import set_folder
from vqr1.data.preference_file import read_pairs
from vqr1.errors import ConfigError
from vqr1.evaluation.predictions import Predictions, ScoreRule
from vqr1.evaluation.tables import Table
from vqr1.iqa.pairs import PairOutcomes, fit_comparison
from vqr1.iqa.preferences import StatedPairs, count_triples, pair_credits

if TYPE_CHECKING:
    from vqr1.evaluation.report import Evaluation

COIN = -math.log(2)
"""Mean log-likelihood of a preference by a coin, in nats."""

FITTED_PAIRS = 100_000
"""Pairs that the scale of the standard deviations is fitted to at most."""


@dataclass(frozen=True)
class Likelihood:
    """Stated preferences under Thurstone's model with the standard deviations of the answers.

    Attributes:
        pairs: pairs of two images with a standard deviation.
        published: mean log-likelihood with the published constants, in nats; a coin has -log 2.
        fitted: the same with `std_scale` and `gamma`.
        std_scale: factor of the standard deviations that makes the pairs most likely.
        gamma: added variance that does (`vqr1.iqa.pairs`).
    """

    pairs: int
    published: float
    fitted: float
    std_scale: float
    gamma: float


@dataclass(frozen=True)
class PreferenceReport:
    """What is known of the pairs of one set beside their accuracy.

    Attributes:
        pairs: pairs of two scored images.
        votes: statements in them.
        outside: stated pairs with an image that is not evaluated (another split).
        unscored: pairs of evaluated images of which one has no score.
        human_ties: pairs without a majority.
        predicted_ties: pairs whose scores differ by at most the threshold.
        counted: pairs that the accuracy is over.
        tie_threshold: the threshold.
        tie_rule: what pairs without a majority are, `half` or `exclude`.
        agreement: share of the votes that the predictions agree with (equal ones half).
        ceiling: the largest share that any order of each pair can agree with.
        triples: triples of images whose three pairs have a majority; -1 where not counted.
        cycles: those of them in which each image beats the next.
        cycles_reason: why they were not counted.
        likelihood: of the preferences; None where no standard deviations are known.
    """

    pairs: int
    votes: float
    outside: int
    unscored: int
    human_ties: int
    predicted_ties: int
    counted: int
    tie_threshold: float
    tie_rule: str
    agreement: float
    ceiling: float
    triples: int
    cycles: int
    cycles_reason: str | None
    likelihood: Likelihood | None

    def values(self) -> dict[str, Any]:
        """As plain values; None for what is not known."""
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(self).items()
        }


def stated_pairs(sets: Mapping[str, LabelledSet]) -> dict[str, StatedPairs]:
    """The pairs of opened sets by name.

    Raises:
        ConfigError: no set has a file of pairs.
    """
    found = {name: s.pairs.stated for name, s in sets.items() if s.pairs is not None}
    return _some(found, [labelled.key for labelled in sets.values()])


def labelled_pairs(
    dataset: DatasetConfig | MixtureConfig, tables: Mapping[str, pd.DataFrame]
) -> dict[str, StatedPairs]:
    """The pairs of sets whose images need not be there.

    Args:
        dataset: the set or sets.
        tables: by set, the rows of its labels (`vqr1.evaluation.labels.label_tables`).

    Raises:
        ConfigError: no set has a file of pairs, or a key does not fit it.
        DataError: a file is not as stated.
    """
    if isinstance(dataset, MixtureConfig):
        sets = {name: (part, f"dataset.parts.{name}") for name, part in dataset.parts.items()}
    else:
        sets = {dataset.name: (dataset, "dataset")}
    found = {
        name: read_pairs(config, set_folder(config, key), key, tables[name]["image"].tolist())
        for name, (config, key) in sets.items()
    }
    stated = {name: pairs.stated for name, pairs in found.items() if pairs is not None}
    return _some(stated, [key for _, key in sets.values()])


def _some(found: dict[str, StatedPairs], keys: Sequence[str]) -> dict[str, StatedPairs]:
    if not found:
        names = ", ".join(f"{key}.pairs.file" for key in keys)
        raise ConfigError([f"target=pairs, {names}=None: name the file of pairs of a set"])
    return found


def preference_report(predictions: Predictions, rule: ScoreRule) -> PreferenceReport | None:
    """The report of one set; None where its pairs are not evaluated.

    Args:
        predictions: rows of one set.
        rule: which images have a score.
    """
    among = predictions.row_pairs()
    if among is None:
        return None
    scores, std = predictions.image_scores(rule), predictions.score_std()
    scored = among.within(np.flatnonzero(np.isfinite(scores)))
    difference = scores[scored.first] - scores[scored.second]
    counted = pair_credits(difference, scored)[1]
    predicted = np.where(np.abs(difference) <= scored.rule.threshold, 0, np.sign(difference))
    votes, p = scored.votes, scored.preference
    triples = count_triples(scored)
    return PreferenceReport(
        pairs=len(scored),
        votes=float(votes.sum()),
        outside=len(predictions.pairs[predictions.datasets[0]]) - len(among),
        unscored=len(among) - len(scored),
        human_ties=int((scored.majority == 0).sum()),
        predicted_ties=int((predicted == 0).sum()),
        counted=int(counted.sum()),
        tie_threshold=scored.rule.threshold,
        tie_rule=scored.rule.human,
        agreement=_share(0.5 + predicted * (p - 0.5), votes),
        ceiling=_share(np.maximum(p, 1 - p), votes),
        triples=triples.complete,
        cycles=triples.cyclic,
        cycles_reason=triples.reason,
        likelihood=_likelihood(scores, std, scored),
    )


def _share(values: np.ndarray, votes: np.ndarray) -> float:
    return float(np.average(values, weights=votes)) if len(votes) else math.nan


def _likelihood(scores: np.ndarray, std: np.ndarray, pairs: StatedPairs) -> Likelihood | None:
    known = pairs.within(np.flatnonzero(np.isfinite(std)))
    if not len(known):
        return None
    i, j = known.first, known.second
    outcomes = PairOutcomes(scores[i] - scores[j], std[i] ** 2 + std[j] ** 2, known.preference)
    chosen = np.random.default_rng(0).permutation(len(known))[:FITTED_PAIRS]
    scale, gamma = fit_comparison(
        PairOutcomes(outcomes.difference[chosen], outcomes.variance[chosen], outcomes.won[chosen])
    )
    fitted = -outcomes.log_loss(scale, gamma)
    return Likelihood(len(known), -outcomes.log_loss(), fitted, scale, gamma)


def preference_tables(evaluation: Evaluation) -> list[Table]:
    """One row a set whose pairs are evaluated; no table where there is none."""
    found = [(m, m.preferences) for m in evaluation.sets if m.preferences is not None]
    if not found:
        return []
    heads = (
        "set", "pairs", "accuracy", "human ties", "predicted ties", "vote agreement", "at most",
        "cycles", "log-likelihood", "fitted",
    )  # fmt: skip
    rows, notes = [], []
    for metrics, pairs in found:
        accuracy = metrics.metrics[_accuracy()]
        interval = accuracy.interval
        shown = f"{accuracy.value:.3f}" + (
            "" if math.isnan(interval.low) else f" [{interval.low:.3f}, {interval.high:.3f}]"
        )
        cycles = "" if pairs.triples < 0 else f"{pairs.cycles}/{pairs.triples}"
        rows.append((
            metrics.dataset, f"{pairs.counted}/{pairs.pairs}", shown, str(pairs.human_ties),
            str(pairs.predicted_ties), f"{pairs.agreement:.3f}", f"{pairs.ceiling:.3f}", cycles,
            "" if pairs.likelihood is None else f"{pairs.likelihood.published:.3f}",
            "" if pairs.likelihood is None else f"{pairs.likelihood.fitted:.3f}",
        ))  # fmt: skip
        notes += [f"{metrics.dataset}: {text}" for text in _sentences(pairs, accuracy.value)]
    return [Table(f"stated pairs. {evaluation.caption}", heads, tuple(rows), "pairs", tuple(notes))]


def _accuracy() -> str:
    from vqr1.evaluation.metrics import PREFERENCE_ACCURACY

    return PREFERENCE_ACCURACY.name


def _sentences(pairs: PreferenceReport, accuracy: float) -> list[str]:
    """What a row is over, and how it was counted."""
    rule = {
        "half": "a pair without a majority is half right, and right where it is predicted equal",
        "exclude": "pairs without a majority are excluded from the accuracy",
    }[pairs.tie_rule]
    found = [
        f"predicted equal: scores that differ by at most {pairs.tie_threshold:g}, half right where "
        f"there is a majority; {rule}",
        "cycles: triples of images, each of which beats the next by majority, of all triples with "
        "three majorities",
    ]
    if pairs.cycles_reason:
        found.append(f"cycles not counted: {pairs.cycles_reason}")
    if pairs.outside:
        found.append(f"{pairs.outside} pairs have an image that is not evaluated here")
    if pairs.unscored:
        found.append(f"{pairs.unscored} pairs are excluded: an image has no score")
    if pairs.likelihood is not None:
        known = pairs.likelihood
        found.append(
            f"log-likelihood: mean of a preference under Thurstone's model with the answers' "
            f"standard deviations, in nats, over {known.pairs} pairs: with the published "
            f"constants, and fitted to these pairs (deviations times {known.std_scale:.3g}, gamma "
            f"{known.gamma:.3g}); a coin has {COIN:.3f}"
        )
    if accuracy < 0.5:
        found.append(
            "the scores prefer the other image of most pairs: check the codes of the file "
            "(dataset.pairs.codes) and the direction of the scores"
        )
    return found

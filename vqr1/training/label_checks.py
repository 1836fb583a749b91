"""What rewards need of the labels of opened data sets.

Not here: what can be seen in a configuration alone (`checks.py`, `ranking_checks.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from vqr1.config import TrainConfig
from vqr1.errors import ConfigError
from vqr1.rewards import WeightedRewards
from vqr1.rewards.base import Need
from vqr1.rewards.scale import mos_fit

if TYPE_CHECKING:
    # It imports pandas, which a mistake on the command line does not wait for.
    from vqr1.data.labelled_set import LabelledSet


def check_labels(
    config: TrainConfig, rewards: WeightedRewards, sets: Iterable[LabelledSet]
) -> None:
    """Check that scores can be subtracted from MOS where a reward does so, and what labels lack.

    Raises:
        ConfigError: every set whose MOS are as published and not on the scale that the prompt asks
            for, and every set whose training images lack a label that a reward needs.
    """
    sets = list(sets)
    asked = config.answer.form.score_range
    problems = []
    # Scores fitted to pairs are on [1, 5].
    for labelled in sets if rewards.absolute and config.target == "mos" else ():
        lowest, highest = labelled.table["mos"].min(), labelled.table["mos"].max()
        if labelled.config.mos_scale == "published" and not mos_fit(lowest, highest, asked):
            problems.append(
                f"{labelled.key}.mos_scale=published, answer.score_range={list(asked)}: the MOS "
                f"run from {lowest:g} to {highest:g}, and scores are compared with them by value "
                f"({', '.join(f'reward.terms.{name}' for name in rewards.absolute)}); use "
                "mos_scale=minmax, or ask for scores on that scale (answer.score_range and "
                "prompt.text)"
            )
    problems += _label_problems(rewards, sets) + _column_problems(rewards, sets)
    problems += _number_problems(rewards, sets)
    if problems:
        raise ConfigError(problems)


_LABELS: Mapping[Need, str] = {
    "mos_std": "std", "reference": "reference", "distortion": "distortion"
}  # fmt: skip
"""Column of the labels that a reward may need."""


def _label_problems(rewards: WeightedRewards, sets: Iterable[LabelledSet]) -> list[str]:
    """Sets whose training images lack what a reward needs of the labels, a line for each."""
    problems = []
    for need, column in _LABELS.items():
        terms = ", ".join(f"reward.terms.{name}" for name in rewards.needing(need))
        problems += missing_labels(sets, column, terms, "reward") if terms else []
    return problems


def missing_labels(
    sets: Iterable[LabelledSet], column: str, who: str, other: str = "stage"
) -> list[str]:
    """Sets whose training images lack a label, a line for each.

    Args:
        sets: the data sets.
        column: of their label tables.
        who: what needs it.
        other: what else can be chosen in its place.
    """
    problems = []
    for labelled in sets:
        rows = labelled.rows("train")
        missing = int(rows[column].isna().sum())
        if missing:
            problems.append(
                f"{labelled.key}: {missing} of {len(rows)} training images of {labelled.name} "
                f"have no {column}, and {who} needs it; train without the set, or choose another "
                f"{other}"
            )
    return problems


def _column_problems(rewards: WeightedRewards, sets: Iterable[LabelledSet]) -> list[str]:
    """Sets whose training images all lack a further label column that a reward looks at."""
    problems = []
    for column, terms in rewards.label_columns().items():
        named = ", ".join(f"reward.terms.{name}" for name in terms)
        for labelled in sets:
            further = labelled.rows("train")["further"]
            if not any(column in (values or ()) for values in further):
                known = sorted({name for values in further for name in values or ()})
                problems.append(
                    f"{labelled.key}: the labels of {labelled.name} have no further column "
                    f"{column!r} (they have {', '.join(known) or 'none'}), and {named} needs it; "
                    "add it to the labels, or name another column"
                )
    return problems


def _number_problems(rewards: WeightedRewards, sets: Iterable[LabelledSet]) -> list[str]:
    """The first row of each set and column that holds no number where a reward needs one."""
    problems = []
    for column, terms in rewards.number_columns().items():
        named = ", ".join(f"reward.terms.{name}" for name in terms)
        for labelled in sets:
            rows = labelled.rows("train")
            for image, values in zip(rows["image"], rows["further"], strict=True):
                value = (values or {}).get(column)
                if not isinstance(value, int | float):
                    held = "nothing" if value is None else repr(value)
                    problems.append(
                        f"{labelled.key}: column {column!r} of {labelled.name} holds {held} for "
                        f"{image}, and {named} needs a number there; correct the label, or train "
                        "without the row"
                    )
                    break
    return problems

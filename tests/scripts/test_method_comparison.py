"""The study of all methods: equal compute, forms that can be read, a test that knows seeds."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

STUDY = Path(__file__).parents[2] / "experiments" / "method_comparison"


@pytest.fixture(autouse=True)
def beside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(STUDY))


@pytest.mark.medium
def test_arms_of_all_kinds_take_the_same_operations_and_their_forms_are_read() -> None:
    from arms import ARMS, BASELINE, FORMS
    from plan import budget_of, config_of, plan_of

    budget = budget_of(20.0)
    rng = np.random.default_rng(0)
    scores = {"evoquality": 3.42, "mr_iqa": 3.42, "unipercept": 60.0}
    for name in (BASELINE, "q_hawkeye", "deqa", "rali", *scores):
        arm = ARMS[name]
        assert plan_of(arm, 20.0, budget).total == pytest.approx(budget, rel=0.03), name
        if arm.form is not None:
            text = FORMS[arm.form].write("There is blur.", 3.42, rng)
            answer = config_of(arm).answer.form.parse(text)
            assert answer.format_compliant, text
            assert answer.score == pytest.approx(scores[name]), text


def test_the_test_of_a_difference_knows_seeds_and_images() -> None:
    from analyse import Row, Setting, p_value

    def row(values: list[float], noise: float) -> Row:
        drawn = np.array([v + noise * np.linspace(-1, 1, 201) for v in values])
        return Row(Setting("", ()), None, 0.0, tuple(values), drawn, None, math.nan)  # type: ignore[arg-type]

    first, second = [0.60, 0.52, 0.57], [0.50, 0.49, 0.44]
    # Images decide nothing: the paired t-test over seeds.
    found = p_value(row(first, 0.0), row(second, 0.0), 300)
    assert found == pytest.approx(stats.ttest_rel(first, second).pvalue)
    # One seed: the difference over its standard error over images, on n - 1 degrees of freedom.
    error = np.std(0.1 * np.linspace(-1, 1, 201), ddof=1)
    alone = p_value(row([0.6], 0.1), row([0.5], 0.0), 300)
    assert alone == pytest.approx(2 * stats.t.sf(0.1 / error, 299))

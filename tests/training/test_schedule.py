from __future__ import annotations

import pytest

from vqr1.config import OptimizerConfig
from vqr1.training.schedule import learning_rate_factor


def factors(**keys: object) -> list[float]:
    config = OptimizerConfig(lr=1.0, **keys)  # type: ignore[arg-type]
    return [learning_rate_factor(step, 10, config) for step in range(11)]


def test_linear_with_warm_up() -> None:
    # Up over two steps, then down over the remaining eight.
    assert factors(schedule="linear", warmup_steps=2) == pytest.approx(
        [0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0]
    )


def test_cosine_to_a_fraction() -> None:
    values = factors(schedule="cosine", final_fraction=0.1)
    # Half way: .1 + .9 * (1 + cos(pi / 2)) / 2 = .55
    assert values[0] == pytest.approx(1.0)
    assert values[5] == pytest.approx(0.55)
    assert values[10] == pytest.approx(0.1)


def test_constant() -> None:
    assert factors(schedule="constant") == [1.0] * 11

"""Schedules by hand, and against the schedules of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers import get_scheduler
from transformers.optimization import get_cosine_with_min_lr_schedule_with_warmup

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


def theirs(schedule: str, warmup: int, final_fraction: float = 0.0) -> list[float]:
    """Rates of transformers' schedule at steps 0 to 10 of 10, from a peak of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if final_fraction:
        scheduler = get_cosine_with_min_lr_schedule_with_warmup(
            optimizer, warmup, 10, min_lr_rate=final_fraction
        )
    else:
        name = "constant_with_warmup" if schedule == "constant" else schedule
        scheduler = get_scheduler(name, optimizer, warmup, 10)
    rates = []
    for _ in range(11):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize(
    ("schedule", "final_fraction"),
    [("linear", 0.0), ("cosine", 0.0), ("cosine", 0.2), ("constant", 0.0)],
)
def test_the_schedules_of_transformers(schedule: str, final_fraction: float, warmup: int) -> None:
    ours = factors(schedule=schedule, warmup_steps=warmup, final_fraction=final_fraction)
    expected = theirs(schedule, warmup, final_fraction)
    assert ours[warmup:] == pytest.approx(expected[warmup:], abs=1e-9)
    # Theirs rises from 0, so that the first step of a warm-up changes nothing; ours leaves that
    # step out.
    assert ours[:warmup] == pytest.approx(expected[1 : warmup + 1])

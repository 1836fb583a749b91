"""Detectors on series made by hand."""

from __future__ import annotations

import math

import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import TrainConfig, WatchConfig, validate
from vqr1.training.watchdogs import CONSTANT_REWARD, RULES, LengthGrowth, Watchdog


def alarms(name: str, limit: float, steps: int, series: list[dict[str, float]]) -> list[int]:
    """Steps, from 0, at which the watchdog raises an alarm."""
    dog = Watchdog(name, WatchConfig(limit=limit, steps=steps))
    return [i for i, metrics in enumerate(series) if dog.observe(metrics) is not None]


def of(key: str, values: list[float]) -> list[dict[str, float]]:
    return [{key: value} for value in values]


@pytest.mark.parametrize(
    ("name", "key", "limit", "quiet", "bad"),
    [
        ("zero_variance", "zero_variance_rate", 1.0, 0.99, 1.0),
        ("constant", "reward/fidelity", 0.005, 0.7135, 0.7071),
        ("format_rate", "format_compliance_rate", 0.5, 0.5, 0.49),
        ("kl", "kl", 1.0, 1.0, 1.01),
        ("length", "length_growth", 2.0, 2.0, 2.5),
        ("entropy", "entropy", 0.01, 0.01, 0.009),
    ],
)
def test_barks_when_the_patience_is_used_up(
    name: str, key: str, limit: float, quiet: float, bad: float
) -> None:
    assert alarms(name, limit, 3, of(key, [quiet] * 10)) == []
    # Two bad steps are forgiven; the third in a row is given, once.
    assert alarms(name, limit, 3, of(key, [bad, bad, quiet, bad, bad, bad, bad, bad])) == [5]
    # After a quiet step it may raise an alarm again.
    assert alarms(name, limit, 2, of(key, [bad, bad, quiet, bad, bad])) == [1, 4]
    # A metric that a step does not have, or that is no number, is no sign.
    assert alarms(name, limit, 1, [{}, {key: math.nan}]) == []


def test_a_constant_predictor_is_named() -> None:
    # Phi(0) = 1/2 against either order: sqrt(1/2 * 1) + sqrt(1/2 * 0) = .70711.
    assert pytest.approx(0.70711, abs=1e-5) == CONSTANT_REWARD
    dog = Watchdog("constant", WatchConfig(limit=0.005, steps=1))
    message = dog.observe({"reward/fidelity": 0.7069})
    assert message is not None
    assert "constant predictor" in message
    assert ".707" in message


def test_length_is_measured_by_the_first_steps() -> None:
    growth = LengthGrowth(steps=2)
    # The mean of 10 and 30 is 20; 60 is three times that.
    assert [growth.observe(x) for x in (10.0, 30.0, 60.0, 20.0)] == [1.0, 1.0, 3.0, 1.0]
    other = LengthGrowth(steps=2)
    other.load_state_dict(growth.state_dict())
    assert other.observe(50.0) == 2.5


def test_every_rule_has_a_key_and_a_default() -> None:
    config = validate(TrainConfig, plain_values(compose_config("train", ["run_dir=x"])))
    assert config.callbacks.watchdogs is not None
    for name in RULES:
        assert isinstance(getattr(config.callbacks.watchdogs, name), WatchConfig)

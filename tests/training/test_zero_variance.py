"""A run whose first steps have only zero-variance groups reports why."""

from __future__ import annotations

import pytest

from vqr1.training.zero_variance import CAUSES, FIRST_STEPS, FirstSteps


def step(no_score: float = 0.0, scores: float = 0.0, rewards: float = 0.0) -> dict[str, float]:
    return {
        "zero_variance_rate": no_score + scores + rewards,
        **dict(zip(CAUSES, (no_score, scores, rewards), strict=True)),
    }


def messages(series: list[dict[str, float]], steps: int = 3) -> list[str | None]:
    first = FirstSteps(steps)
    return [first.observe(metrics) for metrics in series]


@pytest.mark.parametrize(
    ("metrics", "printed"),
    [
        (step(no_score=1.0), "100% of the groups have no answer that holds a score"),
        (step(scores=1.0), "100% of the groups have equal scores only"),
        (step(rewards=1.0), "100% of the groups have scores that differ and earn the same"),
    ],
)
def test_the_cause_is_named_once(metrics: dict[str, float], printed: str) -> None:
    found = messages([metrics] * 8)
    assert [message is not None for message in found] == [False, False, True] + [False] * 5
    assert found[2] is not None
    assert "in none of the first 3 steps" in found[2]
    assert printed in found[2]
    assert found[2].count("of the groups") == 1


def test_several_causes_come_by_their_share() -> None:
    # Means over the three steps: no score (1 + 0 + .25) / 3 = 42 %, equal scores 58 %.
    message = messages([step(no_score=1.0), step(scores=1.0), step(no_score=0.25, scores=0.75)])[2]
    assert message is not None
    assert message.index("58% of") < message.index("42% of")


def test_one_group_that_differs_is_enough() -> None:
    assert messages([step(scores=0.75), *[step(scores=1.0)] * 9]) == [None] * 10
    assert messages([step(scores=1.0), step(scores=0.75), *[step(scores=1.0)] * 9]) == [None] * 11


def test_a_short_run_and_a_resumed_one() -> None:
    first = FirstSteps()
    assert FIRST_STEPS == 10
    assert first.finish() is None
    assert [first.observe(step(rewards=1.0)) for _ in range(4)] == [None] * 4
    other = FirstSteps()
    other.load_state_dict(first.state_dict())
    message = other.finish()
    assert message is not None
    assert "first 4 steps" in message
    assert other.finish() is None
    # Nine before the stop and one after it make ten.
    for _ in range(5):
        first.observe(step(rewards=1.0))
    resumed = FirstSteps()
    resumed.load_state_dict(first.state_dict())
    assert resumed.observe(step(rewards=1.0)) is not None

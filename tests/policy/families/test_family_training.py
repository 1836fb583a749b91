"""Ten steps of every family on the demo set, killed and resumed: the same bits, and average."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.policy.families.cases import FamilyCase
from tools.faults import kills
from tools.faults.runs import ARGUMENTS, Workshop, compare, read_result

pytestmark = pytest.mark.slow

STEPS = 10


def test_ten_steps_killed_and_resumed_are_the_same_run(
    case: FamilyCase, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    low, high = case.area
    workshop = Workshop(
        tmp_path,
        (
            *ARGUMENTS,
            f"model.path={checkpoint(case.model_type)}",
            f"model.min_pixels={low}",
            f"model.max_pixels={high}",
            "optimizer.lr=1e-3",
            "optimizer.ema_decay=0.9",
            f"max_steps={STEPS}",
            "validation.every_steps=5",
            "callbacks.checkpoint.every_steps=2",
        ),
    )
    history = workshop.reference.history
    assert sorted(s for key, s in history if key == "train/loss") == [*range(1, STEPS + 1)]
    kills.kill_in(workshop, "killed", "update", random.Random(case.model_type), resume=False)
    training = workshop.resume("killed")
    assert training.wait() == 0, training.output
    done = compare(read_result(training.folder), workshop.reference)
    assert done.identical, done

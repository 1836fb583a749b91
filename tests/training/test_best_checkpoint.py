"""Which validation counts as the best one: defined ones only, of equal ones the earliest."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vqr1.config import CheckpointConfig
from vqr1.distributed.stop_requests import StopRequests
from vqr1.training.callbacks import checkpoints as module
from vqr1.training.callbacks.checkpoints import RunCheckpoints


def validated(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: list[float],
    monitor: Any = "val/srcc",
    **companions: float,
) -> tuple[RunCheckpoints, list[str]]:
    """A run of steps 10, 20, ... after validations with these values, and the files it wrote."""
    kept = RunCheckpoints(CheckpointConfig(monitor=monitor), folder, StopRequests(), val_every=10)
    written: list[str] = []
    monkeypatch.setattr(kept, "_write", lambda _, path, **__: written.append(path.name) or True)
    monkeypatch.setattr(module, "_reason", lambda *_: " (all MOS are equal)")
    trainer: Any = SimpleNamespace(state=SimpleNamespace(fn="fit"), loggers=[], global_step=0)
    kept._saved_step = 10 * len(values)
    for number, value in enumerate(values, start=1):
        trainer.global_step = 10 * number
        found = {monitor: value, **{f"val/{name}": v for name, v in companions.items()}}
        trainer.callback_metrics = {name: torch.tensor(v) for name, v in found.items()}
        kept._keep_best(trainer)
    kept.on_train_end(trainer, None)  # type: ignore[arg-type]
    return kept, written


nan = math.nan


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ([nan, nan, nan], None),
        ([nan, 0.5, nan], 20),
        ([0.5, nan, 0.5], 10),
        ([-0.2, nan, -0.1], 30),
        ([0.5, 0.7, 0.7], 20),
        ([-math.inf, nan], None),
        ([], None),
    ],
)
def test_undefined_validations_are_never_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: list[float], best: int | None
) -> None:
    kept, written = validated(tmp_path, monkeypatch, values)
    assert kept.best_step == best
    assert (kept.best_path is None) == (best is None) == (not written)


def test_one_warning_where_no_validation_was_defined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        validated(tmp_path, monkeypatch, [nan, nan])
    assert [record.getMessage() for record in caplog.records] == [
        "callbacks.checkpoint.monitor=val/srcc was undefined in all 2 validations (all MOS "
        "are equal): the weights of the last step are exported"
    ]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        validated(tmp_path, monkeypatch, [nan, 0.1])
        validated(tmp_path, monkeypatch, [])
    assert not caplog.records


def test_the_srcc_of_the_best_step_is_kept_whatever_chose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, _ = validated(tmp_path, monkeypatch, [0.9], "val/plcc", srcc=0.25, score_std=nan)
    assert kept.best_score == pytest.approx(0.9)
    assert kept.best_metrics == pytest.approx({"val/plcc": 0.9, "val/srcc": 0.25})
    again = RunCheckpoints(kept.config, tmp_path, StopRequests(), val_every=10)
    again.load_state_dict({**kept.state_dict(), "random": {}})
    assert (again.best_step, again.best_metrics) == (kept.best_step, kept.best_metrics)


def test_a_state_from_before_forgets_an_undefined_best(tmp_path: Path) -> None:
    """It named the earliest undefined validation, and held the monitored value alone."""
    kept = RunCheckpoints(CheckpointConfig(), tmp_path, StopRequests(), val_every=10)
    state = {"batches": 4, "random": {}, "validation_pending": False}
    kept.load_state_dict({**state, "best_step": 2, "best_score": -math.inf})
    assert (kept.best_step, kept.best_path, kept.best_metrics) == (None, None, {})
    kept.load_state_dict({**state, "best_step": 2, "best_score": 0.5})
    assert (kept.best_step, kept.best_metrics) == (2, {"val/srcc": 0.5})
    # An error falls: its score was held with the other sign.
    falls = RunCheckpoints(
        CheckpointConfig(monitor="val/rmse_logistic4"), tmp_path, StopRequests(), val_every=10
    )
    falls.load_state_dict({**state, "best_step": 2, "best_score": -0.25})
    assert falls.best_metrics == {"val/rmse_logistic4": 0.25}

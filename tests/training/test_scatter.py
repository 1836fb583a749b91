from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from matplotlib.figure import Figure

from tests.evaluation.builders import predictions
from vqr1.tracking import RunLog
from vqr1.training.callbacks import ScatterPlot
from vqr1.training.stages.grpo import GrpoModule


def metrics() -> int:
    return sum(isinstance(found, Figure) for found in gc.get_objects())


@pytest.mark.slow
def test_no_plot_outlives_its_validation(tmp_path: Path) -> None:
    module = GrpoModule.__new__(GrpoModule)
    module.__dict__["validator"] = SimpleNamespace(predictions=predictions([1.0, 2, 3], [1, 2, 4]))
    trainer: Any = SimpleNamespace(global_step=5)
    gc.collect()
    before = metrics()
    gc.disable()  # it may come by at any time, or not for hundreds of validations
    try:
        ScatterPlot(RunLog(tmp_path)).on_validation_end(trainer, module)
        after = metrics()
    finally:
        gc.enable()
    assert (tmp_path / "scatter" / "val_step_000005.png").stat().st_size > 1000
    assert after == before

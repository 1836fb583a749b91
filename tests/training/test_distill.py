"""Steps of a distillation whose batches hold images that the teacher has not scored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from tests.support.students import tower_student
from tests.training.test_grpo import Batches, ranking_batch
from vqr1.config import ModelConfig, OptimizerConfig, read_choice, validate
from vqr1.distributed.stop_requests import StopRequests
from vqr1.policy.loading import load_policy
from vqr1.student.model import StudentEngine
from vqr1.training.stages.distill import DistillModule, DistillSettings
from vqr1.training.stages.distill_stage import DistillStage
from vqr1.training.stages.teacher_answers import TeacherAnswers
from vqr1.training.step import UpdateSettings
from vqr1.training.student_card import _texts
from vqr1.training.validation import ValidationModes, Validator

STEPS = 4


@pytest.mark.medium
def test_a_batch_without_a_scored_image_takes_a_step_that_changes_nothing() -> None:
    teacher = load_policy(validate(ModelConfig, read_choice("model", "tiny", "model")))
    student = tower_student(teacher)
    # The rows 3 to 5 are scored; the batch is of 0 to 2.
    scores = {("demo", 3): 1.0, ("demo", 4): 2.0, ("demo", 5): 4.0}
    rows = SimpleNamespace(index=range(6))
    data: Any = SimpleNamespace(sets={"demo": SimpleNamespace(rows=lambda split, most: rows)})
    none: Any = None
    module = DistillModule(
        student,
        teacher,
        TeacherAnswers(scores, {}),
        data,
        Validator(StudentEngine(student), ValidationModes(none, None), ()),
        UpdateSettings(
            optimizer=OptimizerConfig(lr=0.1, schedule="linear"),
            micro_batch_tokens=64,
            total_steps=STEPS,
        ),
        DistillSettings(align_weight=0.0, head_lr=0.1, train_encoder=True, tuned=1, seed=0),
        hidden=4,
        stops=StopRequests(),
    )
    rates: list[float] = []
    logged: Any = module._log
    module._log = lambda metrics, *rest: (  # type: ignore[method-assign]
        rates.append(metrics["train/lr"]), logged(metrics, *rest))[1]  # fmt: skip
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(Batches(ranking_batch(), 2), batch_size=None))
    assert module.global_step == 2
    # From the peak down in four equal parts.
    assert rates == pytest.approx([0.1, 0.075])
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


def test_no_step_tunes_the_head_alone_where_none_shall() -> None:
    assert [DistillStage(tune_share=share).tuned_steps(10) for share in (0.0, 0.01, 0.2)] == [
        0, 1, 2
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "words"),
    [({}, " and texts"), ({"align": False}, ""), ({"align_weight": 0.0}, "")],
)
def test_a_card_states_what_was_learned(tmp_path: Path, stage: dict[str, Any], words: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"stage": stage}))
    assert _texts(tmp_path) == words

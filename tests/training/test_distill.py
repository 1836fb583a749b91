"""Steps of a distillation whose batches hold images that the teacher has not scored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import torch
import yaml

from tests.cli.test_configs import train_config
from tests.support.students import tower_student
from tests.training.test_grpo import Batches, ranking_batch
from vqr1.config import ModelConfig, OptimizerConfig, read_choice, validate
from vqr1.distributed.stop_requests import StopRequests
from vqr1.policy.loading import load_policy
from vqr1.student.model import StudentEngine
from vqr1.training.stages import teacher_answers as asking
from vqr1.training.stages.distill import DistillModule, DistillSettings
from vqr1.training.stages.distill_stage import DistillStage
from vqr1.training.stages.teacher_answers import TeacherAnswers
from vqr1.training.step import UpdateSettings
from vqr1.training.student_card import _texts
from vqr1.training.validation import ValidationModes, Validator

STEPS = 4
SCORES = {("demo", 3): 1.0, ("demo", 4): 2.0, ("demo", 5): 4.0}
ROWS = SimpleNamespace(index=range(6))
DATA: Any = SimpleNamespace(sets={"demo": SimpleNamespace(rows=lambda split, most: ROWS)})


def distilled(steps: int, tuned: int) -> DistillModule:
    """A student of the tiny model; the rows 3 to 5 are scored."""
    teacher = load_policy(validate(ModelConfig, read_choice("model", "tiny", "model")))
    student = tower_student(teacher)
    none: Any = None
    return DistillModule(
        student,
        teacher,
        TeacherAnswers(SCORES, {}),
        DATA,
        Validator(StudentEngine(student), ValidationModes(none, None), ()),
        UpdateSettings(
            optimizer=OptimizerConfig(lr=0.1, schedule="linear"),
            micro_batch_tokens=64,
            total_steps=steps,
        ),
        DistillSettings(align_weight=0.0, head_lr=0.1, train_encoder=True, tuned=tuned, seed=0),
        hidden=4,
        stops=StopRequests(),
    )


def fit(module: DistillModule, steps: int) -> None:
    """Train on batches of the rows 0 to 2, which have no score."""
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    batches = Batches(ranking_batch(), steps)
    trainer.fit(module, torch.utils.data.DataLoader(batches, batch_size=None))


@pytest.mark.medium
def test_a_batch_without_a_scored_image_takes_a_step_that_changes_nothing() -> None:
    module = distilled(STEPS, tuned=1)
    rates: list[float] = []
    logged: Any = module._log
    module._log = lambda metrics, *rest: (  # type: ignore[method-assign]
        rates.append(metrics["train/lr"]), logged(metrics, *rest))[1]  # fmt: skip
    before = {name: weight.clone() for name, weight in module.state_dict().items()}
    fit(module, 2)
    assert module.global_step == 2
    # From the peak down in four equal parts.
    assert rates == pytest.approx([0.1, 0.075])
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


@pytest.mark.medium
@pytest.mark.parametrize(("tuned", "at_once"), [(0, True), (1, False)])
def test_a_head_that_is_not_tuned_is_fitted_in_the_last_step(tuned: int, at_once: bool) -> None:
    module = distilled(2, tuned)
    fitted: list[tuple[int, bool]] = []
    module._fit = lambda at_once: (  # type: ignore[method-assign]
        fitted.append((int(module.global_step), at_once)),
        module.student.fitted.fill_(True),
    )[0]
    fit(module, 2)
    assert fitted == [(2 - tuned, at_once)]


@pytest.mark.medium
def test_a_student_is_validated_on_the_stated_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = train_config("stage=distill")
    answers = TeacherAnswers(SCORES, {("demo", 3): torch.zeros(1, 4)})
    monkeypatch.setattr(asking, "teacher_answers", lambda *_: answers)
    pairs = {"demo": object()}
    parts: Any = SimpleNamespace(
        config=config,
        policy=load_policy(config.model),
        data=DATA,
        validator=SimpleNamespace(metrics=(), pairs=pairs),
        answer=config.answer.form,
        total_steps=STEPS,
        stops=StopRequests(),
    )
    assert DistillStage().build(parts).validator.pairs == pairs


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

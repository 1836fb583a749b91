from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from vqr1.cli.compose import compose_config, plain_values
from vqr1.config import TrainConfig, validate
from vqr1.config.earlier import changed_settings, completed
from vqr1.errors import ConfigError, DataError
from vqr1.program import override
from vqr1.training.resume import Run, claimed_run
from vqr1.training.run_lookup import finished_metric
from vqr1.training.run_record import (
    RunLock,
    RunRecord,
    changed_keys,
    read_record,
    write_record,
)

CONFIG = {
    "optimizer": {"lr": 0.1, "betas": [0.9, 0.999]},
    "loader": {"workers": 1, "batch_size": 4},
    "callbacks": {"progress": True, "checkpoint": {"monitor": "val/srcc", "keep": 2}},
    "logger": {"name": "mlflow"},
    "run_dir": "a",
}


def test_round_trip(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    record = RunRecord("2026-01-02T03:04:05.678+00:00", "/somewhere", ("seed=2",), CONFIG)
    write_record(tmp_path / "run", record)
    assert read_record(tmp_path / "run") == record
    # Addresses of tracking servers may hold passwords.
    assert (tmp_path / "run" / "run.json").stat().st_mode & 0o077 == 0
    (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run\.json: not the record of a run"):
        read_record(tmp_path / "run")


def resumed(run_dir: Path, *overrides: str) -> Run:
    """What a command means that resumes a run."""
    given = [override("resume", run_dir), override("run_dir", run_dir), *overrides]
    values = plain_values(compose_config("train", given))
    config = validate(TrainConfig, values)
    with claimed_run(config, values, given) as run:
        return run


def test_a_finished_run_takes_no_other_values(tmp_path: Path) -> None:
    run_dir = tmp_path / "a,b"
    config = plain_values(compose_config("train", [override("run_dir", run_dir)]))
    started = "2026-01-02T03:04:05.678+00:00"
    write_record(run_dir, RunRecord(started, "/", (), config, finished=True))
    assert resumed(run_dir).record.finished
    assert resumed(run_dir, "loader.workers=3").record.finished
    for asked in ("max_steps=50", "reward=mse", "optimizer.lr=1e-3"):
        with pytest.raises(ConfigError, match="this run has finished; it cannot resume") as refused:
            resumed(run_dir, asked)
        assert any(asked.split("=")[0] in problem for problem in refused.value.problems[1:-1])
        assert refused.value.problems[-1].startswith(f"start a new run; \"init_from='{run_dir}'\"")


def test_harmless_changes_are_no_changes() -> None:
    other = {
        **CONFIG,
        "loader": {"workers": 8, "batch_size": 4},
        "callbacks": {"progress": False, "checkpoint": {"monitor": "val/srcc", "keep": 5}},
        "logger": {"name": "csv"},
        "run_dir": "b",
        "resume": "auto",
    }
    assert changed_keys(CONFIG, other) == []


def test_an_engine_may_sleep_or_not_but_not_compute_otherwise() -> None:
    old, new = (
        {"rollout": {"colocated": {"sleep": flag, "enforce_eager": flag}}} for flag in (True, False)
    )
    assert changed_keys(old, new) == ["rollout.colocated.enforce_eager: true -> false"]


def test_other_changes_are_listed_with_both_values() -> None:
    other = {
        **CONFIG,
        "optimizer": {"lr": 0.2, "betas": (0.9, 0.999)},
        "loader": {"workers": 1, "batch_size": 8},
        "callbacks": {"progress": True, "checkpoint": {"monitor": "val/plcc", "keep": 2}},
        "seed": 3,
    }
    assert changed_keys(CONFIG, other) == [
        "optimizer.lr: 0.1 -> 0.2",
        "loader.batch_size: 4 -> 8",
        'callbacks.checkpoint.monitor: "val/srcc" -> "val/plcc"',
        "seed: absent -> 3",
    ]


def test_a_record_with_the_answer_form_in_its_prompt() -> None:
    tags = {"_target_": "vqr1.iqa.answers.TaggedAnswer", "tag": "answer"}
    for name, reasoning in (("think_answer", "think"), ("answer", None)):
        old = {"prompt": {"answer_format": name, "score_range": [1, 5]}}
        new = {"answer": {**tags, "reasoning": reasoning, "score_range": [1, 5]}}
        assert changed_keys(old, new) == []
    assert changed_keys(old, {"answer": {**tags, "reasoning": None, "score_range": [0, 9]}}) == [
        "answer.score_range: [1, 5] -> [0, 9]"
    ]
    begun = {"prompt.answer_format": "free", "prompt.score_range": [1.0, 5.0]}
    free = {"answer._target_": "vqr1.iqa.answers.FreeText"}
    assert changed_settings(begun, free, "a.csv was begun") == []


def test_a_record_with_renamed_keys_is_read_under_their_new_names() -> None:
    old = {"grpo": {"group_size": 6, "loss": "dr_grpo", "clip": 0.2, "kl_weight": 0.04,
                    "advantage_std": True}}  # fmt: skip
    new = {
        "grpo": {"group_size": 6},
        "loss": {"_target_": "vqr1.training.losses.GrpoLoss", "averaging": "dr_grpo", "clip": 0.2,
                 "kl_weight": 0.04},
        "advantage": {"_target_": "vqr1.training.advantages.GroupNormalised", "std": True},
    }  # fmt: skip
    assert changed_keys(old, new) == []
    new["loss"] |= {"kl_weight": 0.1}
    assert changed_keys(old, new) == ["loss.kl_weight: 0.04 -> 0.1"]
    # Only that loss existed then.
    new["loss"] |= {"_target_": "mine.Loss", "kl_weight": 0.04}
    assert changed_keys(old, new) == [
        'loss._target_: "vqr1.training.losses.GrpoLoss" -> "mine.Loss"'
    ]


def test_a_mixtures_sets_are_read_with_a_sets_earlier_values() -> None:
    old = {"dataset.parts.tid.root": "x", "dataset.parts.tid.alias": "t"}
    keys = ["dataset.parts.tid.split.near_duplicates", "dataset.parts.tid.alias"]
    assert [completed(old, keys)[key] for key in keys] == ["report", "t"]
    new = {"dataset": {"parts": {"tid": {"root": "x", "reference_folder": False, "alias": None}}}}
    assert changed_keys({"dataset": {"parts": {"tid": {"root": "x"}}}}, new) == []
    new["dataset"]["parts"]["tid"]["alias"] = "t"
    saved = {"dataset": {"parts": {"tid": {"root": "x"}}}}
    assert changed_keys(saved, new) == ['dataset.parts.tid.alias: null -> "t"']


def test_data_may_have_moved() -> None:
    parts = {"kadid": {"root": "/a", "short_edge": 9}}
    old = {**CONFIG, "dataset": {"parts": parts}}
    new = {**CONFIG, "dataset": {"parts": {"kadid": {"root": "/b", "short_edge": 8}}}}
    edge = "dataset.parts.kadid.short_edge: 9 -> 8"
    assert changed_keys(old, new) == ['dataset.parts.kadid.root: "/a" -> "/b"', edge]
    assert changed_keys(old, new, moved=True) == [edge]


@pytest.mark.medium
def test_one_process_holds_a_run(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vqr1.training.run_record import RunLock\n"
        "sys.exit(0 if RunLock(Path(sys.argv[1])).acquire() else 9)"
    )

    def other_process() -> int:
        return subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode

    with RunLock(tmp_path):
        assert other_process() == 9
    assert other_process() == 0


def test_whoever_holds_a_run_clears_away_what_killed_writers_left(tmp_path: Path) -> None:
    name = ".summary.json.0123456789abcdef.part"
    for folder in ("", "tables", "tracking", "other_run", "outputs/deep"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / name).touch()
    (tmp_path / "other_run" / "run.lock").touch()
    with RunLock(tmp_path):
        # What delivers the journal may be at work, and so may other runs below.
        left = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob(name)}
        assert left == {"tracking", "other_run", "outputs/deep"}


def test_a_held_run_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunLock, "acquire", lambda self: False)
    with pytest.raises(ConfigError, match="another process is working on this run"):
        RunLock(tmp_path).__enter__()


def test_keys_that_came_later_have_their_value_in_records_of_mixtures_too() -> None:
    def record(**pairs: str | None) -> dict[str, object]:
        return {
            "dataset": {"parts": {"kadid": {"root": "k", **({"pairs": pairs} if pairs else {})}}}
        }

    assert changed_keys(record(), {**record(file=None), "target": "mos"}) == []
    changed = changed_keys(record(), {**record(fit="bradley_terry"), "target": "pairs"})
    assert changed == [
        'dataset.parts.kadid.pairs.fit: "thurstone" -> "bradley_terry"',
        'target: "mos" -> "pairs"',
    ]


def test_a_default_of_an_earlier_version_means_what_is_written_today() -> None:
    earlier, now, less = (
        {"rollout": {"micro_batch_tokens": tokens}} for tokens in (16384, None, 8192)
    )
    assert changed_keys(earlier, now) == []
    (changed,) = changed_keys(less, now)
    assert changed.startswith("rollout.micro_batch_tokens: 8192 -> ")


@pytest.mark.parametrize(("images", "metric"), [(None, 0.5), (12, math.nan)])
def test_validation_stands_for_a_test_that_was_not_made(
    tmp_path: Path, images: int | None, metric: float
) -> None:
    summary = {"test_srcc_after": None, "test_images": images, "val_srcc_best": 0.5}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    assert finished_metric(tmp_path) == pytest.approx(metric, nan_ok=True)

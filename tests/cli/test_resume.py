"""Which run `resume=` means, and what it refuses. That it continues exactly: `tests/faults`."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pandas as pd
import pytest

from tests.cli.conftest import Command
from tests.cli.test_train import metric_history, on
from tools.faults.small_set import write_kadid
from vqr1.cli.compose import compose_config, plain_values
from vqr1.cli.train import main
from vqr1.config import TrainConfig, validate
from vqr1.errors import ConfigError, DataError
from vqr1.training.resume import Run, claimed_run
from vqr1.training.resumed_arguments import with_saved_overrides
from vqr1.training.run_lookup import kept_overrides, whole_search_path
from vqr1.training.run_record import (
    RunLock,
    RunRecord,
    changed_keys,
    read_record,
    write_record,
)
from vqr1.training.stages.grpo import GrpoModule

pytestmark = pytest.mark.medium


def record(folder: Path, *overrides: str, finished: bool = False) -> Path:
    write_record(folder, RunRecord("2026-01-01T00:00:00+00:00", "/", overrides, {}, finished))
    return folder


def test_saved_overrides_come_first_and_the_commands_own_win(tmp_path: Path) -> None:
    run = record(tmp_path / "it's a=run", "reward=mse", "seed=2", "+logger.tags.a=b")
    expanded = with_saved_overrides([f"resume={run}", "seed=3", "logger=csv"])
    place = f"'{tmp_path}/it\\'s a=run'"
    assert expanded == [
        "reward=mse", "+logger.tags.a=b", "seed=3", "logger=csv",
        f"resume={place}", f"run_dir={place}", f"hydra.run.dir={place}",
    ]  # fmt: skip


def test_a_run_of_before_the_vision_id_continues_with_it(tmp_path: Path) -> None:
    """Also one of a model whose prompts now have none."""
    overrides = ("model=qwen2_5_vl_3b", "rollout=local")
    values = plain_values(compose_config("train", [*overrides, f"run_dir={tmp_path / 'old'}"]))
    before = json.loads(json.dumps(values))
    del before["prompt"]["vision_id"]
    del before["rollout"]["sampling"]["repetition_penalty"]
    write_record(
        tmp_path / "old", RunRecord("2026-01-01T00:00:00+00:00", "/", overrides, before, False)
    )
    arguments = with_saved_overrides([f"resume={tmp_path / 'old'}"])
    assert arguments[:3] == [*overrides, "prompt.vision_id=true"]
    now = plain_values(compose_config("train", arguments))
    assert changed_keys(before, now) == []
    now["prompt"]["vision_id"] = False
    assert changed_keys(before, now) == ["prompt.vision_id: true -> false"]
    # The command's own value is kept, and then named.
    own = with_saved_overrides([f"resume={tmp_path / 'old'}", "prompt.vision_id=false"])
    assert "prompt.vision_id=true" not in own


def test_a_run_begun_with_keys_that_were_renamed_since_resumes_with_their_values(
    tmp_path: Path,
) -> None:
    overrides = ("grpo.kl_weight=0.1", "grpo.loss=dr_grpo", "++grpo.advantage_std=false", "seed=2")
    arguments = with_saved_overrides([f"resume={record(tmp_path / 'old', *overrides)}"])
    assert arguments[:4] == [
        "loss.kl_weight=0.1", "loss.averaging=dr_grpo", "++advantage.std=false", "seed=2",
    ]  # fmt: skip
    now = plain_values(compose_config("train", arguments))
    # The record as that version wrote it.
    before = json.loads(json.dumps(now))
    loss, advantage = before.pop("loss"), before.pop("advantage")
    before["grpo"] |= {
        "kl_weight": 0.1, "loss": "dr_grpo", "clip": loss["clip"], "advantage_std": False,
    }  # fmt: skip
    assert advantage["std"] is False
    assert changed_keys(before, now) == []
    # The command's own value wins under the new name, and is then a change.
    own = with_saved_overrides([f"resume={tmp_path / 'old'}", "loss.kl_weight=0.2"])
    assert "loss.kl_weight=0.1" not in own
    assert changed_keys(before, plain_values(compose_config("train", own))) == [
        "loss.kl_weight: 0.1 -> 0.2"
    ]


@pytest.mark.parametrize(
    "arguments", [["seed=1"], ["resume=auto", "seed=1"], ["-m", "resume=x", "seed=1,2"], []]
)
def test_other_commands_stay_as_they_are(arguments: list[str]) -> None:
    assert with_saved_overrides(arguments) == arguments


def test_a_run_that_is_not_there(run: Command, tmp_path: Path) -> None:
    outcome = run(main, "resume=nowhere")
    assert outcome.code == 2
    assert outcome.err == (
        "error: resume=nowhere: no run directory (run.json is missing) and no MLflow run id\n"
    )
    with pytest.raises(ConfigError, match="leave it out"):
        with_saved_overrides([f"resume={record(tmp_path / 'a')}", "run_dir=b"])


def test_a_folder_that_is_taken(run: Command, tmp_path: Path) -> None:
    record(tmp_path / "open")
    record(tmp_path / "done", finished=True)
    outcome = run(main, "run_dir=open")
    assert outcome.code == 2
    assert "this folder holds an unfinished run; continue with it with resume=open" in outcome.err
    outcome = run(main, "run_dir=done")
    assert outcome.code == 2
    assert "this folder holds a finished run; choose another" in outcome.err


def test_a_finished_run_without_its_summary(run: Command, tmp_path: Path) -> None:
    values = plain_values(compose_config("train", ["run_dir=done"]))
    write_record(tmp_path / "done", RunRecord("2026-01-01T00:00:00+00:00", "/", (), values, True))
    outcome = run(main, "resume=done")
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "summary.json: this run has finished, but its summary is missing" in outcome.err


def claim(folder: Path, *overrides: str) -> Run:
    values = plain_values(compose_config("train", [f"run_dir={folder}", *overrides]))
    with claimed_run(validate(TrainConfig, values), values, list(overrides)) as found:
        return found


def test_what_was_forced_holds_from_then_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert not claim(folder, "seed=2").resumed
    changed = ("seed=2", "optimizer.lr=0.5", f"resume={folder}")
    with pytest.raises(ConfigError, match=r"optimizer\.lr: 0\.0002 -> 0\.5"):
        claim(folder, *changed)
    forced = claim(folder, *changed, "resume_force=true")
    assert forced.changes == ("optimizer.lr: 0.0002 -> 0.5",)
    again = claim(folder, *changed)
    assert again.resumed
    assert again.changes == ()
    assert again.record.overrides == ("seed=2", "optimizer.lr=0.5")


def test_the_data_may_move_but_not_change(tmp_path: Path) -> None:
    folder, own = tmp_path / "run", f"run_dir={tmp_path}/run"
    claim(folder, "dataset=kadid", "dataset.root=/node1").with_data({"kadid": "ab"}, False)
    moved = claim(folder, "dataset=kadid", "dataset.root=/node2", "resume=auto", own)
    assert moved.resumed
    assert moved.with_data({"kadid": "ab"}, False) == moved
    with pytest.raises(ConfigError, match="the content of kadid: other images, MOS"):
        moved.with_data({"kadid": "cd"}, False)
    assert moved.with_data({"kadid": "cd"}, True).changes == ("dataset: the content of kadid",)
    found = read_record(folder)
    assert found is not None
    assert found.data == {"kadid": "cd"}
    # Two folders may hold two sets: without run_dir, auto looks for this one's runs only.
    other = ("dataset=kadid", "dataset.root=/node2", "resume=auto")
    assert not claim(tmp_path / "new", *other).resumed


def test_auto_takes_the_newest_unfinished_run_with_the_same_configuration(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        claim(tmp_path / name, "seed=2")
    third = tmp_path / "third"
    claim(third, "seed=2", f"resume={third}").finish()
    assert claim(tmp_path / "new", "seed=2", "resume=auto").run_dir == tmp_path / "second"
    assert not claim(tmp_path / "new", "seed=3", "resume=auto").resumed


def test_auto_in_a_given_folder_takes_no_other_run(tmp_path: Path) -> None:
    claim(tmp_path / "71236", "seed=2")
    own = f"run_dir={tmp_path}/71237"
    started = claim(tmp_path / "71237", "seed=2", "resume=auto", own)
    assert (started.run_dir, started.resumed) == (tmp_path / "71237", False)
    again = claim(tmp_path / "71237", "seed=2", "resume=auto", own)
    assert (again.run_dir, again.resumed) == (tmp_path / "71237", True)


def test_a_run_that_could_not_start_leaves_its_folder_free(run: Command, tmp_path: Path) -> None:
    root = write_kadid(tmp_path / "kadid")
    hidden = (root / "dmos.csv").rename(root / "hidden.csv")
    command = [*on(root), "logger=csv", "run_dir=out"]
    for _ in range(2):
        outcome = run(main, *command)
        assert outcome.code == 2
        assert "dmos.csv" in outcome.err, outcome.err
    hidden.rename(root / "dmos.csv")
    # The next mistake is found later: the address is refused once data and policy are loaded.
    bad = "logger.tracking_uri=ftp://example.org"
    outcome = run(main, *on(root), bad, "run_dir=out")
    assert outcome.code == 2
    assert "logger.tracking_uri=ftp://example.org" in outcome.err
    assert not (tmp_path / "out/run.json").exists()
    assert not (tmp_path / "out/training_images.csv").exists()
    # A resumed run stays what it was, whatever the command that resumes it gets wrong.
    claim(tmp_path / "out", "seed=2")
    started = Run(tmp_path / "out", read_record(tmp_path / "out"), resumed=True)  # type: ignore[arg-type]
    with pytest.raises(DataError), started.starting():
        raise DataError("x")
    assert (tmp_path / "out/run.json").exists()


def test_auto_passes_over_what_belongs_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine, other = tmp_path / "a_mine", tmp_path / "b_other"
    for folder in (mine, other):
        claim(folder, "seed=2")
    acquire = RunLock.acquire

    def refused(lock: RunLock) -> bool:
        if lock.path.parent == other:
            raise PermissionError(errno.EACCES, "Permission denied", str(lock.path))
        return acquire(lock)

    monkeypatch.setattr(RunLock, "acquire", refused)
    assert claim(tmp_path / "new", "seed=2", "resume=auto").run_dir == mine
    assert "left aside: [Errno 13] Permission denied" in caplog.text


@pytest.mark.slow
def test_interrupted_refused_resumed_finished(
    run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_kadid(tmp_path / "kadid")
    command = [*on(root), "logger=csv", "validation.test=false", "callbacks.progress=false"]
    assert run(main, *command, "run_dir=out/whole").code == 0

    # Ctrl-C within the third step.
    original = GrpoModule._update

    def interrupted(module: GrpoModule, *arguments: object) -> object:
        if module.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(module, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(GrpoModule, "_update", interrupted)
        outcome = run(main, *command, "run_dir=out/cut")
    assert outcome.code == 75
    assert "stopped by SIGINT" in outcome.err
    assert "resume=out/cut" in outcome.err
    assert (tmp_path / "out/cut/checkpoints/step_00000003.ckpt").is_file()

    # What changes what is computed is listed and refused; what does not is allowed.
    outcome = run(main, "resume=out/cut", "optimizer.lr=0.5", "loader.workers=1")
    assert outcome.code == 2
    assert "optimizer.lr: 0.0002 -> 0.5" in outcome.err
    assert "loader.workers" not in outcome.err
    assert "resume_force=true" in outcome.err
    assert not (tmp_path / "out/cut/summary.json").exists()

    # Another seed is another run: auto starts a new one instead.
    other = ("hydra.run.dir=out/other", "seed=9", "max_steps=1", "resume=auto")
    outcome = run(main, *command, *other)
    assert outcome.code == 0
    assert "resumed" not in outcome.out

    # As a requeued job on another node: the same command, another place of the same data.
    moved = root.rename(tmp_path / "moved")
    labels = (moved / "dmos.csv").read_text()
    again = (f"dataset.root={moved}", "run_dir=out/cut", "resume=auto")
    (moved / "dmos.csv").write_text(labels.replace("4.10", "3.95"))
    outcome = run(main, *command, *again)
    assert outcome.code == 2
    assert "the content of kadid: other images, MOS, splits or subsets" in outcome.err
    (moved / "dmos.csv").write_text(labels)
    outcome = run(main, *command, *again)
    assert outcome.code == 0, outcome.err
    assert "resumed after step 3" in outcome.out
    whole, cut = (metric_history(tmp_path / "out" / name) for name in ("whole", "cut"))
    by_step = [frame.groupby("step").first().sort_index(axis=1) for frame in (whole, cut)]
    pd.testing.assert_frame_equal(*by_step, check_exact=True)
    assert len(whole) == len(cut)

    # A finished run needs its data no more, and takes no other value.
    outcome = run(main, "resume=out/cut", "optimizer.lr=0.5")
    assert outcome.code == 2
    assert "init_from=" in outcome.err
    outcome = run(main, "resume=out/cut")
    assert outcome.code == 0, outcome.err
    assert "this run has finished; there is nothing to resume" in outcome.out
    assert json.loads((tmp_path / "out/cut/run.json").read_text())["finished"] is True


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    claim(folder, "hardware=cpu_2procs")
    with pytest.raises(ConfigError, match=r"hardware\.devices: 2 -> 1"):
        claim(folder, "hardware=cpu", f"resume={folder}")


def test_the_search_path_is_kept_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = whole_search_path("hydra.searchpath=[file://own,pkg://mine,'a b']")
    assert kept == f"hydra.searchpath=['file://{tmp_path}/own','pkg://mine','{tmp_path}/a b']"
    assert kept_overrides([kept, "run_dir=x"]) == (kept,)
    run = record(tmp_path / "run", kept, "method=own")
    assert with_saved_overrides([f"resume={run}"])[:2] == [kept, "method=own"]
    other = "hydra.searchpath=[pkg://b]"
    assert with_saved_overrides([f"resume={run}", other])[:2] == ["method=own", other]

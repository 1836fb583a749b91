"""Some of what `scripts/fault_report.py` does: real processes, real signals, real files."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path

import pytest

from tests.support.recovery import assert_recovered
from tools.faults import kills, storage, surroundings
from tools.faults.report import last_line
from tools.faults.runs import ARGUMENTS, Workshop, compare, read_result
from vqr1.errors import EXIT_INTERRUPTED, RunFaultError
from vqr1.training.checkpoint_files import read_checkpoint, step_name

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("faults"))


def test_the_uninterrupted_run_logs_each_metric_once_at_a_step(workshop: Workshop) -> None:
    history = workshop.reference.history
    assert all(len(values) == 1 for values in history.values())
    # 7 steps, counted from 1; validated at the start and after every third.
    assert sorted(step for key, step in history if key == "train/loss") == [1, 2, 3, 4, 5, 6, 7]
    assert sorted(step for key, step in history if key == "val/srcc") == [0, 3, 6]
    assert workshop.reference.status == ["FINISHED"]


@pytest.mark.parametrize("phase", ["update", "checkpoint"])
def test_killed_and_resumed_is_the_same_run(workshop: Workshop, phase: str) -> None:
    name = f"kill_{phase}"
    kills.kill_in(workshop, name, phase, random.Random(phase), resume=False)
    training = workshop.resume(name)
    assert training.wait() == 0, training.output
    done = compare(read_result(training.folder), workshop.reference)
    assert done.identical, done
    # A finished run reports it and does nothing.
    again = workshop.resume(name)
    assert again.wait() == 0
    assert "this run has finished" in again.output


def test_rows_of_two_images_killed_and_resumed_are_the_same_run(tmp_path: Path) -> None:
    pairs = ("dataset.full_reference=true", "prompt=full_reference")
    workshop = Workshop(tmp_path, (*ARGUMENTS, *pairs))
    kills.kill_in(workshop, "pairs", "update", random.Random("pairs"), resume=False)
    training = workshop.resume("pairs")
    assert training.wait() == 0, training.output
    done = compare(read_result(training.folder), workshop.reference)
    assert done.identical, done


@pytest.mark.parametrize(
    ("number", "phase"),
    [
        (signal.SIGTERM, "rollout"),
        (signal.SIGUSR1, "validation"),
        (signal.SIGHUP, "rollout"),
    ],
)
def test_a_signal_saves_the_step_and_exits_with_75(
    workshop: Workshop, number: signal.Signals, phase: str
) -> None:
    result = kills.stop_by_signal(workshop, number, phase)
    assert_recovered(result)
    assert result.printed.endswith("resume=run")


def test_a_validation_after_the_last_step_that_was_stopped_is_done_by_the_resumed_run(
    tmp_path: Path,
) -> None:
    workshop = Workshop(tmp_path, (*ARGUMENTS, "max_steps=6"))
    assert ("val/srcc", 6) in workshop.reference.history
    assert_recovered(kills.stop_by_signal(workshop, signal.SIGUSR1, "last validation"))
    (folder,) = tmp_path.glob("stop_*")
    kept = read_checkpoint(folder / "run/checkpoints" / step_name("step", 6))["callbacks"]
    assert kept["RunCheckpoints"]["validation_pending"] is False


@pytest.mark.parametrize("lost", ["closed_pipe", "closed_terminal"])
def test_output_that_nobody_takes_stops_no_training(workshop: Workshop, lost: str) -> None:
    # `train.py ... | head -2`, and a terminal that is closed while SIGHUP is ignored.
    training = workshop.start(lost, "run_dir=run", tweak=lost)
    assert training.wait() == 0
    done = compare(read_result(training.folder), workshop.reference)
    assert done.identical, done
    # The report at the end had no reader.
    assert "took" not in training.output


def test_a_signal_saves_a_training_that_nobody_reads(workshop: Workshop) -> None:
    # What a closed terminal does: no more output, and SIGHUP.
    training = workshop.start("gone", "run_dir=run", tweak="closed_terminal")
    training.wait_until("rollout", 5)
    training.signal(signal.SIGHUP)
    assert training.wait() == EXIT_INTERRUPTED
    resumed = workshop.resume("gone")
    assert resumed.wait() == 0, resumed.output
    assert compare(read_result(resumed.folder), workshop.reference).identical


def test_nohup_keeps_a_training_from_stopping_by_sighup(workshop: Workshop) -> None:
    training = workshop.start("nohup", "run_dir=run", tweak="nohup")
    training.wait_until("rollout", 5)
    training.signal(signal.SIGHUP)
    assert training.wait() == 0, training.output
    assert compare(read_result(training.folder), workshop.reference).identical


@pytest.mark.parametrize("lost", ["closed_pipe", "closed_terminal"])
def test_output_that_nobody_takes_stops_no_sweep(workshop: Workshop, lost: str) -> None:
    sweep = workshop.start(f"sweep_{lost}", "seed=1,2", "max_steps=1", "-m", tweak=lost)
    assert sweep.wait() == 0
    outcomes = list(sweep.folder.glob("multirun/train/*/*/outcome.json"))
    assert [json.loads(path.read_text())["status"] for path in outcomes] == ["FINISHED"] * 2
    assert len(list(sweep.folder.glob("multirun/train/*/sweep_summary.json"))) == 1


def test_sighup_saves_the_job_of_a_sweep_which_resumes_it(workshop: Workshop) -> None:
    command = ("seed=1,2", "max_steps=3", "-m")
    sweep = workshop.start("sweep_hangup", *command)
    sweep.wait_until("rollout", 2)
    sweep.signal(signal.SIGHUP)
    assert sweep.wait() == EXIT_INTERRUPTED, sweep.output
    assert "stopped by SIGHUP" in sweep.output
    assert "the sweep is stopped; the same command again continues with it" in sweep.output
    # Neither job has ended: the first is saved, the second has not begun.
    assert list(sweep.folder.glob("multirun/train/*/*/outcome.json")) == []
    again = workshop.start("sweep_hangup", *command)
    assert again.wait() == 0, again.output
    assert len(list(sweep.folder.glob("multirun/train/*/*/outcome.json"))) == 2


def test_a_second_ctrl_c_ends_at_once_and_costs_no_more_than_a_kill(workshop: Workshop) -> None:
    assert_recovered(kills.stop_twice(workshop))


def test_a_killed_loader_worker_is_one_line(workshop: Workshop) -> None:
    result = surroundings.worker_killed(workshop, "checkpoint")
    assert_recovered(result)
    assert "a loader worker died" in result.printed


def test_damaged_best_weights_are_named_and_count_no_more(workshop: Workshop) -> None:
    # Evaluated after steps 3 and 6; stopped after step 5, so that the best is of step 3 or of none.
    folder = storage.stopped_run(workshop, "damaged_best")
    (best,) = (folder / "run" / "checkpoints").glob("best_*.ckpt")
    storage.flip_bit(best)
    training = workshop.resume("damaged_best")
    assert training.wait() == 0, training.output
    assert "the best weights so far are lost, they count no more" in training.output
    # The validation after step 6 is the best of those that are left.
    assert (best.parent / step_name("best", 6)).is_file()
    assert not best.exists()


def test_a_damaged_state_is_left_aside(workshop: Workshop) -> None:
    assert_recovered(storage.damaged(workshop, "truncated", storage.truncate))


def test_a_full_disk_stops_with_one_line(workshop: Workshop) -> None:
    result = storage.full_disk(workshop)
    assert_recovered(result)
    assert result.printed.startswith("error: checkpoint not written: ")


def test_a_loader_worker_without_memory_stops_with_one_line(workshop: Workshop) -> None:
    # It cannot send its batch, for which training must not wait for ever.
    result = surroundings.worker_out_of_memory(workshop)
    assert_recovered(result)
    assert "a loader worker died" in result.printed


def test_updates_that_are_not_finite_are_excluded_and_kept(workshop: Workshop) -> None:
    training = workshop.start(
        "nan", "run_dir=run", "callbacks.watchdogs.non_finite_limit=1", tweak="nan_reward"
    )
    assert training.wait() == RunFaultError.exit_code
    assert "is not finite (advantages hold NaN or infinity)" in last_line(training.output)
    run = training.folder / "run"
    # The third step went wrong: its weights are those after the second.
    third = read_checkpoint(run / "checkpoints" / "step_00000003.ckpt")
    second = read_checkpoint(run / "checkpoints" / "step_00000002.ckpt")
    for name, weights in second["state_dict"].items():
        assert third["state_dict"][name].equal(weights), name
    kept = read_checkpoint(run / "offending" / "step_00000003.ckpt")
    assert len(kept["images"]) == 3
    assert kept["advantages"][0].isnan().all()
    assert [len(texts) for texts in kept["texts"]] == [3, 3, 3]


def test_a_run_directory_is_named_by_its_mlflow_run(workshop: Workshop) -> None:
    import sqlite3

    folder = Path(workshop.folder / "whole")
    with sqlite3.connect(folder / "mlflow.db") as connection:
        tags = dict(connection.execute("select key, value from tags").fetchall())
    assert tags["vqr1.run_dir"] == str(folder / "run")

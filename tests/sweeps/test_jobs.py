from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tools.faults.mlflow_database import new_database
from vqr1.config import LoggerConfig
from vqr1.errors import ConfigError, DataError
from vqr1.sweeps.folder import SweepFolder, SweepRecord
from vqr1.sweeps.jobs import SweepJob, differences, job_name, sweep_key, unique_jobs
from vqr1.sweeps.session import Sweep, SweepPlan, find_folder


def test_a_job_is_named_by_what_it_trains() -> None:
    values = {"optimizer": {"lr": 1e-4}, "seed": 1, "run_dir": "a", "logger": {"name": "mlflow"},
              "hardware": {"threads": 2, "accelerator": "cpu"}}  # fmt: skip
    same = {**values, "run_dir": "b", "logger": {"name": "csv"},
            "hardware": {"threads": 1, "accelerator": "cpu"}}  # fmt: skip
    assert job_name(values) == job_name(same)
    assert job_name(values) != job_name({**values, "seed": 2})
    assert job_name(values) != job_name({**values, "hardware": {"accelerator": "gpu"}})


def test_the_same_command_is_the_same_sweep() -> None:
    key = sweep_key("train", ["seed=1,2", "reward=mse"], {})
    assert key == sweep_key("train", ["reward=mse", "seed=1,2", "sweep.resume=auto"], {})
    assert key == sweep_key("train", ["reward=mse", "seed=1,2", "+logger.tags.a=b"], {})
    assert key != sweep_key("train", ["reward=mse", "seed=1,3"], {})
    assert key != sweep_key("train", ["reward=mse", "seed=1,2"], {"optimizer.lr": "1,2"})


def test_points_that_compose_alike_are_one_job() -> None:
    jobs = [SweepJob(name, (name, str(n)), {}) for n, name in enumerate("abcab")]
    assert [job.overrides for job in unique_jobs(jobs)] == [("a", "0"), ("b", "1"), ("c", "2")]


def test_differences_name_key_and_both_values() -> None:
    assert differences({"a.b": 1, "c": 2, "d": 0}, {"a.b": 3, "c": 2, "e": None}) == [
        "a.b: 1 then, 3 now", "d: 0 then, (absent) now", "e: (absent) then, None now",
    ]  # fmt: skip


def plan(**changes: object) -> SweepPlan:
    job = SweepJob("n1", ("seed=1",), {"seed": "1"})
    standard = SweepPlan(
        "key", "train.py -m seed=1,2", {"lr": 1}, {"seed": "1,2"}, (job,),
        LoggerConfig(name="none"), "", None, None, "val/srcc",
    )  # fmt: skip
    return replace(standard, **changes)  # type: ignore[arg-type]


def keep(path: Path, key: str = "key", lr: int = 1) -> SweepFolder:
    folder = SweepFolder(path)
    folder.write(
        SweepRecord(key, "train.py -m seed=1,2", {"lr": lr}, {"seed": "1,2"}, {"n1": {"seed": "1"}})
    )
    return folder


def test_auto_finds_the_last_sweep_of_the_command(tmp_path: Path) -> None:
    keep(tmp_path / "2020-01-01")
    last = keep(tmp_path / "2020-01-02")
    keep(tmp_path / "2020-01-03", key="other")
    new = tmp_path / "2020-01-04"
    assert find_folder(plan(), "auto", new)[0].path == last.path
    assert find_folder(plan(), "never", new)[0].path == new
    assert find_folder(plan(key="third"), "auto", new)[0].path == new


def test_folders_of_others_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in (("c", '{"program": "x"}'), ("d", "[]"), ("e", "{"), ("f", "\xff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sweep.json").write_bytes(text.encode("latin-1"))
    kept = keep(tmp_path / "a")
    denied = keep(tmp_path / "b")
    is_file = Path.is_file

    def readable(path: Path) -> bool:
        if path.parent == denied.path:
            raise PermissionError(13, "Permission denied", str(path))
        return is_file(path)

    monkeypatch.setattr(Path, "is_file", readable)
    assert find_folder(plan(), "auto", tmp_path / "g")[0].path == kept.path
    with pytest.raises(DataError, match=r"sweep.json: not the record of a sweep"):
        find_folder(plan(), str(tmp_path / "c"), tmp_path / "g")


def test_a_changed_configuration_begins_a_new_sweep_and_states_why(tmp_path: Path) -> None:
    keep(tmp_path / "a")
    folder, note = find_folder(plan(base={"lr": 2}), "auto", tmp_path / "b")
    assert folder.path == tmp_path / "b"
    assert note is not None
    assert "lr: 1 then, 2 now" in note
    # A file under conf/ that a swept value names has changed: same text, another configuration.
    job = SweepJob("n2", ("seed=1",), {"seed": "1"})
    _, note = find_folder(plan(jobs=(job,)), "auto", tmp_path / "b")
    assert note is not None
    assert "seed=1: composes to another configuration" in note


@pytest.mark.parametrize(
    ("changes", "printed"),
    [
        ({"base": {"lr": 2}}, "lr: 1 then, 2 now"),
        ({"space": {"seed": "1", "lr": "1,2"}}, "swept keys: seed then, seed, lr now"),
    ],
)
def test_a_named_sweep_that_differs_is_refused(
    tmp_path: Path, changes: dict[str, object], printed: str
) -> None:
    kept = keep(tmp_path / "a")
    with pytest.raises(ConfigError) as error:
        find_folder(plan(**changes), str(kept.path), tmp_path / "b")
    assert printed in str(error.value)
    assert f"sweep.resume={kept.path}" in str(error.value)


def test_a_named_sweep_may_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = keep(tmp_path / "a")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_folder(plan(), "~/a", tmp_path / "b")[0].path == kept.path
    grown = plan(key="longer", space={"seed": "1,2,3"})
    assert find_folder(grown, str(kept.path), tmp_path / "b")[0].path == kept.path


def test_the_command_that_began_a_sweep_finds_it_after_another_continued_it(tmp_path: Path) -> None:
    kept = keep(tmp_path / "a")
    grown = plan(key="longer", command="train.py -m seed=1,2,3", space={"seed": "1,2,3"})
    with Sweep(kept, grown, print):
        pass
    assert kept.record is not None
    assert kept.record.space == {"seed": "1,2,3"}
    assert kept.record.command == "train.py -m seed=1,2"
    assert find_folder(plan(), "auto", tmp_path / "b")[0].path == kept.path


@pytest.mark.medium
def test_a_folder_is_not_used_for_two_sweeps(tmp_path: Path) -> None:
    kept = keep(tmp_path / "a", key="other")
    with pytest.raises(ConfigError, match="holds another sweep"):
        find_folder(plan(), "auto", kept.path)
    with pytest.raises(ConfigError, match="holds another sweep"):
        find_folder(plan(), "never", kept.path)
    logger = LoggerConfig(name="mlflow", tracking_uri=new_database(tmp_path / "x.db"))
    with pytest.raises(ConfigError, match=r"parent=no/such/place: no such run in sqlite"):
        find_folder(plan(logger=logger), "no/such/place", tmp_path / "b")

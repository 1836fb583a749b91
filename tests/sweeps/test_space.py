"""What a multirun's command line means: the values of a search, folders, threads."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from hydra_plugins.vqr1_sweeps.optuna_search import covering_points, distribution
from hydra_plugins.vqr1_sweeps.planning import SweepContext, refuse_no_values, refuse_other_folders
from hydra_plugins.vqr1_sweeps.processes import ProcessLauncher
from vqr1.errors import ConfigError
from vqr1.sweeps.jobs import SweepJob


class Loader:
    """Lists the choices of a group as Hydra's loader does."""

    def get_group_options(self, group: str, results_filter: object) -> list[str]:
        return ["binary", "fidelity", "fidelity_wide"]


def parsed(text: str) -> Override:
    override = OverridesParser.create().parse_override(text)
    override.config_loader = cast(Any, Loader())
    return override


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # As Hydra's grid: the end of a range is excluded.
        ("a=range(0.1,0.5,0.1)", FloatDistribution(0.1, 0.4, step=0.1)),
        ("a=range(1,2.25,0.5)", FloatDistribution(1.0, 2.0, step=0.5)),
        ("a=range(0.5,0.1,-0.1)", FloatDistribution(0.2, 0.5, step=0.1)),
        ("a=range(2,9)", IntDistribution(2, 8)),
        ("a=range(2,9,3)", IntDistribution(2, 8, step=3)),
        # 9, 6, 3
        ("a=range(9,0,-3)", IntDistribution(3, 9, step=3)),
        ("a=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("a=int(interval(2,5))", IntDistribution(2, 5)),
        ("reward=glob(fidelity*)", CategoricalDistribution(["fidelity", "fidelity_wide"])),
        ("a=x,y", CategoricalDistribution(["x", "y"])),
    ],
)
def test_a_search_reads_what_hydra_does(text: str, expected: object) -> None:
    assert distribution(parsed(text)) == expected


def test_intervals_and_values_that_are_none() -> None:
    with pytest.raises(ConfigError, match=r"a=interval\(1.5,1\): no interval to search over"):
        distribution(parsed("a=interval(1.5,1)"))
    with pytest.raises(ConfigError) as error:
        refuse_no_values([parsed("a=range(1,1)"), parsed("reward=glob(none*)"), parsed("b=1,2")])
    assert [line.partition(":")[0] for line in error.value.problems] == [
        "a=range(1,1)", "reward=glob(none*)",
    ]  # fmt: skip


def test_every_choice_is_composed_once() -> None:
    space = {
        "reward": CategoricalDistribution(["a", "b", "c"]),
        "lr": FloatDistribution(1.0, 2.0),
    }
    assert covering_points(space) == [
        {"reward": "a", "lr": 1.0}, {"reward": "b", "lr": 2.0}, {"reward": "c", "lr": 2.0},
    ]  # fmt: skip


def test_folders_of_jobs_are_not_named() -> None:
    refuse_other_folders(["hydra.sweep.dir=x", "hydra.mode=MULTIRUN"])
    with pytest.raises(ConfigError, match=r"hydra.sweep.subdir=x: .* numbered"):
        refuse_other_folders(["hydra.sweep.subdir=x"])


def context(launcher: dict[str, object]) -> SweepContext:
    values = {
        "hydra": {"launcher": launcher, "overrides": {"task": []}},
        "hardware": {"accelerator": "cpu", "devices": 1},
    }
    return SweepContext(cast(Any, None), None, OmegaConf.create(values))


def test_threads_are_divided_among_the_jobs_that_run_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    started: list[list[list[str]]] = []
    launcher = SimpleNamespace(launch=lambda jobs, number: started.append(jobs))
    monkeypatch.setattr(SweepContext, "_launcher", lambda self, needs_processes: launcher)
    submitit = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
    for target, threads in (("LocalLauncher", ["hardware.threads=4"]), ("SlurmLauncher", [])):
        here = context({"_target_": f"{submitit}.{target}", "array_parallelism": 1})
        jobs = [SweepJob(str(n), (), {}) for n in range(3)]
        here.launch(jobs)([["seed=1"]] * 3, 0)
        assert started.pop() == [["seed=1", *threads]] * 3


def test_a_folder_with_an_apostrophe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "it's"
    launcher = ProcessLauncher()
    config = {"hydra": {"sweep": {"dir": str(folder)}, "overrides": {"hydra": []}}}
    launcher.config = OmegaConf.create(config)
    given: list[list[str]] = []
    monkeypatch.setattr("subprocess.Popen", lambda words, **options: given.append(words))
    monkeypatch.setattr("sys.argv", ["train.py"])
    launcher._start(0, ["seed=1"])
    place = OverridesParser.create().parse_override(given[0][-1]).value()
    assert str(getattr(place, "text", place)) == str(folder / "0")

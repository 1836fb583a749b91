"""How a training is started: alone, in several processes, in the job of a sweep, and again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from omegaconf import open_dict

from tests.cli.conftest import Command, run  # noqa: F401 - a fixture
from tests.cli.test_configs import compose_with_hydra
from tests.evaluation.test_questions import file  # noqa: F401
from tests.support.commands import TIMEOUT
from tests.training.test_questions import answers_of
from tools.faults.forked import start_command
from vqr1.cli.train import main
from vqr1.distributed.environment import RankInfo
from vqr1.program import STARTED_AS, own_command
from vqr1.training.checkpoint_files import read_checkpoint, step_name
from vqr1.training.questions import KEPT
from vqr1.training.resumed_arguments import arguments_of
from vqr1.training.run_lookup import resume_command

REPOSITORY = Path(__file__).resolve().parents[2]
STEP = (
    "dataset=demo", "dataset.max_images=10", "loader.workers=0", "loader.batch_size=2",
    "validation.every_steps=1", "validation.samples=1", "validation.batch_size=4",
    "validation.test=false", "validation.bootstrap_draws=20", "grpo.group_size=2",
    "rollout.sampling.max_new_tokens=8", "max_steps=1",
)  # fmt: skip
AS_BEFORE = "resume=run   # by the same launcher, nodes and processes as before"


def run_script(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *arguments],
        cwd=folder, capture_output=True, text=True, check=False, timeout=TIMEOUT,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **variables},
    )  # fmt: skip


@pytest.mark.slow
def test_one_process_with_sharded_weights(tmp_path: Path, file: Path) -> None:  # noqa: F811
    # Without a validation in the fit no earlier step is best, and the answers are of the last one.
    process = start_command(
        "vqr1.cli.train", tmp_path, *STEP, "hardware.strategy=fsdp2", "hardware.threads=1",
        "logger=csv", "run_dir=run", f"validation.questions={file}", "validation.every_steps=2",
    )  # fmt: skip
    process.join(TIMEOUT)
    assert process.exitcode == 0, (tmp_path / "output.txt").read_text()
    assert (tmp_path / "run/export/model.safetensors").is_file()
    kept = read_checkpoint(tmp_path / "run/checkpoints" / step_name(KEPT, 1))["texts"]
    export = f"model.path={tmp_path}/run/export"
    assert kept == answers_of(file, export, "run_dir=run", "mode.sampling.max_new_tokens=8")


@pytest.mark.slow
def test_a_sweep_job_of_two_processes_under_submitit(tmp_path: Path) -> None:
    done = run_script(
        tmp_path, "-m", "hydra/launcher=submitit_local", "hardware=cpu_2procs", "seed=1", *STEP
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("multirun/train/*/*/summary.json"))) == 1


def test_a_slurm_job_asks_for_the_gpus_of_its_processes() -> None:
    composed = compose_with_hydra("hydra/launcher=slurm", "hardware=8gpu_fsdp2")
    with open_dict(composed):
        composed.hydra.sweep.dir = "somewhere"
    launcher = Plugins.instance()._instantiate(composed.hydra.launcher)
    assert (launcher.params["gpus_per_node"], launcher.params["tasks_per_node"]) == (8, 1)


@pytest.mark.medium
def test_a_sweep_with_jobs_of_several_nodes_is_refused_before_the_first(
    run: Command,  # noqa: F811
) -> None:
    outcome = run(main, "-m", "hardware=cpu_2procs", "hardware.nodes=1,2")
    assert outcome.code == 2
    assert "hardware.nodes=2: one command, or a job of a sweep, starts" in outcome.err
    assert not list(Path().glob("multirun/train/*/*/job.json"))


CHECKOUT, MODULE = "/checkout/train.py", "/site-packages/vqr1/cli/train.py"
ALONE, LAUNCHED = RankInfo(), RankInfo(0, 2, 0, 2, Path("report"), True)
TORCHRUN, NODES = RankInfo(0, 2, 0, 2, None, True), RankInfo(0, 4, 0, 2, None, True)


BY_TORCHRUN, BY_SRUN = {"TORCHELASTIC_RUN_ID": "none"}, {"SLURM_STEP_NUM_TASKS": "4"}
ON_NODES = (
    "torchrun --nnodes 2 --nproc-per-node 2 --rdzv-backend c10d --rdzv-endpoint first:29400 "
    "{} resume=run   # on each of the 2 nodes"
)


@pytest.mark.parametrize(
    ("started", "place", "launcher", "expected"),
    [
        (CHECKOUT, ALONE, {}, "python train.py resume=run"),
        (CHECKOUT, LAUNCHED, {}, "python train.py resume=run"),
        (CHECKOUT, TORCHRUN, BY_TORCHRUN, "torchrun --nproc-per-node 2 train.py resume=run"),
        (CHECKOUT, TORCHRUN, {}, f"python train.py {AS_BEFORE} (1 x 2 processes)"),
        (CHECKOUT, NODES, {}, f"python train.py {AS_BEFORE} (2 x 2 processes)"),
        (CHECKOUT, NODES, BY_TORCHRUN, ON_NODES.format("train.py")),
        (CHECKOUT, NODES, BY_SRUN, "srun --nodes 2 --ntasks-per-node 2 python train.py resume=run"),
        ("vqr1 train", ALONE, {}, "vqr1 train resume=run"),
        ("/bin/vqr1-train", ALONE, {}, "vqr1 train resume=run"),
        (MODULE, ALONE, {}, "vqr1 train resume=run"),
        ("/site-packages/submitit/core/_submit.py", ALONE, {}, "vqr1 train resume=run"),
        ("python -m vqr1 train", ALONE, {}, "python -m vqr1 train resume=run"),
        ("/site-packages/vqr1/__main__.py", ALONE, {}, "python -m vqr1 train resume=run"),
        (
            "python -m vqr1 train", TORCHRUN, BY_TORCHRUN,
            "torchrun --nproc-per-node 2 -m vqr1 train resume=run",
        ),
        (
            "vqr1 train", TORCHRUN, BY_TORCHRUN,
            "torchrun --nproc-per-node 2 -m vqr1 train resume=run",
        ),
        ("vqr1 train", NODES, BY_TORCHRUN, ON_NODES.format("-m vqr1 train")),
    ],
)  # fmt: skip
def test_a_run_continues_as_it_was_started(
    monkeypatch: pytest.MonkeyPatch,
    started: str,
    place: RankInfo,
    launcher: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.setattr(sys, "argv", [started])
    monkeypatch.setenv("MASTER_ADDR", "first")
    for name in BY_TORCHRUN | BY_SRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    assert resume_command(Path("run"), place) == expected


def test_only_rank_0_has_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under srun too, where Hydra would put its own into the folder of the command."""
    other = RankInfo(1, 2, 1, 2, None, True)
    assert arguments_of(NODES, ["seed=1"]) == ["seed=1"]
    arguments = arguments_of(other, ["seed=1"])
    composed = compose_with_hydra(*arguments[1:])
    assert (composed.hydra.run.dir, composed.hydra.output_subdir) == (".", None)


def test_processes_of_a_command_keep_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [MODULE])
    monkeypatch.setenv(STARTED_AS, "train.py")
    assert resume_command(Path("run"), LAUNCHED) == "python train.py resume=run"


def test_a_command_is_started_again_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [CHECKOUT])
    assert own_command() == [sys.executable, CHECKOUT]
    for started in ("vqr1 eval", "python -m vqr1 eval"):
        monkeypatch.setattr(sys, "argv", [started, "seed=1"])
        assert own_command() == [sys.executable, "-P", "-m", "vqr1", "eval"]


@pytest.mark.slow
def test_a_process_without_a_rendezvous_reports_it_in_one_line(tmp_path: Path) -> None:
    done = run_script(
        tmp_path, "hardware.rendezvous_seconds=1", RANK="1", WORLD_SIZE="2", LOCAL_RANK="1",
        LOCAL_WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="1",
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: process 1 of 2 cannot use the rendezvous 127.0.0.1:1 (MASTER")
    assert "Connection refused; give all processes an address" in line

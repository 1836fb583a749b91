"""What `srun`, `sbatch`, `scancel` and a dead node do to runs, on a real SLURM of virtual nodes."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch

from tests.cli.conftest import Command, run  # noqa: F401
from tests.support.commands import REPOSITORY, metrics, state
from tests.support.images import noise_image
from tests.support.slurm import Cluster, missing, slurm_cluster, wait_for
from vqr1.cli import score
from vqr1.training.checkpoint_files import step_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

STEPS = 6
SMALL = (
    "dataset=demo", "dataset.max_images=6", "loader.batch_size=2", f"max_steps={STEPS}",
    "loader.workers=0", "validation.every_steps=3", "validation.samples=0",
    "validation.bootstrap_draws=20", "grpo.group_size=3", "rollout.sampling.max_new_tokens=24",
    "callbacks.checkpoint.every_steps=1", "hardware.threads=1", "seed=3",
)  # fmt: skip
TWO = ("--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1")
SRUN = ("srun", *TWO, "--kill-on-bad-exit=1", sys.executable)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("s"), nodes=3) as running:
        yield running


def place(cluster: Cluster, folder: Path) -> Path:
    """A folder in which the commands are given as in the repository's."""
    folder.mkdir(exist_ok=True)
    for name in ("train.py", "eval.py", "score.py"):
        (folder / name).symlink_to(REPOSITORY / name)
    cluster.environment |= {
        "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PYTHON": sys.executable,
        "RUNS": "runs", "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    return folder


def in_step(cluster: Cluster, folder: Path, *command: str) -> str:
    """What a step of two nodes, one task on each, prints; it has to end well."""
    done = subprocess.run(
        [*SRUN, *command], cwd=folder, env=cluster.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training over two nodes that nothing disturbs."""
    folder = place(cluster, tmp_path_factory.mktemp("whole"))
    in_step(cluster, folder, "train.py", *SMALL, "hardware.nodes=2", "run_dir=run")
    return folder


def test_a_job_requeued_at_its_limit_and_after_its_node_is_lost(
    cluster: Cluster, whole: Path, tmp_path: Path
) -> None:
    folder = place(cluster, tmp_path)
    script = REPOSITORY / "scripts/slurm/train_nodes.sbatch"
    job = subprocess.check_output(
        ["sbatch", "--parsable", *TWO, "--output=job.txt", str(script), *SMALL],
        cwd=folder, env=cluster.environment, text=True,
    ).strip()  # fmt: skip
    run_dir = folder / "runs" / job

    def steps() -> int:
        return max(map(step_of, (run_dir / "checkpoints").glob("step_*.ckpt")), default=0)

    wait_for(lambda: steps() >= 1)
    # As SLURM does before the limit, to the batch shell alone.
    cluster.ask("scancel", "--batch", "--signal=USR1", job)
    wait_for(lambda: cluster.restarts(job) == 1)
    stopped = steps()
    assert stopped < STEPS
    wait_for(lambda: steps() > stopped)
    # The second node's daemon dies, its task lives on, and hangs until SLURM has noticed.
    cluster.kill_node("127.0.0.2")
    (task,) = (process for process in psutil.process_iter() if _is_task(process, job, "1"))
    task.suspend()
    wait_for(lambda: "Node failure on 127.0.0.2" in (folder / "job.txt").read_text())
    task.resume()
    wait_for(lambda: cluster.restarts(job) == 2)
    wait_for(lambda: cluster.state(job) in ("COMPLETED", "FAILED", "CANCELLED"))
    printed = (folder / "job.txt").read_text()
    assert cluster.state(job) == "COMPLETED", printed
    assert printed.count("resumed after step") == 2, printed
    assert not task.is_running()
    assert "127.0.0.[1,3]" in cluster.ask("scontrol", "show", "job", job)
    cluster.start_node("127.0.0.2")
    ended, expected = state(run_dir, STEPS), state(whole / "run", STEPS)
    assert all(torch.equal(ended[name], weight) for name, weight in expected.items())
    # As text, for what is undefined in both.
    assert str(sorted(metrics(folder).items())) == str(sorted(metrics(whole).items()))


def test_evaluation_and_scoring_over_two_nodes(
    cluster: Cluster,
    whole: Path,
    run: Command,  # noqa: F811
) -> None:
    expected = scores(whole / "run/predictions/test_after.csv")
    assert len(expected) == 6
    same = ("model.path=run/export", "mode=greedy", "hardware.threads=1")
    in_step(
        cluster, whole, "eval.py", "dataset=demo", "dataset.max_images=6", *same,
        "loader.batch_size=2", "run_dir=evaluated", "logger=none",
    )  # fmt: skip
    assert scores(whole / "evaluated/predictions.csv") == expected
    photos = whole / "photos"
    photos.mkdir()
    for number in range(5):
        noise_image(number, 60, 60).save(photos / f"{number}.png")
    ask = (str(photos), *same[1:], "batch_size=2")
    in_step(cluster, whole, "score.py", *ask, "output=two.csv")
    assert run(score.main, *ask, f"output={whole}/one.csv").code == 0
    assert (whole / "two.csv").read_bytes() == (whole / "one.csv").read_bytes()


def scores(predictions: Path) -> dict[str, str]:
    """The score of each image in a file of predictions."""
    with predictions.open() as file:
        return {row["image"]: row["score"] for row in csv.DictReader(file)}


def test_a_sweep_of_which_a_job_is_cancelled(cluster: Cluster, tmp_path: Path) -> None:
    folder = place(cluster, tmp_path)
    command = (
        sys.executable, "train.py", "-m", "hydra/launcher=slurm", "hydra.launcher.partition=main",
        "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1",
        "hydra.sweep.dir=sweep", *SMALL, "validation.test=false", "seed=1,2",
    )  # fmt: skip
    output = folder / "first.txt"
    with output.open("wb") as file:
        first = subprocess.Popen(
            command, cwd=folder, env=cluster.environment, stdout=file, stderr=file
        )
    saved = folder / "sweep/1/checkpoints"
    wait_for(lambda: list(saved.glob("step_*[1-9].ckpt")) or first.poll() is not None)
    (job,) = cluster.ask("squeue", "--noheader", "--array", "--format=%i", "--name=train").split()[
        -1:
    ]
    assert job.endswith("_1")
    cluster.ask("scancel", job)
    assert first.wait(300) == 1, output.read_text()
    assert "1 finished, 1 killed" in output.read_text()
    assert "the same command again makes only what is missing" in output.read_text()
    (log,) = (folder / "sweep/.submitit").glob(f"{job}/*.err")
    assert "SIGTERM: stopping after this step" in log.read_text()
    again = subprocess.run(
        command, cwd=folder, env=cluster.environment, capture_output=True, text=True
    )
    assert again.returncode == 0, again.stdout + again.stderr
    assert "1 done before, 1 to run" in again.stdout
    assert "2 finished" in again.stdout


def _is_task(process: psutil.Process, job: str, rank: str) -> bool:
    """Whether it is the task of that rank in the job's step."""
    with suppress(psutil.Error):
        variables = process.environ()
        return (
            variables.get("SLURM_JOB_ID") == job
            and variables.get("SLURM_PROCID") == rank
            and "SLURM_STEP_NUM_TASKS" in variables
            and "train.py" in process.cmdline()
        )
    return False

"""`score.py` and `eval.py` in two real ranks: the rows of one process, resumed after a kill."""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command, run, write_kadid  # noqa: F401
from tests.evaluation.test_server import SMALL, Served
from tests.support.chat_server import chat_server
from tests.support.commands import REPOSITORY, Training
from tests.support.images import noise_image
from tools.faults import forked
from vqr1.cli import evaluate, score
from vqr1.inference.result_file import partials

pytestmark = pytest.mark.slow

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
ASK = ("photos", "mode=greedy", "batch_size=2", "hardware.threads=1")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven images, one of which does not decode."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(7):
        noise_image(number, 60, 60).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes((folder / "3.png").read_bytes()[:100])
    return folder


def _task(module: str, folder: str, variables: Mapping[str, str], arguments: Sequence[str]) -> None:
    forked.enter(folder)
    # An engine of vLLM in the process of the tests leaves some of them there.
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    sys.argv = ["command", *arguments]
    importlib.import_module(module).main()


def srun(module: str, folder: Path, *arguments: str) -> list[int | None]:
    """Exit codes of the two tasks of one step."""
    tasks = start_tasks(module, folder, *arguments)
    for task in tasks:
        task.join(300)
    return [task.exitcode for task in tasks]


def start_tasks(module: str, folder: Path, *arguments: str) -> list[ForkServerProcess]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    shared = {"SLURM_STEP_NUM_TASKS": "2", "MASTER_PORT": port}
    return [
        forked.start(
            _task, module, str(folder),
            {**shared, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}, arguments,
        )
        for rank in range(2)
    ]  # fmt: skip


def metrics(run_dir: Path) -> dict[str, Any]:
    """The metrics of an evaluation, without the caption, which names the backend."""
    values: dict[str, Any] = json.loads((run_dir / "metrics.json").read_text())
    assert values.pop("caption")
    assert values
    return values


def test_scores_of_two_ranks_are_those_of_one(
    run: Command,  # noqa: F811
    tmp_path: Path,
    photos: Path,
) -> None:
    alone = run(score.main, *ASK, "output=one.csv")
    assert alone.code == 1
    launched = Training(
        tmp_path, *ASK, "output=two.csv", launcher=TORCHRUN, script=REPOSITORY / "score.py"
    )
    # Torchrun's own code for ranks that end with 1, which an unreadable image gives.
    assert launched.wait() == 1
    assert "6 scored, 1 unreadable, 0 invalid" in launched.output
    assert launched.output.count("6 scored") == 1
    assert srun("vqr1.cli.score", tmp_path, *ASK, "output=three.jsonl") == [1, 1]
    assert srun("vqr1.cli.score", tmp_path, *ASK, "output=four.csv") == [1, 1]
    content = Path("one.csv").read_bytes()
    assert content.count(b"\n") >= 8
    assert Path("two.csv").read_bytes() == content
    assert Path("four.csv").read_bytes() == content
    assert len(Path("three.jsonl").read_text().splitlines()) == 7
    # Rows on standard output, and a comparison, come from rank 0 alone.
    table = run(score.main, *ASK)
    (tmp_path / "output.txt").unlink()
    assert srun("vqr1.cli.score", tmp_path, *ASK) == [1, 1]
    printed = (tmp_path / "output.txt").read_text().splitlines()
    assert [line for line in printed if "photos/" in line and "unreadable:" not in line] == (
        table.out.splitlines()[1:]
    )
    compared = ("photos", "--mode", "compare", "hardware.threads=1", "batch_size=2")
    assert run(score.main, *compared, "output=ranking.csv").code == 1
    assert srun("vqr1.cli.score", tmp_path, *compared, "output=again.csv") == [1, 1]
    assert Path("again.csv").read_bytes() == Path("ranking.csv").read_bytes()
    assert not list(tmp_path.glob(".*.partial-*"))


def test_two_ranks_that_are_killed_are_resumed_by_one(
    run: Command,  # noqa: F811
    tmp_path: Path,
    photos: Path,
) -> None:
    ask = (*ASK, "output=scores.csv")
    assert run(score.main, *ASK, "output=whole.csv").code == 1
    tasks = start_tasks("vqr1.cli.score", tmp_path, *ask)
    parts = partials(tmp_path / "scores.csv")
    deadline = time.monotonic() + 900
    while any(task.is_alive() for task in tasks):
        assert time.monotonic() < deadline
        with suppress(FileNotFoundError):  # both end, and remove them
            if any(part.stat().st_size > 200 for part in parts.all()):
                break
        time.sleep(0.002)
    for task in tasks:
        task.kill()
        task.join(60)
    found = run(score.main, *ask)
    assert found.code == 1, found.err
    assert not parts.all()
    assert sorted(Path("scores.csv").read_text().splitlines()) == sorted(
        Path("whole.csv").read_text().splitlines()
    )


def test_a_mistake_of_two_ranks_is_reported_once(tmp_path: Path, photos: Path) -> None:
    for arguments, words in (
        ((*ASK, "output=scores.xlsx"), "output=scores.xlsx: its ending"),
        (("gone.png",), "gone.png: no such file or folder"),
        ((*ASK, "output=gone.csv", "model.path=gone"), "model.path=gone"),
    ):
        (tmp_path / "output.txt").unlink(missing_ok=True)
        assert srun("vqr1.cli.score", tmp_path, *arguments) == [2, 2]
        printed = (tmp_path / "output.txt").read_text()
        assert printed.count("error: ") == printed.count(words) == 1, printed
    assert not (tmp_path / "gone.csv").exists()


def test_two_ranks_evaluate_the_model_of_a_server(
    run: Command,  # noqa: F811
    tmp_path: Path,
) -> None:
    root = write_kadid(tmp_path / "kadid", references=3)
    small = (*SMALL, f"dataset.root={root}")
    local = run(evaluate.main, *small, "run_dir=local")
    assert local.code == 0, local.err
    with chat_server(Served()) as log:
        ask = (
            *small, "backend=openai", f"backend.url={log.url}", "backend.concurrency=1",
            "hardware.threads=1",
        )  # fmt: skip
        tasks = srun("vqr1.cli.evaluate", tmp_path, *ask, "run_dir=tasks")
        launched = Training(
            tmp_path, *ask, "run_dir=launched", launcher=TORCHRUN, script=REPOSITORY / "eval.py"
        )
        assert launched.wait() == 0, launched.output
    assert tasks == [0, 0], (tmp_path / "output.txt").read_text()
    content = (tmp_path / "local/predictions.csv").read_bytes()
    for folder in ("tasks", "launched"):
        assert (tmp_path / folder / "predictions.csv").read_bytes() == content
        assert metrics(tmp_path / folder) == metrics(tmp_path / "local")

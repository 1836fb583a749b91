"""The service and `score.py` whose terminal is closed, and whose output nobody takes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import httpx2
import pytest

from tests.inference.service.conftest import png
from tools.faults import lost_output

pytestmark = pytest.mark.slow

MODULE = "vqr1.cli.score"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def served(folder: Path, change: Callable[[], None] | None) -> tuple[ForkServerProcess, str]:
    port = free_port()
    process = lost_output.start(MODULE, str(folder), change, "serve", f"port={port}")
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 120
    while True:
        assert process.is_alive()
        assert time.monotonic() < deadline
        try:
            if httpx2.get(f"{url}/openapi.json", timeout=10).status_code == 200:
                return process, url
        except httpx2.HTTPError:
            time.sleep(0.05)


def score(url: str) -> int:
    files = [("images", ("1.png", png(1)))]
    return int(httpx2.post(f"{url}/score", files=files, timeout=120).status_code)


def end(process: ForkServerProcess, number: signal.Signals) -> int | None:
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    return process.exitcode


@pytest.mark.parametrize(
    "change", [None, lost_output.closed_pipe, lost_output.closed_terminal, lost_output.full_disk]
)
def test_sighup_ends_a_service_in_order_whoever_reads_its_output(
    tmp_path: Path, change: Callable[[], None] | None
) -> None:
    process, url = served(tmp_path, change)
    assert score(url) == 200
    assert end(process, signal.SIGHUP) == 0
    assert "Traceback" not in (tmp_path / "output.txt").read_text()


def test_nohup_keeps_a_service_from_stopping_by_sighup(tmp_path: Path) -> None:
    process, url = served(tmp_path, lost_output.nohup)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGHUP)
    time.sleep(0.5)
    assert score(url) == 200
    assert end(process, signal.SIGTERM) == 0


def test_results_that_a_full_disk_does_not_take_end_scoring_with_one_line(tmp_path: Path) -> None:
    # Here standard output is the result: to continue would be to lose it without a word.
    (tmp_path / "a.png").write_bytes(png(1))
    process = lost_output.start(
        MODULE, str(tmp_path), lost_output.full_results, "a.png", "format=csv"
    )
    process.join(120)
    printed = (tmp_path / "output.txt").read_text().splitlines()
    assert process.exitcode == 74, printed
    assert printed == [
        "error: standard output: cannot be written (No space left on device); make room there, "
        "and give the command again, which continues an output of CSV or JSON lines"
    ]


def test_scores_in_a_file_need_no_reader(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    process = lost_output.start(
        MODULE, str(tmp_path), lost_output.full_disk, "a.png", "output=scores.csv"
    )
    process.join(120)
    assert process.exitcode == 0
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 2

"""Faults around the run: data, loader workers, the clock, the tracking store."""

from __future__ import annotations

import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tools.faults.report import FaultResult, last_line
from tools.faults.runs import Training, Workshop, compare, read_result
from tools.faults.slow_answers import SlowAnswers
from vqr1.data.demo import ensure_demo_set
from vqr1.errors import RunFaultError, UserError


def deleted_image(workshop: Workshop) -> FaultResult:
    """The training images vanish within a run: one line names one; put back, the run continues."""
    fault = "deleted data file"
    data = workshop.folder / "demo"
    shutil.copytree(ensure_demo_set(), data)
    root = f"dataset.root={data}"
    training = workshop.start("deleted", "run_dir=run", root)
    training.wait_until("update", 2)
    hidden = data / "images_gone"
    (data / "images").rename(hidden)
    code = training.wait()
    printed = last_line(training.output)
    hidden.rename(data / "images")
    if code != UserError.exit_code or "images/" not in printed:
        return FaultResult(fault, printed=f"exit code {code}: {printed}")
    return _finish(workshop, "deleted", fault, printed, root)


def worker_killed(workshop: Workshop, phase: str = "update") -> FaultResult:
    """A loader worker is killed, as the kernel does when memory runs out."""
    fault = f"loader worker killed in {phase}"
    return _hurt_worker(workshop, fault, lambda pid: psutil.Process(pid).kill(), phase)


def worker_out_of_memory(workshop: Workshop) -> FaultResult:
    """A loader worker gets no more memory."""

    def starve(pid: int) -> None:
        used = psutil.Process(pid).memory_info().vms
        resource.prlimit(pid, resource.RLIMIT_AS, (used, used))

    return _hurt_worker(workshop, "out of memory in the loader worker", starve)


def clock_jump(workshop: Workshop) -> FaultResult:
    """The wall clock jumps ahead and back: nothing but the times in the log may change."""
    training = workshop.start("clock", "run_dir=run", tweak="clock_jumps")
    code = training.wait()
    done = compare(read_result(training.folder), workshop.reference) if code == 0 else None
    return FaultResult.of("clock jump", code, done, "" if code == 0 else last_line(training.output))


def locked_database(workshop: Workshop, seconds: float) -> FaultResult:
    """MLflow's sqlite file is locked for a while within the run."""
    fault = f"sqlite locked for {seconds:g} s"
    training = workshop.start("locked", "run_dir=run", "logger.wait_seconds=120")
    training.wait_until("rollout", 2)
    with sqlite3.connect(training.folder / "mlflow.db", timeout=30, isolation_level=None) as lock:
        lock.execute("begin exclusive")
        time.sleep(seconds)
        lock.execute("rollback")
    code = training.wait()
    done = compare(read_result(training.folder), workshop.reference) if code == 0 else None
    return FaultResult.of(fault, code, done, "" if code == 0 else last_line(training.output))


def server_killed(workshop: Workshop) -> FaultResult:
    """The MLflow server is killed within the run and comes back before its end."""
    fault = "MLflow server killed and restarted"
    folder = workshop.folder / "server"
    folder.mkdir()
    shutil.copyfile(workshop.folder / "empty.db", folder / "mlflow.db")
    port = _free_port()
    address = f"logger.tracking_uri=http://127.0.0.1:{port}"
    with mlflow_server(folder, port) as server:
        training = workshop.start("server", "run_dir=run", address, "logger.wait_seconds=120")
        training.wait_until("rollout", 2)
        _kill_family(server)
        training.wait_until("export", 1)
    with mlflow_server(folder, port):
        code = training.wait()
    done = compare(read_result(training.folder), workshop.reference) if code == 0 else None
    return FaultResult.of(fault, code, done, "" if code == 0 else last_line(training.output))


def slow_server(workshop: Workshop, seconds: float) -> FaultResult:
    """The MLflow server takes every request and answers late, longer than the client waits."""
    fault = f"MLflow server answers after {seconds:g} s"
    folder = workshop.folder / "slow"
    folder.mkdir()
    shutil.copyfile(workshop.folder / "empty.db", folder / "mlflow.db")
    port = _free_port()
    with mlflow_server(folder, port), SlowAnswers(port, seconds) as proxy:
        address = f"logger.tracking_uri={proxy.uri}"
        training = workshop.start("slow", "run_dir=run", address, "logger.wait_seconds=120")
        training.wait_until("rollout", 2)
        proxy.slow()
        training.wait_until("export", 1)
        held = proxy.held
        proxy.fast()
        code = training.wait()
    done = compare(read_result(training.folder), workshop.reference) if code == 0 else None
    printed = f"{held} answers were late" if code == 0 else last_line(training.output)
    return FaultResult.of(fault, code, done, printed)


@contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A real MLflow server on the loopback address, ready."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 180
        while not _answers(port):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "server.log").read_text()[-2000:])
            time.sleep(0.2)
        yield server
    finally:
        _kill_family(server)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:  # nosec B310 - its own server
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _kill_family(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is not None:
        return
    for child in psutil.Process(server.pid).children(recursive=True):
        child.kill()
    server.kill()
    server.wait()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _hurt_worker(
    workshop: Workshop, fault: str, hurt: Callable[[int], None], phase: str = "update"
) -> FaultResult:
    name = fault.replace(" ", "_")
    training = workshop.start(name, "run_dir=run")
    training.wait_until(phase, 3)
    for worker in loader_workers(training):
        hurt(worker)
    code = training.wait()
    printed = last_line(training.output)
    if code == 0:  # it needed the worker no more
        done = compare(read_result(training.folder), workshop.reference)
        return FaultResult.of(fault, code, done, "continued")
    if code != RunFaultError.exit_code:
        return FaultResult(fault, printed=f"exit code {code}: {printed}")
    return _finish(workshop, name, fault, printed)


def loader_workers(training: Training) -> list[int]:
    """Processes that prepare batches for a training."""
    return [child.pid for child in psutil.Process(training.pid).children()]


def _finish(workshop: Workshop, name: str, fault: str, printed: str, *more: str) -> FaultResult:
    resumed = workshop.resume(name, *more)
    code = resumed.wait()
    done = compare(read_result(resumed.folder), workshop.reference) if code == 0 else None
    return FaultResult.of(fault, code, done, printed if code == 0 else last_line(resumed.output))

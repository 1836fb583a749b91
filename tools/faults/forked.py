"""Real processes that do not import everything anew: forked from one that has.

A training's imports take longer than most of what is tried in such a process. What a forked command
starts in its turn (the processes of one training, the jobs of a sweep) is forked from the same one.

Not here: programs other than this interpreter with a module or a script, and what a test shows of
the start of an interpreter; `subprocess` is for those.
"""

from __future__ import annotations

import importlib
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.reduction
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO, Any

from vqr1.program import PROGRAM

_context = multiprocessing.get_context("forkserver")
# There is one such server in a test run: it imports what the largest of its children needs.
_context.set_forkserver_preload(["tools.faults.child"])
_server: Any = multiprocessing.forkserver._forkserver
_popen: Any = subprocess.Popen

Stream = IO[Any] | int | None
"""As `subprocess` takes it."""


def preload(module: str) -> None:
    """Let the fork server import one more module; without effect once it runs."""
    _context.set_forkserver_preload(["tools.faults.child", module])


def start(target: Callable[..., object], *arguments: object) -> ForkServerProcess:
    """Start a function of a module in a process."""
    process = _context.Process(target=target, args=arguments)
    process.start()
    return process


def run_ranks(target: Callable[..., object], arguments: tuple[object, ...], count: int) -> None:
    """`torch.multiprocessing.spawn`: run `target(rank, *arguments)` in processes, to their end."""
    from torch.multiprocessing import start_processes

    start_processes(target, args=arguments, nprocs=count, start_method="forkserver")


def start_command(module: str, folder: Path, *arguments: str) -> ForkServerProcess:
    """Start a command's `main` in a folder; what it prints is added to `output.txt` there."""
    return start(_run_command, module, str(folder), arguments)


def _run_command(module: str, folder: str, arguments: Sequence[str]) -> None:
    enter(folder)
    sys.argv = [f"{module.rpartition('.')[2]}.py", *arguments]
    importlib.import_module(module).main()


def enter(folder: str) -> None:
    """Make this process one that was started in a folder, with its output going to a file."""
    os.chdir(folder)
    with Path("output.txt").open("ab", buffering=0) as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    # A fork server's child would start loader workers by one too, which a command does not.
    multiprocessing.set_start_method("fork", force=True)


class ForkedProgram:
    """What is used of `subprocess.Popen`, for a module or script that needs no new interpreter.

    Args:
        command: `[sys.executable, ...]` with `-m` and one of our modules, or a script, and its
            arguments.
        env: its environment; None is this process's.
        cwd: its working directory; None is this process's.
        stdin, stdout, stderr: as for `Popen`; `PIPE` for standard output only.
        start_new_session: whether it leads a session.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | os.PathLike[str] | None = None,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        start_new_session: bool = False,
    ) -> None:
        program = _program(command)
        assert program is not None, command
        self.stdout: IO[bytes] | None = None
        writing: int | None = None
        if stdout == subprocess.PIPE:
            reading, writing = os.pipe()
            self.stdout, stdout = os.fdopen(reading, "rb"), writing
        # What is not given is this process's: that of the fork server is another one.
        streams = tuple(
            _Descriptor(own if stream is None else stream)
            for own, stream in enumerate((stdin, stdout, stderr))
        )
        environment = dict(os.environ if env is None else env)
        folder = os.fspath(cwd) if cwd is not None else os.getcwd()
        _server.ensure_running()
        self._process = start(
            _run_program, *program, environment, folder, streams, start_new_session,
            _server._forkserver_address,
        )  # fmt: skip
        if writing is not None:
            os.close(writing)
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, minus a signal's number if that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended."""
        self._process.join(timeout)
        code = self.returncode
        if code is None:
            raise subprocess.TimeoutExpired([str(self.pid)], timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended.

        Not by `poll`, which a handler that sends signals on might interrupt and call again.
        """
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def run_program(
    command: Sequence[str | os.PathLike[str]],
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float = 600.0,
) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` with its output as text."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = ForkedProgram(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=err
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode())
    return subprocess.CompletedProcess([str(word) for word in command], code, *texts)


def process_of_rank(folder: Path, rank: int) -> int:
    """The number of the process that last had a rank of what was started in a folder."""
    return int((folder / f".process_of_rank_{rank}").read_text())


class _Descriptor:
    """A stream on its way to a process that is being started."""

    def __init__(self, stream: IO[Any] | int) -> None:
        number = stream if isinstance(stream, int) else stream.fileno()
        self.number: Any = number

    def __getstate__(self) -> dict[str, Any]:
        special = self.number in (subprocess.DEVNULL, subprocess.STDOUT)
        return {"number": self.number if special else multiprocessing.reduction.DupFd(self.number)}

    def take(self, number: int) -> None:
        """Make it one of this process's standard streams."""
        if self.number == subprocess.DEVNULL:
            source = os.open(os.devnull, os.O_RDWR)
        elif self.number == subprocess.STDOUT:
            source = 1
        else:
            source = self.number.detach()
        os.dup2(source, number)
        if source > 2:
            os.close(source)


def _program(command: Sequence[str | os.PathLike[str]]) -> tuple[str, list[str]] | None:
    """The module or script that a command line of this interpreter runs, and its arguments."""
    words = [str(word) for word in command]
    if words[0] != sys.executable:
        return None
    rest = [word for word in words[1:] if word != "-P"]
    if rest[:1] == ["-m"]:
        ours = rest[1] == PROGRAM or rest[1].startswith(f"{PROGRAM}.")
        return (rest[1], rest[2:]) if ours else None
    return (rest[0], rest[1:]) if rest and rest[0].endswith(".py") else None


def _popen_or_fork(command: Any, **keys: Any) -> Any:
    known = {"env", "cwd", "stdin", "stdout", "stderr", "start_new_session"}
    if isinstance(command, str) or _program(command) is None or not keys.keys() <= known:
        return _popen(command, **keys)
    return ForkedProgram(command, **keys)


def _run_program(
    program: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    streams: Sequence[_Descriptor],
    new_session: bool,
    server_address: str,
) -> None:
    # A child of the server would start a server of its own, which imports everything once more.
    _server._forkserver_address = server_address
    _server.ensure_running = lambda: None
    if new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, stream in enumerate(streams):
        stream.take(number)
    multiprocessing.set_start_method("fork", force=True)
    if "RANK" in environment:
        Path(f".process_of_rank_{environment['RANK']}").write_text(str(os.getpid()))
    if "OMP_NUM_THREADS" in environment:
        # OpenMP has read it already.
        import torch

        torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    subprocess.Popen = _popen_or_fork  # type: ignore[misc, assignment]
    sys.argv = [program, *arguments]
    if program == PROGRAM:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        importlib.import_module(program).main()

"""SIGTERM and SIGHUP outside of training, in processes of their own, and SIGHUP within."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vqr1.distributed import stop_requests
from vqr1.distributed.launch import launch
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import Interrupted, RunFaultError

REPOSITORY = Path(__file__).resolve().parents[1]

WORK = """
import os, signal, sys, time
from vqr1.distributed.stop_signals import Stopped, stop_signals

def hit(number):
    os.kill(os.getpid(), number)
    time.sleep(0.05)

def worker(*numbers):
    child = os.fork()
    if child == 0:
        for number in numbers:
            hit(number)
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

if sys.argv[1] == "nohup":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
try:
    with stop_signals():
        exec(sys.argv[2])
except Stopped as end:
    print(end.signal_name, isinstance(end, Exception))
    exec(sys.argv[3])
"""


def outcome(how: str, within: str, after: str = "") -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", WORK, how, within, after], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_ends_a_command_as_ctrl_c_does(name: str) -> None:
    assert outcome("", f"hit(signal.{name})") == (0, [f"{name} False"])


def test_sighup_that_is_ignored_at_the_start_stays_ignored() -> None:
    done = outcome("nohup", "hit(signal.SIGHUP); print('on')")
    assert done == (0, ["on"])


def test_a_closed_terminal_may_send_sighup_twice_and_a_second_sigterm_ends_at_once() -> None:
    # On the way out, where files are closed and processes ended.
    twice = "try:\n hit(signal.SIGHUP)\nfinally:\n hit(signal.SIGHUP)\n print('tidy', flush=True)"
    assert outcome("", twice) == (0, ["tidy", "SIGHUP False"])
    again = "try:\n hit(signal.SIGTERM)\nfinally:\n hit(signal.SIGTERM)\n print('tidy', flush=True)"
    assert outcome("", again) == (-signal.SIGTERM, [])


def test_a_loader_worker_ends_by_sigterm_and_leaves_sighup_to_its_parent() -> None:
    code, printed = outcome("", "print(worker(signal.SIGHUP), worker(signal.SIGTERM))")
    assert (code, printed) == (0, [f"7 {-signal.SIGTERM}"])


@pytest.fixture
def handlers() -> Iterator[None]:
    """The handlers of before, after a test that sends signals to this process."""
    numbers = (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_sighup_stops_a_training_and_a_sigterm_after_it_is_the_same_wish(handlers: None) -> None:
    with StopRequests() as stops:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stops.asked()
        assert stops.signal == "SIGHUP"
        # Kernel and shell both send it; a session that ends sends SIGTERM besides.
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="75"):
            stops.check()
        # From now on as ever: the next one ends the process.
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_signal_that_comes_while_the_others_are_waited_for_counts_at_the_next_look(
    handlers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reduced_late(number: int) -> int:
        os.kill(os.getpid(), signal.SIGTERM)  # all ranks, this one too, have sent 0
        return number

    with StopRequests() as stops:
        with monkeypatch.context() as patched:
            patched.setattr(stop_requests, "all_reduce_max", reduced_late)
            # The others continue: who stopped here would leave them in their next exchange.
            assert not stops.asked()
        assert stops.signal == "SIGTERM"
        with pytest.raises(Interrupted, match="75"):
            stops.check()


def test_processes_that_end_by_a_signal_before_they_take_it_were_interrupted(
    capfd: pytest.CaptureFixture[str],
) -> None:
    # As a rank that still imports: the launcher receives the signal and hands it on.
    starting = 'test "$RANK" = 1 && kill -USR1 "$PPID"; exec sleep 60'
    with pytest.raises(Interrupted) as stopped:
        launch(["sh", "-c", starting], 2, "resume=run")
    assert (stopped.value.code, stopped.value.signal_name) == (75, "SIGUSR1")
    assert capfd.readouterr().err == "stopped by SIGUSR1\n"
    # Another's signal is the fault of a rank.
    dies = 'test "$RANK" = 1 && kill -TERM $$; exec sleep 1'
    with pytest.raises(RunFaultError, match="process 1 of 2 was ended by SIGTERM"):
        launch(["sh", "-c", dies], 2, "resume=run")


def test_sighup_that_nohup_ignores_stops_no_training(handlers: None) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopRequests() as stops:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stops.asked()
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_a_signal_is_noted_where_its_line_cannot_be_written(handlers: None) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    kept = os.dup(2)
    os.dup2(writer, 2)
    try:
        with StopRequests() as stops:
            os.kill(os.getpid(), signal.SIGHUP)
            assert stops.asked()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(writer)

"""What runs in a fault harness's process: the training command, announcing its phases.

Each phase writes one line when it begins and one when it ends, so that whoever watches knows when
to hurt it. Nothing else of the command is changed, except by a named tweak.
"""

from __future__ import annotations

import functools
import importlib
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

# Imported here so that every run forked from this process has them.
import mlflow  # noqa: F401
import torch

import vqr1.training.run  # noqa: F401
from tools.faults import lost_output
from tools.faults.forked import enter
from vqr1.cli.train import main

PHASES = {
    "rollout": "vqr1.training.stages.grpo:GrpoModule._sample",
    "update": "vqr1.training.stages.module:StageModule.update",
    "logging": "vqr1.training.stages.module:StageModule._log",
    "validation": "vqr1.training.validation:Validator.add",
    "checkpoint": "vqr1.training.checkpoint_files:_save",
    "commit": "vqr1.training.checkpoint_files:_write_checksum",
    "test": "vqr1.training.policy_trainer:evaluate_test",
    "export": "vqr1.training.stages.module:StageModule.export",
    "summary": "vqr1.tracking.run_log:RunLog.summary",
    "sending": "vqr1.tracking.delivery:Delivery._send",
}
"""Phases by the function that is one."""

CHECKPOINT_LIMIT = 2**24
"""Bytes of a file under the tweak `file_limit`: weights fit, a whole state does not."""


def run(arguments: Sequence[str], folder: str, tweak: str | None) -> None:
    """Run the training command in a folder; called in a process of its own."""
    enter(folder)
    torch.set_num_threads(1)
    for phase, place in PHASES.items():
        _announce(phase, place)
    if tweak is not None:
        TWEAKS[tweak]()
    sys.argv = ["train.py", *arguments]
    main()


def _announce(phase: str, place: str) -> None:
    module_name, _, path = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = path.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)
    marks = os.open("phases.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @functools.wraps(original)
    def announced(*args: Any, **keys: Any) -> Any:
        os.write(marks, f"{phase} begin {time.monotonic():.6f}\n".encode())
        try:
            return original(*args, **keys)
        finally:
            os.write(marks, f"{phase} end {time.monotonic():.6f}\n".encode())

    setattr(owner, name, announced)


def _file_limit() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (CHECKPOINT_LIMIT, CHECKPOINT_LIMIT))


def _clock_jumps() -> None:
    """The wall clock goes a day ahead after some readings, then two days back."""
    seconds, nanoseconds, readings = time.time, time.time_ns, iter(range(10**9))

    def shift() -> int:
        count = next(readings)
        return 0 if count < 50 else 86400 if count < 100 else -86400

    time.time = lambda: seconds() + shift()
    time.time_ns = lambda: nanoseconds() + shift() * 10**9


def _nan_reward() -> None:
    """One training step's rewards hold a NaN, as a broken reward of one's own would give."""
    from vqr1.training.stages import grpo

    original, calls = grpo.score_rollout, iter(range(10**9))

    def scored(*args: Any, **keys: Any) -> Any:
        result, metrics = original(*args, **keys)
        if next(calls) == 2:
            result.advantages[0] = float("nan")
        return result, metrics

    grpo.score_rollout = scored


def _vllm_stand_ins() -> None:
    from tools.faults import vllm_transport

    vllm_transport.install()


TWEAKS: dict[str, Callable[[], None]] = {
    "file_limit": _file_limit,
    "clock_jumps": _clock_jumps,
    "nan_reward": _nan_reward,
    "vllm_stand_ins": _vllm_stand_ins,
    "closed_pipe": lost_output.closed_pipe,
    "closed_terminal": lost_output.closed_terminal,
    "nohup": lost_output.nohup,
}

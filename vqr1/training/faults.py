"""Faults of the machine under a run, each as one line that states what to put right.

A policy whose own numbers are not finite any more comes this way too (`vqr1.policy.finite`).

Not here: other faults of the training itself (`vqr1.training.callbacks.watchdogs`) and of
the tracking server, which stops no run (`vqr1.tracking`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError

from vqr1.distributed.collectives import get_world_size
from vqr1.distributed.stop_requests import StopRequests
from vqr1.errors import Interrupted, NonFiniteError, RunFaultError, first_of_causes
from vqr1.storage_faults import disk_line

_GLOO = ("gloo", "pair closure")
"""In gloo's messages about a lost connection: its source file, or what its time-out did."""


@contextmanager
def machine_faults(stops: StopRequests, run_dir: Path) -> Iterator[None]:
    """Turn what a machine's faults raise into `RunFaultError`; let everything else pass.

    Args:
        stops: a scheduler that ends a run signals its loader workers too; their death is then no
            fault but the end that was asked for.
        run_dir: named where an error names no file.

    Raises:
        RunFaultError: the disk takes nothing, memory ran out here or in a loader worker, or the
            policy computes NaN or infinity.
        Interrupted: a worker went first after a stop signal.
    """
    try:
        yield
    except NonFiniteError as error:
        raise RunFaultError(
            f"{error.found}; lower optimizer.lr or raise loss.kl_weight, and use "
            "model.dtype=float32"
        ) from error
    except (OSError, SafetensorError, MemoryError, RuntimeError) as error:
        message = fault_message(error, run_dir)
        if message is None:
            raise
        if isinstance(error, RuntimeError) and stops.signal is not None:
            raise Interrupted(stops.signal) from error
        raise RunFaultError(message) from error


def fault_message(error: Exception, run_dir: Path) -> str | None:
    """The one line for a fault of the machine; None for everything else.

    PyTorch reports a dead loader worker by raising in a signal handler, wherever the process is.
    Code that cleans up there may raise an error of its own (the writer of a checkpoint does): the
    fault is then the one that this error arose from.
    """
    return first_of_causes(error, lambda one: _message(one, run_dir))


def _message(error: Exception, run_dir: Path) -> str | None:
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"GPU memory ran out: {text}; lower hardware.micro_batch_tokens"
    disk = disk_line(error, run_dir)
    if disk is not None:
        return disk
    if isinstance(error, dist.DistError) or _of_gloo(error, text):
        return (
            f"lost the connection to another process of this run, which has ended or hangs "
            f"({_short(text)})"
        )
    if "DataLoader worker" in text:
        signs = ("killed by signal", "exited unexpectedly", "allocate", "can't start new thread")
        if isinstance(error, MemoryError) or any(sign in text for sign in signs):
            return (
                f"a loader worker died ({text[:120]}); if the machine ran out of memory, lower "
                "loader.workers or loader.batch_size"
            )
    if isinstance(error, MemoryError):
        return "host memory ran out; lower loader.batch_size or hardware.micro_batch_tokens"
    return None


def _of_gloo(error: Exception, text: str) -> bool:
    """Whether gloo raised an error; a folder may be called as it is, too."""
    own = isinstance(error, RuntimeError) and get_world_size() > 1
    return own and any(sign in text.lower() for sign in _GLOO)


def _short(text: str) -> str:
    """The end of a library's message, where it states what happened, without its source line."""
    return text.rpartition("] ")[2][:160]

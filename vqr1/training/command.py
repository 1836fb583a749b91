"""What the command that starts a training hands to it.

Sweeps stand above training: what a sweep adds to a run comes in here, as functions of the run's
folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import lightning as L


@dataclass(frozen=True)
class RunCommand:
    """How a training was started, and what a sweep adds to it.

    Attributes:
        overrides: the command line's overrides.
        choices: name of the choice made in each configuration group.
        sweep_tags: MLflow tags that make the run in a folder the child of its sweep; none for a run
            of its own.
        sweep_callbacks: callbacks that the run in a folder needs to report a metric, which it is
            given by name, to its search; none for any other run.
        in_sweep: whether the run in a folder is a job of a sweep, which resumes it by itself.
    """

    overrides: tuple[str, ...]
    choices: Mapping[str, str | None]
    sweep_tags: Callable[[Path], dict[str, str]]
    sweep_callbacks: Callable[[Path, str], list[L.Callback]]
    in_sweep: Callable[[Path], bool]

"""What one job of a sweep is: its overrides, the swept values, and a name for what it trains.

A job is named by a hash of its composed configuration without the keys that do not change what is
trained, as the schema declares (folders, logging, threads). Two points of a grid that compose to
the same configuration are one job, and a job of an earlier start of the same sweep is known again.
Pure functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vqr1.config import TrainConfig
from vqr1.config.affects import Affects, affects
from vqr1.config.plain import flatten

SEED = "seed"
"""The key over whose values a summary averages."""


@dataclass(frozen=True)
class SweepJob:
    """One point of a sweep.

    Attributes:
        name: hash of what is trained.
        overrides: Hydra overrides that compose it.
        swept: its values of the swept keys, as text.
        needs_processes: it trains in several processes.
        trial: number of the search's trial, None in a grid.
    """

    name: str
    overrides: tuple[str, ...]
    swept: dict[str, str]
    needs_processes: bool = False
    trial: int | None = None


def is_volatile(key: str) -> bool:
    """Whether a dotted key does not change what a job trains; `+`, `++`, `~` before it or not."""
    return affects(TrainConfig, key.lstrip("+~")) <= Affects.ROUNDING


def override_key(override: str) -> str:
    """The dotted key of `key=value`, `+key=value`, `~key` or `group@package=choice`."""
    return override.split("=", 1)[0].lstrip("+~")


def stable_overrides(overrides: Iterable[str]) -> list[str]:
    """Overrides that state what is trained, sorted."""
    return sorted(item for item in overrides if not is_volatile(override_key(item)))


def stable_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat values of a composed configuration that state what is trained."""
    return {key: value for key, value in flatten(values).items() if not is_volatile(key)}


def job_name(values: Mapping[str, Any]) -> str:
    """Hash of a composed configuration's plain values, 12 hexadecimal digits."""
    text = json.dumps(stable_values(values), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def sweep_key(command: str, overrides: Iterable[str], params: Mapping[str, Any]) -> str:
    """Hash of a sweep's command line: the same command again is the same sweep.

    Args:
        command: name of the command's configuration, such as `train`.
        overrides: task overrides of the command line, search space included.
        params: search space of the sweeper's configuration.
    """
    parts = [command, stable_overrides(overrides), {k: str(v) for k, v in params.items()}]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def setting_name(swept: Mapping[str, str]) -> str:
    """The swept values of a job without its seed."""
    return ", ".join(f"{key}={value}" for key, value in swept.items() if key != SEED) or "all"


def unique_jobs(jobs: Iterable[SweepJob]) -> list[SweepJob]:
    """The first of every set of jobs that train the same, in order."""
    first: dict[str, SweepJob] = {}
    for job in jobs:
        first.setdefault(job.name, job)
    return list(first.values())


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for every key whose value differs between two flat configurations."""
    missing = "(absent)"
    return [
        f"{key}: {before.get(key, missing)} then, {now.get(key, missing)} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, missing) != now.get(key, missing)
    ]

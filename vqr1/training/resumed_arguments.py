"""The command line of a training, completed by that of the run which `resume=` names.

`python train.py resume=RUN` takes a run directory or an MLflow run id, composes the configuration
from the overrides that the run was started with, and lets the command's own override them.

Not here: finding the run (`vqr1.training.run_lookup`), resuming it (`vqr1.training.resume`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vqr1.config.earlier import EARLIER
from vqr1.config.renamed import renamed_override
from vqr1.distributed.environment import RankInfo
from vqr1.errors import ConfigError
from vqr1.program import override
from vqr1.training.run_lookup import (
    AUTO,
    SEARCH_PATH,
    find_run,
    key_of,
    of_one_start,
    value_of,
    whole_search_path,
)
from vqr1.training.run_record import RECORD, RunRecord, read_record

if TYPE_CHECKING:
    from hydra.conf import OverridesConf

VISION_ID = "prompt.vision_id"

NO_FOLDER = ("hydra.run.dir=.", "hydra.output_subdir=null")
"""Overrides with which Hydra makes no folder and writes nothing."""


def arguments_of(info: RankInfo, arguments: list[str]) -> list[str]:
    """A process's own form of the command line.

    Raises:
        ConfigError: `resume=` names no run, or a launcher has started a sweep.
    """
    if info.launched and {"-m", "--multirun"} & set(arguments):
        raise ConfigError(
            ["-m: a sweep starts the processes of its jobs itself; run it without a launcher"]
        )
    if info.report is None:
        arguments = with_saved_overrides(arguments)
    if info.rank and info.report is None:
        # Hydra makes a folder named after the second; rank 0's is the run's.
        arguments = [*arguments, *NO_FOLDER]
    return arguments


def with_saved_overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments of `resume=RUN`, completed by those that the run was started with.

    Args:
        arguments: the command line without the program. Without `resume=`, with `resume=auto`, and
            in a multirun they are returned as they are.

    Raises:
        ConfigError: there is no such run, or `run_dir` is given too.
    """
    own = {key_of(argument): value_of(argument) for argument in arguments if "=" in argument}
    wanted = own.get("resume", "null")
    if wanted in ("null", "", AUTO) or {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    if "run_dir" in own:
        raise ConfigError(
            [f"run_dir={own['run_dir']}: resume={wanted} continues in its own folder; leave it out"]
        )
    run_dir = find_run(wanted, own.get("logger.tracking_uri"))
    record = _record_of(run_dir)
    overrides = [renamed_override(saved) for saved in record.overrides]
    saved = [o for o in overrides if key_of(o) not in own and not of_one_start(key_of(o))]
    rest = [argument for argument in arguments if key_of(argument) != "resume"]
    # A run that began before the key existed continues as it began.
    asked = record.config.get("prompt")
    if asked is not None and "vision_id" not in asked and VISION_ID not in own:
        saved.append(f"{VISION_ID}={str(EARLIER[VISION_ID]).lower()}")
    folders = (override(key, run_dir) for key in ("resume", "run_dir", "hydra.run.dir"))
    return [*saved, *rest, *folders]


def kept_overrides(given: OverridesConf) -> list[str]:
    """The overrides that a run records: its own, and the search path of the choices among them.

    Args:
        given: a command's, as Hydra has parted them.
    """
    search_path = [whole_search_path(o) for o in given.hydra if key_of(o) == SEARCH_PATH]
    return [*search_path, *given.task]


def _record_of(run_dir: Path) -> RunRecord:
    record = read_record(run_dir)
    if record is None:
        raise ConfigError([f"resume={run_dir}: no run directory ({RECORD} is missing)"])
    return record

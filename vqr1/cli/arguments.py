"""The command line of a training, completed by that of the run which `resume=` names.

`python train.py resume=RUN` takes a run directory or an MLflow run id, composes the configuration
from the overrides that the run was started with, and lets the command's own override them.

What it leaves out: going on with the run (`resume.py`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from vqr1.config.earlier import EARLIER
from vqr1.config.renamed import renamed_override
from vqr1.distributed.environment import TORCHRUN, RankInfo
from vqr1.errors import ConfigError
from vqr1.training.run_record import RECORD, RunRecord, read_record

PROGRAM = "train.py"
"""What this command is called; `sys.argv[0]` of a job may be its launcher's script."""
AUTO = "auto"
RUN_DIR_TAG = "vqr1.run_dir"
"""Tag of an MLflow run: where its run directory is."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")
VISION_ID = "prompt.vision_id"
_WHERE_KEYS = ("resume", "resume_force", "run_dir", "hydra.run.dir")
"""Keys that say where a run is and not what it is."""


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
        # Hydra makes a folder named after the second; the first process's is the run's.
        arguments = [*arguments, "hydra.run.dir=."]
    return arguments


def with_saved_overrides(arguments: Sequence[str]) -> list[str]:
    """The arguments of `resume=RUN`, completed by those that the run was started with.

    Args:
        arguments: the command line without the program. Without `resume=`, with `resume=auto`, and
            in a multirun they are returned as they are.

    Raises:
        ConfigError: there is no such run, or `run_dir` is given too.
    """
    own = {_key(argument): argument.partition("=")[2] for argument in arguments if "=" in argument}
    wanted = own.get("resume", "null").strip("'\"")
    if wanted in ("null", "", AUTO) or {"-m", "--multirun"} & set(arguments):
        return list(arguments)
    if "run_dir" in own:
        raise ConfigError(
            [f"run_dir={own['run_dir']}: resume={wanted} goes on in its own folder; leave it out"]
        )
    run_dir = find_run(wanted, own.get("logger.tracking_uri"))
    record = _record_of(run_dir)
    overrides = [renamed_override(override) for override in record.overrides]
    saved = [o for o in overrides if _key(o) not in own and _key(o) not in _WHERE_KEYS]
    rest = [argument for argument in arguments if _key(argument) != "resume"]
    folder = quoted(run_dir)
    # A run that began before the key existed goes on as it began.
    asked = record.config.get("prompt")
    if asked is not None and "vision_id" not in asked and VISION_ID not in own:
        saved.append(f"{VISION_ID}={str(EARLIER[VISION_ID]).lower()}")
    return [*saved, *rest, f"resume={folder}", f"run_dir={folder}", f"hydra.run.dir={folder}"]


def find_run(name: str, tracking_uri: str | None = None) -> Path:
    """The directory of a run.

    Args:
        name: a run directory or an MLflow run id.
        tracking_uri: where MLflow looks the id up; None is `mlflow.db` in the working directory.

    Raises:
        ConfigError: there is no such run.
    """
    folder = Path(name)
    if (folder / RECORD).is_file():
        return folder.resolve()
    if _RUN_ID.fullmatch(name) is None:
        raise ConfigError(
            [f"resume={name}: no run directory ({RECORD} is missing) and no MLflow run id"]
        )
    from vqr1.tracking.delivery import outage_errors
    from vqr1.tracking.store import default_tracking_uri, one_line, quick_client

    uri = tracking_uri or default_tracking_uri()
    try:
        tags = quick_client(uri).get_run(name).data.tags
    except outage_errors() as error:
        raise ConfigError([f"resume={name}: {one_line(error)}; give the run's folder"]) from error
    if RUN_DIR_TAG not in tags or not (Path(tags[RUN_DIR_TAG]) / RECORD).is_file():
        raise ConfigError(
            [f"resume={name}: its folder {tags.get(RUN_DIR_TAG)} is not here; give the folder"]
        )
    return Path(tags[RUN_DIR_TAG])


def _record_of(run_dir: Path) -> RunRecord:
    record = read_record(run_dir)
    if record is None:
        raise ConfigError([f"resume={run_dir}: no run directory ({RECORD} is missing)"])
    return record


def resume_command(run_dir: Path, info: RankInfo) -> str:
    """What a user types to go on with a run that was started as this process was.

    Args:
        run_dir: the run's.
        info: this process's, or `RankInfo()` in the one that started the others.
    """
    end = f"{PROGRAM} resume={run_dir}"
    if not info.launched or info.report is not None:
        return f"python {end}"
    if info.nodes == 1 and TORCHRUN in os.environ:
        return f"torchrun --nproc-per-node {info.world_size} {end}"
    many = f"{info.nodes} x {info.local_size} processes"
    return f"{end}   # by the same launcher, nodes and processes as before ({many})"


def kept_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that a later `resume=` starts from."""
    return tuple(override for override in overrides if _key(override) not in _WHERE_KEYS)


def gives(overrides: Sequence[str], key: str) -> bool:
    """Whether the command line sets a key."""
    return any(_key(override) == key for override in overrides)


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+~")


def quoted(path: Path) -> str:
    """A path as Hydra's override grammar takes any."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"

"""What a command needs of a run's folder before anything heavy is imported.

Finding the folder, the overrides that a later `resume=` starts from, the command that resumes it,
and the metric of a finished run.

Not here: checking and claiming the run (`resume.py`), its record (`run_record.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from vqr1.config import TrainConfig
from vqr1.config.affects import Affects, affects
from vqr1.config.metrics import HEADLINE
from vqr1.distributed.environment import RankInfo, started_again
from vqr1.errors import ConfigError, DataError
from vqr1.program import (
    command_line,
    hydra_value,
    in_shell,
    name_of,
    override,
    under_torchrun,
)
from vqr1.training.run_record import RECORD

AUTO = "auto"
SEARCH_PATH = "hydra.searchpath"
"""Hydra's own key that what a command composes depends on: where the user's choices lie."""
RUN_DIR_TAG = "vqr1.run_dir"
"""Tag of an MLflow run: where its run directory is."""
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def find_run(name: str, tracking_uri: str | None = None, key: str = "resume") -> Path:
    """The directory of a run.

    Args:
        name: a run directory or an MLflow run id.
        tracking_uri: where MLflow looks the id up; None is `mlflow.db` in the working directory.
        key: configuration key that named it, for messages.

    Raises:
        ConfigError: there is no such run.
    """
    folder = Path(name).expanduser()
    if (folder / RECORD).is_file():
        return folder.resolve()
    if _RUN_ID.fullmatch(name) is None:
        raise ConfigError(
            [f"{key}={name}: no run directory ({RECORD} is missing) and no MLflow run id"]
        )
    from vqr1.tracking.outages import store_reached
    from vqr1.tracking.store import default_tracking_uri, logged_run, reading_client

    uri = tracking_uri or default_tracking_uri()
    with store_reached(uri, f"{key}={name}", "or give the run's folder"):
        tags = logged_run(
            reading_client(uri, f"{key}={name}"), name, uri, f"{key}={name}"
        ).data.tags
    if RUN_DIR_TAG not in tags or not (Path(tags[RUN_DIR_TAG]) / RECORD).is_file():
        raise ConfigError(
            [f"{key}={name}: its folder {tags.get(RUN_DIR_TAG)} is not here; give the folder"]
        )
    return Path(tags[RUN_DIR_TAG])


def kept_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides that a later `resume=` starts from."""
    return tuple(override for override in overrides if not of_one_start(key_of(override)))


def of_one_start(key: str) -> bool:
    """Whether a key gives where a run is, or how it was started once, and not what it is."""
    return affects(TrainConfig, key) is Affects.START


def gives(overrides: Sequence[str], key: str) -> bool:
    """Whether the command line sets a key."""
    return any(key_of(override) == key for override in overrides)


def key_of(override: str) -> str:
    """The key that an override sets."""
    return override.partition("=")[0].lstrip("+~")


def whole_search_path(argument: str) -> str:
    """An argument that means the same in every working directory, where it is the search path.

    >>> whole_search_path("seed=1")
    'seed=1'
    """
    if key_of(argument) != SEARCH_PATH or "${" in argument:
        return argument
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        places = OverridesParser.create().parse_override(argument).value()
    except HydraException:
        return argument  # reported where the whole command line is composed
    if not isinstance(places, list):
        return argument
    whole = (_whole_place(str(getattr(place, "text", place))) for place in places)
    return f"{argument.partition('=')[0]}=[{','.join(map(hydra_value, whole))}]"


def _whole_place(place: str) -> str:
    scheme, separator, path = place.rpartition("://")
    if separator and scheme != "file":
        return place  # of a package
    return f"{scheme}{separator}{Path(path).absolute()}"


def value_of(argument: str) -> str:
    """The value that an override gives, as text, its quotes taken away as Hydra takes them."""
    # The parents of a sweep or of several processes import it anyway.
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        value = OverridesParser.create().parse_override(argument).value()
        # Which takes the backslash of `\${` away.
        value = OmegaConf.create({"value": getattr(value, "text", value)}).value
    except (HydraException, OmegaConfBaseException):
        # Reported where the whole command line is composed.
        return argument.partition("=")[2].strip("'\"")
    return "null" if value is None else str(value)


def resume_command(run_dir: Path, info: RankInfo) -> str:
    """What a user types to continue with a run that was started as this process was.

    Args:
        run_dir: the run's.
        info: this process's, or `RankInfo()` in the one that started the others.
    """
    end = override("resume", run_dir)
    by_torchrun = f"{under_torchrun(name_of('train'))} {in_shell(end)}"
    return started_again(info, command_line("train", end), by_torchrun)


def finished_metric(run_dir: Path) -> float:
    """Test SRCC after training; without a test, validation SRCC of the best checkpoint.

    NaN where it is undefined.

    Raises:
        DataError: the run's summary is missing or damaged.
    """
    path = run_dir / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
        metric = summary[f"test_{HEADLINE}_after"]
        if summary["test_images"] is None:
            metric = summary[f"val_{HEADLINE}_best"]
        return float("nan") if metric is None else float(metric)
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: this run has finished, but its summary is missing or damaged; restore it, or "
            "start a new run"
        ) from error

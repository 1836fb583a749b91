"""What a run directory records of its run: started how, with which configuration, finished or not.

`run.json` is written when a run starts and when it has finished. While a process works on a run it
holds `run.lock`; the operating system releases it however the process ends.

Not here: which run a command means, and resuming it (`vqr1.training.resume`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from vqr1.config import TrainConfig
from vqr1.config.affects import Affects, affects
from vqr1.config.earlier import earlier_values, present_value
from vqr1.config.plain import flatten
from vqr1.config.renamed import renamed_keys
from vqr1.durable import make_folder, remove_asides, write_file
from vqr1.errors import ConfigError, DataError
from vqr1.locks import FileLock
from vqr1.tracking.journal import FOLDER as TRACKING

RECORD = "run.json"
LOCK = "run.lock"


@dataclass(frozen=True)
class RunRecord:
    """One run's start.

    Attributes:
        started: local time, ISO 8601.
        working_directory: where the command ran; its relative paths start there.
        overrides: the command line's overrides.
        config: the composed configuration, in plain containers.
        finished: True once everything is written, the log included.
        data: digest of each data set's content by name; empty until they have been read.
    """

    started: str
    working_directory: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    finished: bool = False
    data: dict[str, str] = field(default_factory=dict)


_ADAPTER = TypeAdapter(RunRecord)


def read_record(run_dir: Path) -> RunRecord | None:
    """The record of a run directory, None where it holds none.

    Raises:
        DataError: the file is damaged.
    """
    path = run_dir / RECORD
    try:
        return _ADAPTER.validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(f"{path}: not the record of a run; remove the folder") from error


def write_record(run_dir: Path, record: RunRecord) -> None:
    """Write the record, whole or not at all; readable by its owner, as addresses may hold secrets.

    Raises:
        OSError: the folder cannot be written.
    """
    make_folder(run_dir, above=True)
    write_file(run_dir / RECORD, json.dumps(asdict(record), indent=1), private=True)


def remove_record(run_dir: Path) -> None:
    """Make a run directory one that holds no run."""
    (run_dir / RECORD).unlink(missing_ok=True)


def changed_keys(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    *,
    schema: type = TrainConfig,
    moved: bool = False,
) -> list[str]:
    """The keys whose change alters what a run computes, each as `key: old -> new`.

    Args:
        saved: the configuration that the run started with.
        current: the configuration now.
        schema: dataclass of the configuration; it declares what each key affects.
        moved: the data may lie elsewhere, because their content is compared too.
    """
    old, new = renamed_keys(_flat(saved)), _flat(current)
    old |= earlier_values(key for key in new if key not in old)
    old, new = ({key: present_value(key, v) for key, v in part.items()} for part in (old, new))
    return [
        f"{key}: {_shown(old, key)} -> {_shown(new, key)}"
        for key in dict.fromkeys([*old, *new])
        if _shown(old, key) != _shown(new, key) and _compared(affects(schema, key), moved)
    ]


class RunLock(FileLock):
    """Holds a run directory for this process, without what killed ones were writing there.

    Args:
        run_dir: the folder; it is made.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / LOCK)

    def __enter__(self) -> RunLock:
        if not self.acquire():
            raise ConfigError(
                [f"run_dir={self.path.parent}: another process is working on this run"]
            )
        remove_asides(self.path.parent)
        for folder in self.path.parent.iterdir():
            # Whoever delivers the journal holds another lock, and so does another run below (`.`).
            if folder.is_dir() and folder.name != TRACKING and not (folder / LOCK).exists():
                remove_asides(folder)
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    return flatten(json.loads(json.dumps(values)), keep_empty=False)


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"


def _compared(level: Affects, moved: bool) -> bool:
    return level >= Affects.ROUNDING and not (moved and level is Affects.LOCATION)

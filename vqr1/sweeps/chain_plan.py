"""What a chain of trainings is: its links, their commands, and where each stands.

`python train.py chain=[sft,'grpo prompt=thinking max_steps=100'] ...` is a training for each entry,
a stage and overrides of its own, in folders of the chain's folder. Each starts from the export of
the one before (`init_from`); the command's other overrides hold for all of them.

Not here: starting the trainings (`chain.py`).
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from vqr1.durable import make_folder, write_file
from vqr1.errors import ConfigError, DataError
from vqr1.program import setting
from vqr1.training.run_lookup import key_of
from vqr1.training.run_record import read_record

KEY = "chain"
RECORD = "chain.json"
_OF_CHAIN = frozenset({KEY, "run_dir", "resume", "hydra.run.dir"})
_OF_START = frozenset({"init_from", "model.path", "model.revision"})
"""Where the first training starts from; the later ones start from the one before."""


@dataclass(frozen=True)
class Link:
    """One training of a chain.

    Attributes:
        name: its folder in the chain's folder.
        overrides: of its command line, without `run_dir` and without where it starts from.
    """

    name: str
    overrides: tuple[str, ...]

    def finished(self, folder: Path) -> bool:
        """Whether it is done in a chain's folder."""
        record = read_record(folder / self.name)
        return record is not None and record.finished

    def begun(self, folder: Path) -> bool:
        """Whether it has been started there."""
        return read_record(folder / self.name) is not None


def links_of(arguments: Sequence[str]) -> list[Link]:
    """The trainings that a command line asks for.

    Args:
        arguments: those of a command with `chain=`.

    Raises:
        ConfigError: `chain` is given twice, or is no list of stages.
    """
    chains = [argument for argument in arguments if key_of(argument) == KEY]
    if len(chains) > 1:
        raise ConfigError([f"{' '.join(chains)}: give one {KEY}"])
    common = [argument for argument in arguments if key_of(argument) not in _OF_CHAIN]
    links = []
    for number, entry in enumerate(_entries(chains[0]), start=1):
        stage, own = _parsed(entry)
        named = {key_of(argument) for argument in own}
        dropped = named | (_OF_START if number > 1 else frozenset())
        rest = [argument for argument in common if key_of(argument) not in dropped]
        links.append(Link(f"{number}_{stage}", (*rest, *own)))
    return links


def _entries(given: str) -> list[str]:
    problem = ConfigError(
        [f"{given}: must be a list of stages, such as [sft,grpo] or [sft,'grpo seed=2']"]
    )
    try:
        value = OverridesParser.create().parse_override(given).value()
    except HydraException as error:
        raise problem from error
    if not isinstance(value, list) or not value or not all(str(entry).strip() for entry in value):
        raise problem
    return [str(getattr(entry, "text", entry)) for entry in value]


def _parsed(entry: str) -> tuple[str, list[str]]:
    """Stage and overrides of an entry: `grpo seed=2`."""
    try:
        stage, *own = shlex.split(entry)
    except ValueError as error:
        raise ConfigError([f"{KEY}: {entry!r}: {error}; close each quote in it"]) from error
    strange = [word for word in own if "=" not in word and not word.startswith("~")]
    if "=" in stage or strange:
        raise ConfigError(
            [f"{KEY}: {entry!r} must begin with a stage, with overrides (KEY=VALUE) after it"]
        )
    if any(key_of(word) in _OF_CHAIN for word in own):
        raise ConfigError(
            [f"{KEY}: {entry!r}: {', '.join(sorted(_OF_CHAIN))} are of the whole chain"]
        )
    return stage, [f"stage={stage}", *own]


def write_chain(folder: Path, arguments: Sequence[str]) -> None:
    """Keep what a chain was started with.

    Raises:
        ConfigError: the folder holds a chain of another command, of which something has begun.
    """
    kept = [a for a in arguments if key_of(a) not in _OF_CHAIN - {KEY}]
    if (folder / RECORD).is_file():
        saved = read_chain(folder)
        begun = any(link.begun(folder) for link in links_of(saved))
        if begun and saved != kept:
            raise ConfigError(
                [
                    f"run_dir={folder}: this folder holds the chain of another command "
                    f"({' '.join(saved)}); continue it with {setting('resume', folder)}, or choose "
                    "another folder"
                ]
            )
    make_folder(folder, above=True)
    write_file(folder / RECORD, json.dumps({"overrides": kept}, indent=1), private=True)


def read_chain(folder: Path) -> list[str]:
    """The overrides that a chain was started with.

    Raises:
        DataError: the record is damaged.
    """
    try:
        found = json.loads((folder / RECORD).read_text(encoding="utf-8"))["overrides"]
        return [str(argument) for argument in found]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / RECORD}: not the record of a chain; remove the folder"
        ) from error

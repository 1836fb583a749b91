"""Answers that are written while they are made: appended whole, resumed after a kill, merged.

- `GrowingFile`: every piece (a batch of predictions, the row of a result) is in the file whole, or
  is cut off at the next start.
- `Partials`: where several ranks append, each to a file of its own. Whatever such files an earlier
  start left count as done, with any number of ranks then and now.
- `remaining` and `table_order`: batches are planned once in table order; what is left is given by
  the keys of the rows that are there, and merged rows come back into that order.
- `check_settings`: what decides the answers is kept beside them, and other settings are refused.

Since batches are planned the same way every time and an image's answers depend on the seed and the
image alone, results do not depend on interruptions or on the number of ranks.

Not here: what a row holds (`vqr1.inference.result_file`, `vqr1.evaluation.prediction_file`).
"""

from __future__ import annotations

import glob
import json
import time
from collections.abc import Collection, Hashable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vqr1.config.earlier import changed_settings
from vqr1.durable import CommittedFile, remove_committed, sync
from vqr1.errors import ConfigError

SYNC_SECONDS = 5.0
"""A power loss costs no more than what was appended in so many seconds to a file without a mark."""
_NO_ZERO = "\N{REPLACEMENT CHARACTER}".encode()


class GrowingFile:
    """A text file to which pieces are appended; nothing of a piece that was torn off is kept.

    Args:
        path: the file; continued where it exists.
        marked: keep the number of committed bytes in a file beside it, and write pieces through to
            the disk (`vqr1.durable.CommittedFile`). Otherwise all that the file holds counts, the
            caller has cut it, and it is synced now and then and when it is closed.
        errors: what becomes of characters that are no text, as `str.encode` knows it.

    Raises:
        DataError: a marked file that was changed by something else.
    """

    def __init__(self, path: Path, *, marked: bool = True, errors: str = "replace") -> None:
        self.path = path
        self._errors = errors
        self._committed = CommittedFile(path) if marked else None
        self._plain = None if marked else path.open("ab")
        self.empty = path.stat().st_size == 0
        self._synced = time.monotonic()

    def append(self, text: str) -> None:
        """Write and commit one piece."""
        data = text.encode("utf-8", errors=self._errors)
        if self._committed is not None:
            self._committed.append(data)
        if self._plain is not None:
            # A zero byte is what a power loss leaves in the place of a row that was not synced.
            self._plain.write(data.replace(b"\0", _NO_ZERO))
            self._plain.flush()
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._sync_plain()

    def close(self) -> None:
        """Close the file."""
        if self._committed is not None:
            self._committed.close()
        if self._plain is not None:
            self._plain.close()
            self._sync_plain()

    def _sync_plain(self) -> None:
        with suppress(FileNotFoundError):  # somebody has removed it meanwhile
            sync(self.path)
        self._synced = time.monotonic()


def cut_to_committed(path: Path) -> None:
    """Cut a marked file that nobody writes any more to what was committed."""
    CommittedFile(path).close()


@dataclass(frozen=True)
class Partials:
    """The files to which the ranks of one command append, each to its own.

    Attributes:
        folder: where they lie.
        prefix: beginning of their names, before the rank.
        suffix: end of their names.
    """

    folder: Path
    prefix: str
    suffix: str = ""

    def of(self, rank: int) -> Path:
        """The file of one rank."""
        return self.folder / f"{self.prefix}{rank}{self.suffix}"

    def all(self) -> list[Path]:
        """All that are there, of this start and of earlier ones."""
        pattern = f"{glob.escape(self.prefix)}*{glob.escape(self.suffix)}"
        return [
            path
            for path in sorted(self.folder.glob(pattern))
            if path.name[len(self.prefix) : len(path.name) - len(self.suffix)].isdecimal()
        ]

    def remove(self) -> None:
        """Delete all, once their rows are elsewhere."""
        for path in self.all():
            remove_committed(path)


def remaining(plan: Sequence[Sequence[Hashable]], done: Collection[Hashable]) -> list[int]:
    """Numbers of the batches of which nothing is done.

    A batch is committed as a whole, so one image of it is enough to know that it is done; images
    that do not decode may be in no file.

    Args:
        plan: the keys of each batch's images.
        done: keys of the rows that are there.
    """
    return [
        number for number, batch in enumerate(plan) if not any(image in done for image in batch)
    ]


def table_order(plan: Sequence[Sequence[Hashable]], keys: Sequence[Hashable]) -> list[int]:
    """The order of rows in which they follow the plan.

    Args:
        plan: the keys of each batch's images.
        keys: of the rows, in the order in which they were found.

    Raises:
        ValueError: an image has two rows; how many do.
        KeyError: a row of an image that is not in the plan.
    """
    if len(set(keys)) != len(keys):
        raise ValueError(f"{len(keys) - len(set(keys))} images were scored twice")
    place = {key: number for number, key in enumerate(key for batch in plan for key in batch)}
    return sorted(range(len(keys)), key=lambda row: place[keys[row]])


def shares(numbers: Sequence[int], ranks: int) -> list[list[int]]:
    """Batch numbers dealt in turn to ranks."""
    return [list(numbers[rank::ranks]) for rank in range(ranks)]


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings as they are kept beside answers."""
    return json.dumps(dict(settings), indent=1, sort_keys=True) + "\n"


def check_settings(
    saved: Mapping[str, Any], settings: Mapping[str, Any], begun: str, otherwise: str
) -> None:
    """Check that answers may be added to those that are there.

    Args:
        saved: by dotted key, what decided the answers that are there.
        settings: what decides those of the present command.
        begun: what is there and that it was begun, such as `output=a.csv was begun`.
        otherwise: the ways out that are left to the user, after that of setting the key.

    Raises:
        ConfigError: every setting that differs.
    """
    now = json.loads(settings_text(settings))
    problems = [
        f"{problem}{otherwise}" for problem in changed_settings(_deciding(saved), now, begun)
    ]
    if problems:
        raise ConfigError(problems)


def _deciding(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Saved settings without the seed where nothing is drawn, which earlier versions kept too."""
    drawn = saved.get("mode.name") not in ("greedy", "expected", "levels")
    return {key: value for key, value in saved.items() if drawn or key != "seed"}

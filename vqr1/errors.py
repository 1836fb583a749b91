"""Errors a user can act on.

Each message names the dotted key or the file and line, the value found, the rule it breaks, and
the fix. The entry points print such an error as one message and exit with code 2; every other
exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Base of every error that the user, not the programmer, can put right."""


class ConfigError(UserError):
    """The composed configuration breaks a rule; carries every problem found, not the first only."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class DataError(UserError):
    """A label file, an image or a data-set folder is not as its format says."""


class ModelError(UserError):
    """A checkpoint, a processor or a scoring server cannot be used."""

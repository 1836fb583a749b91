"""Errors a user can act on.

Each message names the dotted key or the file and line, the value found, the rule it breaks, and
the fix. The entry points print such an error as one message and exit with its code; every other
exception is a defect of ours and keeps its traceback.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | jobs of a sweep did not finish |
| 2 | the user has to change something first |
| 74 | machine or training stopped a run; `resume=` continues once the cause is gone |
| 75 | a signal stopped a run, which is saved: `resume=` continues at once |

74 and 75 are EX_IOERR and EX_TEMPFAIL of sysexits.h.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

EXIT_INTERRUPTED = 75


def first_line(error: BaseException, most: int = 300, message: str | None = None) -> str:
    r"""An exception of a library in one line: the first of its message, or its class.

    Args:
        error: the exception.
        most: characters after which the line is cut.
        message: used instead of the error's own.

    >>> first_line(ValueError("\n no such file \n at all"))
    'no such file'
    >>> first_line(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    lines = (line.strip() for line in (str(error) if message is None else message).splitlines())
    text = next((line for line in lines if line), type(error).__name__)
    return text if len(text) <= most else f"{text[:most]} ..."


class UserError(Exception):
    """Base of every error that the user, not the programmer, can put right.

    Attributes:
        exit_code: what a command that ends with this error exits with.
    """

    exit_code = 2


class ConfigError(UserError):
    """The composed configuration breaks a rule; carries every problem found, not the first only."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """As it was made: an error goes from one process of a run to the others."""
        return ConfigError, (self.problems,)


def raise_together(*checks: Callable[[], object]) -> None:
    """Make several checks, and raise what all of them find as one error.

    Raises:
        ConfigError: the problems of all, in the order of the checks.
    """
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def first_of_causes(
    error: BaseException, describe: Callable[[Exception], str | None]
) -> str | None:
    """What is found of an error, else of what it arose from; None where nothing is.

    Code that cleans up after an error may raise one of its own, which is what arrives.

    Args:
        error: what was raised.
        describe: the text for an error alone; None where it has none.
    """
    found: BaseException | None = error
    while isinstance(found, Exception):
        text = describe(found)
        if text is not None:
            return text
        found = found.__cause__ or found.__context__
    return None


class NotMetError(ConfigError):
    """A process of several that finds no others: nobody but itself can report it."""


class DataError(UserError):
    """A label file, an image or a data-set folder is not as its format states."""


class ModelError(UserError):
    """A checkpoint, a processor or a scoring server cannot be used."""


class NonFiniteError(ModelError):
    """A model computes NaN or infinity; a training turns this into `RunFaultError`.

    Args:
        found: what is not finite, and where.
    """

    def __init__(self, found: str) -> None:
        self.found = found
        super().__init__(
            f"{found}; use model.dtype=float32 or model.dtype=bfloat16 (float16 holds nothing "
            "beyond 65504), or another checkpoint"
        )

    def __reduce__(self) -> tuple[type[NonFiniteError], tuple[str]]:
        """As it was made: an error goes from one process of a run to the others."""
        return NonFiniteError, (self.found,)


class RunFaultError(UserError):
    """A run cannot continue: a full disk, a dead loader worker, a loss that is no number."""

    exit_code = 74


class RolloutLostError(RunFaultError):
    """The server that samples does not answer any more; nothing of the step was done."""


class Interrupted(SystemExit):
    """A signal asked a run to stop, and it stopped between two steps.

    Not an `Exception`, so that neither Hydra nor a multirun takes it for the failure of one job and
    continues with the next.
    """

    def __init__(self, signal_name: str) -> None:
        super().__init__(EXIT_INTERRUPTED)
        self.signal_name = signal_name


class PrunedError(Exception):
    """A search gave this run up; what it would have reached is not worth its time."""


class SweepIncompleteError(UserError):
    """Jobs of a sweep failed; the same command again runs only these."""

    exit_code = 1

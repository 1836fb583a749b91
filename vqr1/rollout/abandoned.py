"""Whether anybody still waits for what is being computed.

    with abandoning(lambda: caller.gone):
        engine.sample(...)      # raises AbandonedError at its next token once the caller has gone

Not here: who waits (`vqr1.inference.service.batching`). Outside of the block nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_GONE: ContextVar[Callable[[], bool] | None] = ContextVar("vqr1_abandoned", default=None)


class AbandonedError(Exception):
    """Nobody waits for the result."""


@contextmanager
def abandoning(gone: Callable[[], bool]) -> Iterator[None]:
    """Have what is computed in this thread end early.

    Args:
        gone: whether nobody waits any more; must be quick.

    Raises:
        AbandonedError: at once, where nobody does.
    """
    token = _GONE.set(gone)
    try:
        raise_if_abandoned()
        yield
    finally:
        _GONE.reset(token)


def raise_if_abandoned() -> None:
    """Call it between parts of a long computation.

    Raises:
        AbandonedError: nobody waits for it any more.
    """
    gone = _GONE.get()
    if gone is not None and gone():
        raise AbandonedError

"""A process and the one that started it: how it ended, and that it does not outlive that one.

Not here: ranks of a launcher, which save what they have first (`rendezvous.py`).
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading


def end_with_parent() -> None:
    """End this process, as a kill would, once the process that started it has ended.

    For a process of `multiprocessing`, at its beginning. One that is killed ends nobody else: its
    children would continue with work that is done anew meanwhile, into the same files.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def how_it_ended(code: int) -> str:
    """An exit code in words; minus a signal's number is that signal.

    >>> how_it_ended(-15), how_it_ended(3)
    ('was ended by SIGTERM', 'ended with code 3')
    """
    if code >= 0:
        return f"ended with code {code}"
    words = f"was ended by {signal.Signals(-code).name}"
    if -code == signal.SIGKILL:
        words += " (the system does that too when memory runs out)"
    return words

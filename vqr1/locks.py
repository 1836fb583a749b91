"""A file that one process holds while it works; released however the process ends.

A POSIX record lock: unlike `flock` it is not inherited by loader workers, which may outlive a
killed process by some seconds.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FileLock:
    """Holds a file for this process.

    Args:
        path: the lock's own file; it and its folder are made.
        remove: take the file away when the lock is given back.
    """

    def __init__(self, path: Path, *, remove: bool = False) -> None:
        self.path = path
        self._remove = remove
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False if another process holds it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                os.close(descriptor)
                return False
            if not self._remove or self._is_there(descriptor):
                self._file = descriptor
                return True
            # Its holder removed the file between the opening and the locking here.
            os.close(descriptor)

    def release(self) -> None:
        """Give it back."""
        if self._file is None:
            return
        if self._remove:
            self.path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = None

    def _is_there(self, descriptor: int) -> bool:
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(descriptor))


def is_held(path: Path) -> bool:
    """Whether another process holds a lock.

    One that this process holds itself is given back: call it when the work is over.

    Args:
        path: the lock's own file; it exists.
    """
    lock = FileLock(path)
    free = lock.acquire()
    lock.release()
    return not free

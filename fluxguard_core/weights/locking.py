"""A lock file, so that two processes never write the same download."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import DownloadError


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None], patience: float = 3600.0) -> Iterator[None]:
    """Hold the lock file `path`; while another process holds it, wait up to `patience` seconds.

    `waiting` is called once, when the wait begins. The operating system drops the lock of a process that dies, so a
    stale file blocks nobody.

    Raises:
        DownloadError: the other process does not come to an end.
    """
    lock = FileLock(path)
    if not _taken(lock, path, 0):
        waiting()
        if not _taken(lock, path, patience):
            raise DownloadError(
                f"Another process has held {path} for {patience:.0f} s.",
                "End it, or delete that file if no download is running.",
            )
    try:
        yield
    finally:
        with suppress(OSError):  # Windows keeps a file that is open; there, release deletes it.
            path.unlink(missing_ok=True)
        lock.release()


def _taken(lock: FileLock, path: Path, patience: float) -> bool:
    deadline = time.monotonic() + patience
    while True:
        try:
            lock.acquire(timeout=max(0.0, deadline - time.monotonic()), poll_interval=0.1)
        except Timeout:
            return False
        if path.exists():
            return True
        # The holder before deleted the file between our opening and locking it.
        lock.release()

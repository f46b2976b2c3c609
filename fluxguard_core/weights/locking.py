"""A lock file, so that two processes never write the same download."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DownloadError


@contextmanager
def exclusive(path: Path, waiting: Callable[[], None], patience: float = 3600.0) -> Iterator[None]:
    """Hold the lock file `path`; while another process holds it, wait up to `patience` seconds.

    `waiting` is called once, when the wait begins. The operating system drops the lock of a
    process that dies, so a stale file blocks nobody.
    """
    handle = _acquire(path, waiting, patience)
    try:
        yield
    finally:
        _release(path, handle)


def _acquire(path: Path, waiting: Callable[[], None], patience: float) -> int:
    deadline, told = time.monotonic() + patience, False
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if _try_lock(handle) and _still_there(path, handle):
            return handle
        os.close(handle)
        if time.monotonic() > deadline:
            raise DownloadError(
                f"Another process has held {path} for {patience:.0f} s; end it, or delete that "
                "file if no download is running."
            )
        if not told:
            waiting()
            told = True
        time.sleep(0.1)


def _still_there(path: Path, handle: int) -> bool:
    # The holder before may have deleted the file between our opening and locking it.
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _release(path: Path, handle: int) -> None:
        os.lseek(handle, 0, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_UNLCK, 1)
        os.close(handle)
        try:
            path.unlink()
        except OSError:  # Windows keeps a file that another process has open.
            return

else:
    import fcntl

    def _try_lock(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _release(path: Path, handle: int) -> None:
        path.unlink(missing_ok=True)
        os.close(handle)

"""The most main memory that this process has held, as its operating system counts it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def peak_memory() -> int:
    """Bytes at the highest, since the process began (on Linux: since the count was last cleared)."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":
        # Before ru_maxrss, which a process inherits from the one that started it.
        status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").split()
        if "VmHWM:" in status:
            return 1024 * int(status[status.index("VmHWM:") + 1])
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def new_peak() -> int:
    """Memory in use now in bytes, from which on the peak is measured."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # without it, the peak of loading counts as well
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()

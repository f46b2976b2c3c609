"""The most main memory that this process has held, as its operating system counts it."""

from __future__ import annotations

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

"""Progress bars, and Ctrl-C as a polite request."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor
from tqdm import tqdm

from ..errors import Interrupted
from ..pipelines.portrait import Observer, Phase


@contextmanager
def stopping() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C only sets a flag that the yielded function reads; the second one kills."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            signal.default_int_handler(number, frame)
        asked = True
        print("\nStopping; the best result so far will be kept.", file=sys.stderr)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def progress_bars(stop: Callable[[], bool], *, quiet: bool = False) -> Iterator[Observer]:
    """An observer that draws one bar a phase and raises ``Interrupted`` once ``stop`` says so."""
    bars: dict[str, Any] = {}

    def observe(phase: Phase, done: int, total: int, picture: Tensor | None) -> None:
        if phase not in bars:
            bars[phase] = tqdm(
                total=total, desc=f"{phase:<11}", disable=quiet, dynamic_ncols=True, leave=True
            )
        bars[phase].update(done - bars[phase].n)
        if stop():
            raise Interrupted("Stopped by the user.")

    try:
        yield observe
    finally:
        for bar in bars.values():
            bar.close()

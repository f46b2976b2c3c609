"""What every node of the pack shares: errors of the engine in the nodes' own words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from .words import in_nodes_words


class Node(io.ComfyNode):
    """A node whose ``execute`` tells what went wrong, and what would help, as it is done in a graph."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        own = vars(cls).get("execute")
        # The host copies nodes into locked classes of its own, which tell already.
        if isinstance(own, classmethod) and not hasattr(own.__func__, "__wrapped__"):
            cls.execute = classmethod(_told(own.__func__))


def _told(execute: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(execute)
    def told(*args: Any, **given: Any) -> Any:
        with in_nodes_words():
            return execute(*args, **given)

    return told

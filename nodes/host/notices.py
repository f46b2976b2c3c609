"""Notices and warnings that reach the user: in the host's log, and on the node that is running."""

from __future__ import annotations

import logging
from typing import Any

from comfy_execution.graph_utils import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from server import PromptServer

from ..words import NODES


def warn(text: str) -> None:
    """Log a warning, and show it on the running node in the client that queued it."""
    _tell(logging.WARNING, NODES(text))


def notice(text: str) -> None:
    """The same for what is worth knowing and no cause for worry."""
    _tell(logging.INFO, NODES(text))


def _tell(level: int, text: str) -> None:
    logging.log(level, "FluxGuard: %s", text)
    context, server = get_executing_context(), getattr(PromptServer, "instance", None)
    if context is not None and server is not None:
        server.send_progress_text(text, context.node_id, server.client_id)


def blocked(text: str) -> Any:
    """In place of an output that there is not: what hangs on it does not run, and the client is told why."""
    return ExecutionBlocker(text)

"""FluxGuard for ComfyUI: edit a portrait with words, and protect the person in it."""

from __future__ import annotations

from typing import Any

WEB_DIRECTORY = "./web"


async def comfy_entrypoint() -> Any:
    """The pack's nodes; imported only here, so that the folder stays importable without ComfyUI."""
    from .nodes import FluxGuardExtension

    return FluxGuardExtension()

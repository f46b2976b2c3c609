"""Run by ComfyUI's Python with arguments COMFYUI PACK: the pack's nodes, with nothing that only Unix has.

The host itself is imported first: on Linux it and PyTorch use these modules where they find them.
"""

from __future__ import annotations

import asyncio
import importlib
import sys

sys.path[:0] = [sys.argv[1]]

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True
for name in ("comfy.sd", "nodes", "torch._dynamo"):
    importlib.import_module(name)
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None  # type: ignore[assignment]

from inside import module  # noqa: E402


async def listed() -> list[str]:
    extension = await module.comfy_entrypoint()
    await extension.on_load()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]


print(*asyncio.run(listed()), sep="\n")

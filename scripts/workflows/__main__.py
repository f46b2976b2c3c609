"""Write workflows/*.json and subgraphs/*.json from what a running ComfyUI says of its nodes.

Usage: python -m scripts.workflows URL (a server with this pack, --base-directory of its own).
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

from .blueprints import BLUEPRINTS
from .graph import ROOT, Flow, instance, write
from .graphs import GRAPHS


def documents(schemas: dict[str, Any]) -> dict[Path, dict[str, Any]]:
    """Every shipped graph by the file it belongs into; schemas are a server's object_info."""
    made: dict[Path, dict[str, Any]] = {}
    for name, build in GRAPHS.items():
        for mini in (False, True):
            flow = Flow(schemas)
            build(flow, mini)
            path = ROOT / "workflows" / f"{'mini-' if mini else ''}{name}.json"
            made[path] = flow.document()
    for blueprint in BLUEPRINTS:
        part = blueprint(schemas)
        made[ROOT / "subgraphs" / f"{part['name']}.json"] = instance(part)
    return made


def main(url: str) -> None:
    with urllib.request.urlopen(f"{url}/object_info", timeout=60) as answer:
        schemas = json.loads(answer.read())
    for path, document in documents(schemas).items():
        write(path, document)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))

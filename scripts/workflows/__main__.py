"""Write workflows/*.json and subgraphs/*.json from what a running ComfyUI says of its nodes.

Usage: python -m scripts.workflows URL (a server with this pack, --base-directory of its own).
"""

from __future__ import annotations

import json
import sys
import urllib.request

from .blueprints import BLUEPRINTS
from .graph import ROOT, Flow, instance, write
from .graphs import GRAPHS


def main(url: str) -> None:
    with urllib.request.urlopen(f"{url}/object_info", timeout=60) as answer:
        schemas = json.loads(answer.read())
    for name, build in GRAPHS.items():
        for mini in (False, True):
            flow = Flow(schemas)
            build(flow, mini)
            path = ROOT / "workflows" / f"{'mini-' if mini else ''}{name}.json"
            write(path, flow.document())
    for blueprint in BLUEPRINTS:
        made = blueprint(schemas)
        write(ROOT / "subgraphs" / f"{made['name']}.json", instance(made))


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))

"""Write workflows/*.jpg by really running the miniature workflows on a ComfyUI.

Usage: python scripts/make_thumbnails.py URL [BEGINNING OF A NAME]. Full-size graphs carry their miniature twin's picture, and it
says so.
"""

from __future__ import annotations

import io
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

WORKFLOWS = Path(__file__).resolve().parents[1] / "workflows"
SIDE, STRIP = 256, 26


def ask(url: str, content: Any = None) -> Any:
    """GET, or POST where there is content."""
    data = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


def run(url: str, graph: dict[str, Any]) -> dict[str, Any]:
    """Outputs of a graph by node, once it has run through.

    The server forgets what it ran before: a node that it takes from there shows no picture.
    """
    ask(f"{url}/free", {"free_memory": True})
    prompt = ask(f"{url}/prompt", {"prompt": graph})
    if prompt["node_errors"]:
        raise SystemExit(json.dumps(prompt["node_errors"], indent=1))
    while True:
        history = ask(f"{url}/history/{prompt['prompt_id']}").get(prompt["prompt_id"])
        if history and history["status"]["completed"]:
            return dict(history["outputs"])
        if history and history["status"]["status_str"] == "error":
            raise SystemExit(json.dumps(history["status"]["messages"][-1], indent=1))
        time.sleep(0.2)


def pictures(
    url: str, graph: dict[str, Any], outputs: dict[str, Any]
) -> list[tuple[str, Image.Image]]:
    """Titled pictures: the source first, then what was made."""
    found = []
    for node, entry in graph.items():
        if entry["class_type"] not in (
            "FluxGuard_MiniPortrait",
            "PreviewImage",
            "SaveImage",
        ):
            continue
        for image in outputs[node]["images"]:
            with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(image)}") as answer:
                found.append((entry["_meta"]["title"], Image.open(io.BytesIO(answer.read()))))
    return sorted(found, key=lambda item: item[0] != "Miniature Portrait")


def sheet(tiles: list[tuple[str, Image.Image]], mark: str) -> Image.Image:
    """Pictures side by side with their titles, and a mark below."""
    tiles = tiles[:4]
    image = Image.new("RGB", (SIDE * len(tiles), SIDE + STRIP * (2 if mark else 1)), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    for i, (title, picture) in enumerate(tiles):
        image.paste(
            picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS), (i * SIDE, 0)
        )
        draw.text((i * SIDE + 8, SIDE + 4), title, "black", font)
    if mark:
        draw.text((8, SIDE + STRIP + 2), mark, "#ae4a1f", font)
    return image


def main(url: str, only: str = "") -> None:
    for path in sorted((WORKFLOWS / "api").glob(f"mini-{only}*.json")):
        graph = json.loads(path.read_text("utf-8"))
        started = time.monotonic()
        tiles = pictures(url, graph, run(url, graph))
        name = path.stem.removeprefix("mini-")
        sheet(tiles, "").save(WORKFLOWS / f"{path.stem}.jpg", quality=88)
        mark = "Made with the miniature twin of this graph, not with FLUX.1-dev"
        sheet(tiles, mark).save(WORKFLOWS / f"{name}.jpg", quality=88)
        print(f"{path.stem}: {time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"), *sys.argv[2:])

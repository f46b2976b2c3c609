"""The real front end in headless Chromium: every workflow opens, agrees with its API copy, and one runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from fluxguard_core.mini.faces import classify_attributes
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.mini.world import weights_path

from ..host.conftest import prepare
from ..host.miniature import assert_protected, pictures
from ..host.server import PACK, Server, host_path, host_python, running
from .wired import SEED, wired

WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
COMPACT = ("1-start-here", "mini-1-start-here")
BLUEPRINTS = sorted((PACK / "subgraphs").glob("*.json"))
# Widgets with which a fresh installation without models answers otherwise.
_EXPORT = Path(__file__).with_name("export.mjs")
_TEMPLATES = Path(__file__).with_name("templates.mjs")
PACK_NAME, GAP = "a-pack-of-portraits", "a-pack-with-a-gap"


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)


def _playwright() -> bool:
    code = "require('module').createRequire((process.env.PLAYWRIGHT_HOME||process.cwd())+'/')('playwright-core')"
    node = shutil.which("node")
    if node is None:
        return False
    folder = _EXPORT.parent
    return (
        subprocess.run([node, "-e", code], cwd=folder, capture_output=True, check=False).returncode
        == 0
    )


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    host, python = host_path(), host_python()
    if host is None or python is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH, and run scripts/setup_host_env.sh")
    if _chromium() is None:
        pytest.skip("no Chromium: install it, or set CHROMIUM")
    if not _playwright():
        pytest.skip(
            "no playwright-core: npm install playwright-core, and set PLAYWRIGHT_HOME to that folder"
        )
    base = tmp_path_factory.mktemp("browser")
    prepare(base)
    add_pack_with_a_gap(base / "custom_nodes" / GAP)
    with running(host, python, base) as server:
        yield server


def add_pack_with_a_gap(folder: Path) -> None:
    """A pack whose template holds a node that nobody has, to see what the front end says of one."""
    (folder / "workflows").mkdir(parents=True)
    (folder / "__init__.py").write_text("NODE_CLASS_MAPPINGS = {}\n")
    graph = json.loads((PACK / "workflows" / "mini-edit-only.json").read_text("utf-8"))
    graph["nodes"][0]["type"] = "NobodyHasThis"
    (folder / "workflows" / "gap.json").write_text(json.dumps(graph))


@pytest.fixture(scope="session")
def clicked(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the page held after each click on a template's card."""
    out = tmp_path_factory.mktemp("templates")
    packs = {PACK_NAME: [path.stem for path in WORKFLOWS], GAP: ["gap"]}
    node, chromium = shutil.which("node"), _chromium()
    assert node is not None and chromium is not None
    done = subprocess.run(
        [node, str(_TEMPLATES), server.url, chromium, str(out)],
        input=json.dumps(packs),
        text=True,
        capture_output=True,
        cwd=_TEMPLATES.parent,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads((out / "templates.json").read_text("utf-8")))


@pytest.fixture(scope="session")
def seen(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the front end made of every workflow; one of them has been run."""
    out = Path(os.environ.get("SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    graphs = {path.stem: json.loads(path.read_text("utf-8")) for path in [*WORKFLOWS, *BLUEPRINTS]}
    graphs |= {f"wired {path.stem}": wired(server, path.stem) for path in BLUEPRINTS}
    node, chromium = shutil.which("node"), _chromium()
    assert node is not None and chromium is not None
    command = [node, str(_EXPORT), server.url, chromium, str(out)]
    if weights_path("flux").is_file():
        command += ["--run", "mini-edit-only"]
    done = subprocess.run(
        command,
        input=json.dumps(graphs),
        text=True,
        capture_output=True,
        cwd=_EXPORT.parent,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((out / "results.json").read_text("utf-8"))
    return {**found, "folder": out}


def test_no_errors_on_the_page(seen: dict[str, Any]) -> None:
    assert not seen["problems"]


@pytest.mark.parametrize("path", [*WORKFLOWS, *BLUEPRINTS], ids=lambda path: path.stem)
def test_it_opens_without_a_dialog(seen: dict[str, Any], path: Path) -> None:
    state = seen["results"][path.stem]
    assert not state["dialogs"] and not state["missing"]
    assert (seen["folder"] / f"{path.stem}.png").stat().st_size > 20_000


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_the_api_copy_agrees(seen: dict[str, Any], path: Path) -> None:
    """What the front end would queue is what workflows/api holds."""
    copy = json.loads((path.parent / "api" / path.name).read_text("utf-8"))
    assert seen["results"][path.stem]["output"] == copy


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_node_covers_another(seen: dict[str, Any], path: Path) -> None:
    """As the front end really draws them, which makes a node as high as its widgets need."""
    nodes = seen["results"][path.stem]["geometry"]["nodes"]
    assert len(nodes) > 1
    for one, other in combinations(nodes, 2):
        assert not _overlap(one["box"], other["box"]), f"{one['type']} and {other['type']}"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_link_runs_under_a_third_node(seen: dict[str, Any], path: Path) -> None:
    """No further than it takes to pass a corner."""
    under = seen["results"][path.stem]["geometry"]["under"]
    assert not [crossing for crossing in under if crossing["length"] > 40]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_node_lies_in_one_group(seen: dict[str, Any], path: Path) -> None:
    geometry = seen["results"][path.stem]["geometry"]
    for node in geometry["nodes"]:
        holding = [group for group in geometry["groups"] if _holds(group["box"], node["box"])]
        assert len(holding) == 1, node["type"]
    for one, other in combinations(geometry["groups"], 2):
        assert not _overlap(one["box"], other["box"])


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_links_run_from_left_to_right(seen: dict[str, Any], path: Path) -> None:
    """Or down, to the node that shows a result."""
    where = {
        str(node["id"]): node["box"] for node in seen["results"][path.stem]["geometry"]["nodes"]
    }
    for _, origin, _, target, _, _ in json.loads(path.read_text("utf-8"))["links"]:
        from_box, to_box = where[str(origin)], where[str(target)]
        below = from_box[0] == to_box[0] and from_box[1] < to_box[1]
        assert from_box[0] + from_box[2] <= to_box[0] or below


@pytest.mark.parametrize("name", COMPACT)
def test_the_compact_graphs_fit_a_screen_at_full_size(seen: dict[str, Any], name: str) -> None:
    """1900 x 1000 pixels less the front end's own bars: nothing has to be scaled down to be read."""
    geometry = seen["results"][name]["geometry"]
    boxes = [entry["box"] for entry in (*geometry["nodes"], *geometry["groups"])]
    width = max(x + w for x, _, w, _ in boxes) - min(x for x, *_ in boxes)
    height = max(y + h for _, y, _, h in boxes) - min(y for _, y, *_ in boxes)
    assert width <= 1800 and height <= 880


def _overlap(one: list[int], other: list[int]) -> bool:
    return all(
        one[axis] < other[axis] + other[axis + 2] and other[axis] < one[axis] + one[axis + 2]
        for axis in (0, 1)
    )


def _holds(outer: list[int], inner: list[int]) -> bool:
    return all(
        outer[axis] <= inner[axis]
        and inner[axis] + inner[axis + 2] <= outer[axis] + outer[axis + 2]
        for axis in (0, 1)
    )


def test_the_template_dialog_lists_every_workflow(clicked: dict[str, Any]) -> None:
    assert set(clicked["results"][PACK_NAME]["listed"]) == {path.stem for path in WORKFLOWS}
    assert not clicked["problems"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_click_on_a_template_opens_it(clicked: dict[str, Any], path: Path) -> None:
    opened = clicked["results"][PACK_NAME]["opened"][path.stem]
    types = [node["type"] for node in json.loads(path.read_text("utf-8"))["nodes"]]
    assert sorted(opened["nodes"]) == sorted(types)
    assert not opened["unknown"] and not opened["dialogs"]
    assert "missing node" not in opened["text"].lower()


def test_a_missing_node_would_be_seen(clicked: dict[str, Any]) -> None:
    """The same checks on a template with a node that nobody has."""
    opened = clicked["results"][GAP]["opened"]["gap"]
    assert opened["unknown"] == ["NobodyHasThis"]
    assert "missing node" in opened["text"].lower()


def test_a_workflow_runs_from_the_browser(seen: dict[str, Any]) -> None:
    assert (seen["folder"] / "mini-edit-only-result.png").stat().st_size > 20_000


def run_blueprint(server: Server, seen: dict[str, Any], name: str) -> tuple[Tensor, Tensor]:
    """What the front end made of a wired blueprint, run; the portrait and the saved picture."""
    state = seen["results"][f"wired {name}"]
    assert not state["dialogs"] and not state["missing"]
    output = state["output"]
    (save,) = [node for node, entry in output.items() if entry["class_type"] == "SaveImage"]
    outcome = server.result(output)
    return render_batch([random_spec(SEED)])[0], pictures(server, outcome, save)


def test_the_blueprint_edits(server: Server, seen: dict[str, Any]) -> None:
    """Edit face with text: the lips become red, and what is far from them stays."""
    before, after = run_blueprint(server, seen, "Edit face with text")
    assert classify_attributes(before)[0]["lipstick"] == "none"
    assert classify_attributes(after)[0]["lipstick"] == "red"
    assert float((before - after).abs()[..., :40, :].mean()) < 0.04


def test_the_blueprint_edits_and_protects(server: Server, seen: dict[str, Any]) -> None:
    """Edit and protect a face: the whole method as one node."""
    before, after = run_blueprint(server, seen, "Edit and protect a face")
    assert classify_attributes(after)[0]["lipstick"] == "red"
    assert_protected(before, before, after)


def test_the_blueprint_protects(server: Server, seen: dict[str, Any]) -> None:
    """Protect face: the attacked recognisers no longer match, and the corners keep their pixels."""
    before, after = run_blueprint(server, seen, "Protect face")
    assert_protected(before, before, after)
    assert float((before - after).abs()[..., :8, :8].max()) < 1 / 255

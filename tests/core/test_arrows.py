"""Which room may know which, read from the imports in the source, those inside functions too."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
TIERS = (
    {"errors", "worlds", "devices", "resampling"},
    {"flow", "faces", "weights", "pictures"},
    {"recognition", "regions", "backends"},
    {"protect", "evaluate"},
    {"defences"},
    {"pipelines"},
    {"mini"},
    {"cli"},
)
"""Rooms of the engine, the lowest first; a room may know its own tier and those before it."""
HEIGHT = {room: height for height, tier in enumerate(TIERS) for room in tier}
OURS = {"fluxguard_core", "nodes", "training"}
# What ComfyUI offers to packs; everything else of it is internal.
HOST_INTERNALS = {"comfy", "comfy_execution", "comfy_extras", "execution", "nodes", "server"}
# Run as a folder it has no package that a relative import could start from.
RUN_AS_A_FOLDER = "fluxguard_core/__main__.py"


class Import(NamedTuple):
    """One import statement's target, with where it stands."""

    source: Path
    line: int
    target: tuple[str, ...]
    relative: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {'.'.join(self.target)}"


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Every import in a file; relative ones are resolved from the file's place under root."""
    source = path.relative_to(root)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(source, node.lineno, tuple(alias.name.split(".")), False)
        elif isinstance(node, ast.ImportFrom):
            base = source.parts[: len(source.parts) - node.level] if node.level else ()
            module = (*base, *(node.module or "").split(".")) if node.module else base
            for target in [module] if node.module else [(*base, a.name) for a in node.names]:
                yield Import(source, node.lineno, target, bool(node.level))


def all_imports(root: Path, *folders: str) -> list[Import]:
    paths = [p for folder in folders for p in sorted((root / folder).rglob("*.py"))]
    assert paths, f"no source under {root}"
    return [found for path in paths for found in imports_of(path, root)]


def room(parts: tuple[str, ...]) -> str | None:
    """The engine's room that a module stands in, None for the package itself and for others."""
    if len(parts) < 2 or parts[0] != "fluxguard_core":
        return None
    name = parts[1].removesuffix(".py")
    return None if name in {"__init__", "__main__", "__version__"} else name


def between_rooms(imports: list[Import]) -> Iterator[tuple[str, str, Import]]:
    for found in imports:
        source, target = room(found.source.parts), room(found.target)
        if source and target and source != target:
            yield source, target, found


def upward(imports: list[Import]) -> list[str]:
    return [str(i) for a, b, i in between_rooms(imports) if HEIGHT[b] > HEIGHT[a]]


def circles(imports: list[Import]) -> set[tuple[str, ...]]:
    """Rooms that reach themselves over others."""
    known: dict[str, set[str]] = {}
    for source, target, _ in between_rooms(imports):
        known.setdefault(source, set()).add(target)
    found: set[tuple[str, ...]] = set()

    def walk(path: tuple[str, ...]) -> None:
        for after in known.get(path[-1], ()):
            if after in path:
                found.add((*path[path.index(after) :], after))
            else:
                walk((*path, after))

    for start in known:
        walk((start,))
    return found


ENGINE = all_imports(ROOT, "fluxguard_core")
NODES = all_imports(ROOT, "nodes")


def test_every_room_has_its_place() -> None:
    rooms = {p.name.removesuffix(".py") for p in (ROOT / "fluxguard_core").iterdir()}
    rooms -= {"__init__", "__main__", "__pycache__", "models_manifest.json"}
    assert rooms <= set(HEIGHT), f"rooms without a tier: {rooms - set(HEIGHT)}"


def test_no_room_knows_one_above_it() -> None:
    assert not upward(ENGINE)


def test_no_circle_between_rooms() -> None:
    assert not circles(ENGINE)


def test_only_those_above_the_pipelines_know_the_miniature() -> None:
    low = {name for name, height in HEIGHT.items() if height <= HEIGHT["pipelines"]}
    assert not [str(i) for a, b, i in between_rooms(ENGINE) if b == "mini" and a in low]


def test_nothing_that_is_shipped_knows_the_training() -> None:
    shipped = [*ENGINE, *NODES, *imports_of(ROOT / "__init__.py", ROOT)]
    assert not [str(i) for i in shipped if "training" in i.target[:1]]


def test_the_engine_knows_neither_nodes_nor_host() -> None:
    hosts = HOST_INTERNALS | {"comfy_api", "folder_paths"}
    assert not [str(i) for i in ENGINE if i.target[0] in hosts]


def test_only_the_bridge_touches_the_hosts_internals() -> None:
    outside = [i for i in NODES if i.source.parts[:2] != ("nodes", "host") and not i.relative]
    assert not [str(i) for i in outside if i.target[0] in HOST_INTERNALS]


def test_the_command_line_is_known_by_nobody() -> None:
    outside = [*NODES, *(i for i in ENGINE if room(i.source.parts) != "cli")]
    found = [i for i in outside if room(i.target) == "cli" or i.target == ("fluxguard_core", "cli")]
    assert not [str(i) for i in found if i.source.as_posix() != RUN_AS_A_FOLDER]


def test_inside_the_pack_imports_are_relative() -> None:
    absolute = [i for i in (*ENGINE, *NODES) if not i.relative and i.target[0] in OURS]
    assert not [str(i) for i in absolute if i.source.as_posix() != RUN_AS_A_FOLDER]
    inside = [i for i in all_imports(ROOT, "training") if i.relative]
    assert not [str(i) for i in inside if i.target[0] != "training"]


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("from ..protect import engine", True),
        ("def f():\n    from .. import mini", True),
        ("from ..errors import FluxGuardError", False),
        ("from . import schedule", False),
    ],
)
def test_the_reader_sees_an_arrow_upwards(tmp_path: Path, statement: str, broken: bool) -> None:
    file = tmp_path / "fluxguard_core" / "flow" / "new.py"
    file.parent.mkdir(parents=True)
    file.write_text(statement, encoding="utf-8")
    assert bool(upward(all_imports(tmp_path, "fluxguard_core"))) == broken


def test_the_reader_sees_a_circle(tmp_path: Path) -> None:
    for name, other in (("flow", "faces"), ("faces", "weights"), ("weights", "flow")):
        folder = tmp_path / "fluxguard_core" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(f"from ..{other} import x", encoding="utf-8")
    assert circles(all_imports(tmp_path, "fluxguard_core"))

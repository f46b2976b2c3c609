"""The engine never words what a front end would: options, commands and packages stand in marks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fluxguard_core.cli.command_line import TERMINAL
from fluxguard_core.errors import LIBRARY, FluxGuardError, Words

ENGINE = Path(__file__).parents[2] / "fluxguard_core"
MARK = re.compile(r"‹(?:run|install|give) [^›]*›")
FRONT_END = re.compile(
    r"(?<![\w(-])--[a-z]"  # an option
    r"|\bpip3? install\b"
    r"|\bfluxguard (?:demo|protect|edit|shield|report|models|calibrate|bench|mini)\b"
    r"|‹(?!(?:run|install|give) )"  # a mark that nobody knows
)


def spoken(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text literal but the docstrings; of a text with values in it, its words with the values as ‥."""
    nested: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            nested.update(ast.walk(node) if isinstance(node.value, ast.Constant) else ())
        elif isinstance(node, ast.JoinedStr):
            parts = [p.value if isinstance(p, ast.Constant) else "‥" for p in node.values]
            nested.update(part for part in node.values if isinstance(part, ast.Constant))
            yield node.lineno, "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in nested:
            yield node.lineno, node.value


def worded_for_a_front_end(source: str) -> list[tuple[int, str]]:
    texts = spoken(ast.parse(source))
    return [(line, text) for line, text in texts if FRONT_END.search(MARK.sub("", text))]


# The command line itself, what says what a mark is, and a style sheet, whose variables look like options.
ELSEWHERE = ("cli", "errors.py", "evaluate/style.py")


def engine_files() -> list[Path]:
    files = {path.relative_to(ENGINE).as_posix(): path for path in ENGINE.rglob("*.py")}
    return [path for name, path in sorted(files.items()) if not name.startswith(ELSEWHERE)]


def node_names() -> set[str]:
    """What the nodes are called on screen, where that is more than a common word."""
    names: set[str] = set()
    for path in (ENGINE.parent / "nodes").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            given = {k.arg: k.value for k in node.keywords} if isinstance(node, ast.Call) else {}
            shown = given.get("display_name")
            if "node_id" in given and isinstance(shown, ast.Constant):
                names.add(str(shown.value).split(" (")[0])
    return {name for name in names if " " in name}


def test_no_node_is_named() -> None:
    names = node_names()
    assert {"RF Inversion", "Text to Mask"} <= names
    named = re.compile("|".join(rf"\b{re.escape(name)}\b" for name in names) + r"|\bSIGMAS\b")
    found = [
        f"{path.relative_to(ENGINE.parent)}:{line} {text!r}"
        for path in engine_files()
        for line, text in spoken(ast.parse(path.read_text(encoding="utf-8")))
        if named.search(text)
    ]
    assert not found, "\n".join(found)


def test_no_option_command_or_package_outside_of_marks() -> None:
    found = [
        f"{path.relative_to(ENGINE.parent)}:{line} {text!r}"
        for path in engine_files()
        for line, text in worded_for_a_front_end(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("source", "seen"),
    [
        ('x = "give another file with --to."', True),
        ('x = f"run `fluxguard models download {name}`"', True),
        ('x = "`pip install onnx` helps"', True),
        ('x = "‹call models list›"', True),
        ('x = "‹run models download x --accept-licence›, then ‹install onnx›"', False),
        ('def f():\n    """As --to does."""', False),
        ('x = "a -- b"', False),
    ],
)
def test_the_reader_sees_a_front_ends_words(source: str, seen: bool) -> None:
    assert bool(worded_for_a_front_end(source)) == seen


def test_each_front_end_puts_the_remedy_into_its_own_words() -> None:
    error = FluxGuardError("No mask.", "Give one as ‹give face_mask›, or ‹run models list›.")
    assert str(error) == error.told(LIBRARY)
    assert "'face_mask'" in str(error) and "`fluxguard models list`" in str(error)
    assert "--face-mask" in error.told(TERMINAL)
    shout = Words(run=str.upper, install=str, give=str)
    assert error.told(shout).endswith("MODELS LIST.")
    assert str(FluxGuardError("Only what came.")) == "Only what came."


ADVICE = re.compile(
    r"[.)] (?:Add|Ask|Check|Choose|Delete|Download|Fetch|Free|Give|Install|Move|Put|Raise|Run|Save|Set|Try|Use) "
)


def advising(source: str) -> Iterator[tuple[int, str]]:
    """Messages of errors that go on to say what to do, which is what a remedy is for."""
    for node in ast.walk(ast.parse(source)):
        raised = node.exc if isinstance(node, ast.Raise) else None
        if isinstance(raised, ast.Call) and raised.args:
            message = " ".join(text for _, text in spoken(raised.args[0]))
            if ADVICE.search(message):
                yield raised.lineno, message


def test_what_helps_stands_in_the_remedy() -> None:
    found = [
        f"{path.relative_to(ENGINE.parent)}:{line} {text!r}"
        for path in engine_files()
        for line, text in advising(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)
    assert list(advising('raise FluxGuardError("No mask. Give one.")'))
    assert not list(advising('raise FluxGuardError("No mask.", "Give one.")'))

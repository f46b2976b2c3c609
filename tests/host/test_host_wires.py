"""What other packs put on the host's wires: read alike by every node that has such an input, or refused in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .scripts import found

RAW = ("NoneType", "object has no attribute", "size of tensor", "to unpack", "Expected 3D", "index")
ALIKE = {
    "MASK": {"HW", "B1HW", "BHW1", "bool", "8 bits", "half", "double"},
    "IMAGE": {"HWC", "RGBA", "double"},
    "LATENT": {"with an index"},
}
CLOSE = {"half", "bf16", "8 bits", "grey", "grey and alpha", "over"}
"""Kinds that lose or change something by themselves."""
REQUIRED_MASK = "VelocityFusionNode.mask"


@pytest.fixture(scope="module")
def seen(installation: tuple[Path, Path]) -> dict[str, Any]:
    return dict(found(installation, "wires_check.py"))


def test_every_node_with_such_inputs_is_tried(seen: dict[str, Any]) -> None:
    """The inputs are read from the schemas; a node that the script has no inputs for ends it."""
    kinds = [entry[""][0] for entry in seen.values()]
    assert kinds.count("IMAGE") >= 9 and kinds.count("MASK") >= 6 and kinds.count("LATENT") >= 4


def test_odd_shapes_and_number_formats_are_read_alike(seen: dict[str, Any]) -> None:
    for name, entry in seen.items():
        for kind in ALIKE[entry[""][0]]:
            assert entry[kind] == ["same", ""], (name, kind, entry[kind])
        for kind in CLOSE & set(entry):
            assert entry[kind][0] in ("same", "other") or entry[""][0] == "MASK", (name, kind)


def test_what_cannot_be_read_is_told_in_words(seen: dict[str, Any]) -> None:
    for name, entry in seen.items():
        readable = ALIKE[entry[""][0]] | (set() if entry[""][0] == "MASK" else CLOSE)
        for kind in set(entry) - readable - {"", "blank", "nothing"}:
            outcome, words = entry[kind]
            assert outcome == "words", (name, kind, entry[kind])
            assert f"the input {name.rsplit('.', 1)[1]}" in words, (name, kind, words)
            assert not any(raw in words for raw in RAW), (name, kind, words)
        outcome, words = entry["nothing"]  # an optional input may be left open
        left = "got nothing" in words or "One edit came" in words
        assert outcome in ("same", "other") or left, (name, words)


def test_the_hosts_blank_mask_counts_as_none(seen: dict[str, Any]) -> None:
    """Load Image's 64 x 64 of black: as without a mask, and in words where there has to be one."""
    masks = {name: entry["blank"] for name, entry in seen.items() if entry[""][0] == "MASK"}
    outcome, words = masks.pop(REQUIRED_MASK)
    assert outcome == "words" and "Load Image" in words and "Mask Editor" in words
    assert masks and all(result == ["same", ""] for result in masks.values()), masks

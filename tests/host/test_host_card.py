"""What a graphics card would meet in the nodes, shown without one: counts, requests, shapes on other devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from .conftest import older_host
from .scripts import found

Installation = tuple[Path, Path]


@pytest.fixture(params=["newest", "0.25"] if older_host() else ["newest"])
def any_installation(request: pytest.FixtureRequest, installation: Installation) -> Installation:
    """The newest host and, where it lies beside it, the oldest supported one."""
    older = older_host()
    return (older, installation[1]) if request.param == "0.25" and older else installation


def test_sigma_is_read_once_and_patches_are_there_only_when_due(
    any_installation: Installation,
) -> None:
    seen = found(any_installation, "evaluation_check.py")
    # stock Euler, one injection and two fusions: one read for all of them
    assert seen["stock"] == {"reads": 1, "evaluations": 6, "patched": [1, 1, 0, 0, 0, 0]}
    # solvers of ours know their σ
    assert seen["ours"] == {"reads": 0, "evaluations": 12, "patched": [1] * 4 + [0] * 8}
    assert seen["inversion"]["patched"] == [0] * 8 + [1] * 4 and seen["inversion"]["kept"] > 0
    # whatever attention computes, an edit that changes nothing ends at the source
    assert len(seen["retraced"]) == 4 and max(seen["retraced"].values()) < 1e-5
    assert seen["bfloat16"] < 1e-6
    # compiled by the host: patches are heard, and what was compiled serves all evaluations without one
    assert max(seen["compiled"]["errors"]) < 1e-5
    first, once, again = seen["compiled"]["frames"]
    assert 0 < first <= once == again


def test_the_record_is_locked_within_the_hosts_budget(any_installation: Installation) -> None:
    seen = found(any_installation, "record_check.py")
    assert all(entry["whole"] and entry["left"] == 0 for entry in seen.values())
    kept = {name: (e["place"], e["locked"], e["host"], e["told"]) for name, e in seen.items()}
    assert kept == {
        "room": ("pinned", 10, 10, 0),
        "budget": ("pinned", 8, 8, 1),
        "switched off": ("cpu", 0, 0, 0),
        "refused": ("pinned", 0, 0, 1),
        "blocking": ("cpu", 0, 0, 0),
    }


def test_model_and_refinement_have_the_card_by_turns(any_installation: Installation) -> None:
    seen = found(any_installation, "turns_check.py")
    model, ours = ["load", ["Flux"], False], ["load", ["TAESD"], True]
    last, back = [ours, ["refine", False]], [["empty"], model]
    # MODEL by itself, then the decoder with room to work; nothing is brought back after the last
    assert seen["log"] == [model, ours, ["refine", True], *back, *last]
    # where there was no room everything goes but what the refinement runs, and it is tried once more
    again = [ours, ["no memory"], ["clear", ["TAESD"]], ["empty"], ["empty"], ours]
    assert seen["log once"] == [model, *again, ["refine", True], *back, *last] and seen["once"]
    # then no more, but the edit goes on to its end
    assert seen["log twice"] == [model, *again, ["no memory"], *back]
    failed, words = seen["twice"]
    assert failed and "fewer random views" in words and "smaller picture" in words
    assert seen["edit kept"] and seen["untouched"] == 0
    assert seen["alone"] and seen["other errors"]
    for name, loads in (("fast", 1), ("balanced", 2), ("strong", 1)):  # balanced loads MODEL too
        whole, once, twice = seen["shields"][name]
        assert whole == ["made", ["load"] * loads]
        assert once == ["made", ["load"] * loads + ["clear"] + ["load"] * loads]
        assert twice[1] == once[1] and "twice" in twice[0] and "asks less of FLUX" in twice[0]
    assert all(seen["needs"].values()), seen["needs"]
    measured, counted = seen["activations"]
    assert abs(measured - counted) < 0.02 * measured
    # latents on cuda:1, networks on cuda:0
    cards, two = seen["cards"], seen["two"]
    assert cards == {"devices": ["cuda:1"] * 4, "differentiable": True}
    # and the way back, on two devices that autograd can pretend
    assert two["devices"] == ["cpu:1"] * 4 and two["differentiable"] and two["apart"]
    assert two["slope"] == ["cpu:1", True]

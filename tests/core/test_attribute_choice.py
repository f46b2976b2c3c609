"""Which attributes change, how strongly, and what is said about it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest

from fluxguard_core.defences.attribute_report import (
    AttributeReading,
    AttributeReport,
    ClassifierReport,
    MatcherReport,
)
from fluxguard_core.defences.attribute_strength import agreed, find_strengths
from fluxguard_core.defences.attribute_words import WORDS, worded
from fluxguard_core.defences.attributes import (
    CELEBA,
    HAIR_COLOURS,
    PUBLISHED,
    flipped,
    given,
    most_revealing,
    neutralised,
    parse_values,
    randomised,
    resolved,
)
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.quality import Quality
from fluxguard_core.mini.attribute_labels import ATTRIBUTES, attributes_with, labels_of
from fluxguard_core.mini.captions import parse_caption
from fluxguard_core.mini.portrait_spec import Attributes, random_attributes
from fluxguard_core.regions.shapes import RULES

SEEN = {
    "Bald": 0.02,
    "Bangs": 0.9,
    "Black_Hair": 0.97,
    "Blond_Hair": 0.01,
    "Eyeglasses": 0.6,
    "No_Beard": 0.8,
    "Mustache": 0.1,
}


def test_the_names_are_celebas_in_its_order() -> None:
    assert len(CELEBA) == 40 == len(set(CELEBA))
    assert [name for name in CELEBA if name in PUBLISHED] == list(PUBLISHED)
    assert [name for name in CELEBA if name in ATTRIBUTES] == list(ATTRIBUTES)


def test_a_hair_colour_takes_the_other_one_off() -> None:
    assert flipped(["Blond_Hair"], SEEN).targets == {"Blond_Hair": 1.0, "Black_Hair": 0.0}
    assert flipped(["Black_Hair"], SEEN).targets == {"Black_Hair": 0.0}


def test_what_follows_knows_what_it_follows() -> None:
    assert flipped(["Eyeglasses", "Bald"], SEEN).led == {"Bangs": "Bald", "Black_Hair": "Bald"}
    assert flipped(["Eyeglasses", "Black_Hair"], SEEN).led == {}


def test_a_bald_head_has_neither_fringe_nor_colour() -> None:
    wanted = flipped(["Bald"], SEEN)
    assert wanted.targets == {"Bald": 1.0, "Bangs": 0.0, "Black_Hair": 0.0}
    assert wanted.asked == ("Bald",)
    assert given({"Mustache": True}, SEEN).targets == {"Mustache": 1.0, "No_Beard": 0.0}


def test_contradictions_and_unknown_names_are_told() -> None:
    with pytest.raises(FluxGuardError, match="cannot be seen together"):
        resolved({"Bald": 1.0, "Bangs": 1.0}, SEEN)
    with pytest.raises(FluxGuardError, match="no attribute 'Glasses'"):
        flipped(["Glasses"], SEEN)
    assert given({"Bald": True, "Bangs": False}, SEEN).targets["Bangs"] == 0.0
    assert neutralised(["Eyeglasses"], SEEN).targets == {"Eyeglasses": 0.5}
    assert parse_values(["Bald=no", "Bangs=yes"]) == {"Bald": False, "Bangs": True}
    for wrong in (["Bald"], ["Bald=maybe"], ["Bald=yes", "Bald=no"]):
        with pytest.raises(FluxGuardError):
            parse_values(wrong)


def test_random_attributes_follow_their_seed_and_spare_what_is_kept() -> None:
    keep = ("Black_Hair", "Eyeglasses")
    draws = [randomised(2, SEEN, keep=keep, seed=seed) for seed in range(30)]
    assert draws[3] == randomised(2, SEEN, keep=keep, seed=3)
    assert len({draw.asked for draw in draws}) > 3
    for draw in draws:
        assert len(draw.asked) == 2 and not set(draw.targets) & set(keep)
        assert all(draw.targets[name] != round(SEEN[name]) for name in draw.targets)
    with pytest.raises(FluxGuardError, match="Expected from 1 to 5"):
        randomised(6, SEEN, keep=keep)


def test_the_surest_answers_reveal_most() -> None:
    assert most_revealing(SEEN, ["Blond_Hair"])[:2] == ("Bald", "Black_Hair")
    assert most_revealing(SEEN)[-1] == "Eyeglasses"


def look_with(bend: float, breaks_at: float = math.inf):  # type: ignore[no-untyped-def]
    """A classifier that turns at a strength, and recognisers that give up at another."""

    def look(strengths: Mapping[str, float]) -> tuple[dict[str, float], bool]:
        sure = {name: min(1.0, max(0.0, 0.5 + s - bend)) for name, s in strengths.items()}
        return {"A": 0.0, "B": 0.0, **sure}, sum(strengths.values()) < breaks_at

    return look


def test_the_smallest_strength_that_turns_is_found() -> None:
    found = find_strengths({"A": 1.0}, {"A": 0.0}, look_with(0.5), strongest=1.5, confidence=0.9)
    assert found.turned == {"A": True} and found.matched
    assert 0.9 <= found.values["A"] < 0.9 + 1.5 / 2**5
    half = find_strengths({"A": 0.5}, {"A": 0.0}, look_with(0.7), strongest=1.5)
    assert half.values["A"] == pytest.approx(0.7, abs=1.5 / 2**5)


def test_a_turned_attribute_goes_further_where_recognition_bears_it() -> None:
    given: dict[str, float] = {"A": 1.0}
    more = {"strongest": 1.5, "least": 1.0}
    assert find_strengths(given, {"A": 0.0}, look_with(0.1), **more).values["A"] == 1.0
    assert find_strengths(given, {"A": 0.0}, look_with(0.1, 0.8), **more).values["A"] < 0.6
    assert find_strengths({"A": 0.5}, {"A": 0.0}, look_with(0.1), **more).values["A"] < 0.2


def test_recognition_bounds_the_strength() -> None:
    found = find_strengths({"A": 1.0}, {"A": 0.0}, look_with(0.5, 0.6), strongest=1.5)
    assert found.turned == {"A": False} and found.matched
    assert 0.6 - 1.5 / 2**5 < found.values["A"] < 0.6
    # One that can never turn goes as far as it may, and says so.
    stuck = find_strengths({"A": 1.0}, {"A": 0.0}, look_with(5.0), strongest=1.5)
    assert stuck.turned == {"A": False} and stuck.values["A"] == 1.5


def test_what_is_too_strong_is_not_taken_for_stronger() -> None:
    """Hair that is turned far beyond its colour looks like no hair."""

    def look(strengths: Mapping[str, float]) -> tuple[dict[str, float], bool]:
        return {"A": max(0.0, 1.0 - abs(strengths["A"] - 1.0))}, True

    found = find_strengths({"A": 1.0}, {"A": 0.0}, look, strongest=2.5)
    assert found.turned == {"A": True} and 0.9 <= found.values["A"] < 0.95
    near = find_strengths({"A": 1.0}, {"A": 0.0}, look, strongest=2.5, confidence=1.1)
    assert near.turned == {"A": False} and near.values["A"] == 1.0


def test_attributes_are_found_one_after_another() -> None:
    targets, start = {"A": 1.0, "B": 1.0}, {"A": 0.0, "B": 0.0}
    found = find_strengths(targets, start, look_with(0.1, 0.9), strongest=1.5)
    assert found.turned == {"A": True, "B": False} and found.matched
    assert found.values["A"] + found.values["B"] < 0.9
    held = find_strengths({"B": 1.0}, start, look_with(0.1), strongest=1.5, held={"A": 0.3})
    assert held.values["A"] == 0.3 and held.turned == {"B": True}


def test_every_attribute_in_words_names_regions_that_there_are() -> None:
    assert set(WORDS) == set(CELEBA) - {"Attractive", "Blurry", "Oval_Face"}
    for words in WORDS.values():
        assert set(words.regions) <= set(RULES) and 0 < words.strength <= 1
        assert words.there != words.gone


def test_words_for_several_attributes_say_each_once() -> None:
    edit = worded({"Blond_Hair": 1.0, "Black_Hair": 0.0, "Eyeglasses": 0.0})
    assert edit.target == "blond hair, no eyeglasses"
    assert edit.source == "brown hair, eyeglasses"
    assert edit.regions == ("hair", "eyeglasses")
    assert worded({"Pale_Skin": 1.0}).strength == WORDS["Pale_Skin"].strength
    with pytest.raises(FluxGuardError, match="neutralise"):
        worded({"Smiling": 0.5})


def test_the_miniature_understands_the_words_of_its_attributes() -> None:
    for name in ATTRIBUTES:
        assert parse_caption(WORDS[name].there) and parse_caption(WORDS[name].gone)


def test_drawn_labels_go_there_and_back() -> None:
    for seed in range(60):
        shown = random_attributes(seed)
        labels = dict(zip(ATTRIBUTES, labels_of(vars(shown)), strict=True))
        assert attributes_with(shown, labels) == shown
        assert sum(labels[name] for name in (*HAIR_COLOURS, "Bald")) <= 1
    bald = attributes_with(Attributes(), {**dict.fromkeys(ATTRIBUTES, 0), "Bald": 1})
    assert bald.hair_style == "bald" and bald.beard == "yes"
    back = attributes_with(
        bald, {**dict.fromkeys(ATTRIBUTES, 0), "Blond_Hair": 1, "Wearing_Hat": 1}
    )
    assert (back.hair_style, back.hair_colour, back.hat) == ("short", "blond", "black")


def report_of(after: float, wanted: float | None, cosine: float = 0.8) -> AttributeReport:
    readings = (
        AttributeReading("Smiling", 0.05, after, wanted),
        AttributeReading("Eyeglasses", 0.9, 0.2, None),
    )
    return AttributeReport(
        {"Smiling": 1.0},
        {"Smiling": 0.7},
        "keep",
        (ClassifierReport("own", True, readings), ClassifierReport("other", False, readings)),
        (MatcherReport("ir", True, cosine, 0.5), MatcherReport("vit", False, 0.4, None)),
        Quality(31.0, 0.95),
        ("A note.",),
    )


def test_a_report_says_what_was_reached_and_what_moved_besides() -> None:
    lines = report_of(0.97, 1.0).told()
    assert lines[0] == "PSNR 31.0 dB, SSIM 0.950"
    assert lines[1] == (
        "own (steered by): Smiling 5% -> 97%; 0 of 1 others stay (changed: Eyeglasses)"
    )
    assert "other (unseen)" in lines[2] and lines[-1] == "A note."
    assert lines[3] == "ir (consulted): similarity 0.80, still matches"
    assert lines[4] == "vit (held out): similarity 0.40, threshold not known"
    assert "(not reached)" in report_of(0.3, 1.0).told()[1]
    assert "(not reached)" not in report_of(0.45, 0.5).told()[1]
    assert report_of(0.97, 1.0, 0.3).to_dict()["recognisers"][0]["matches"] is False


def test_several_classifiers_agree_on_their_mean_log_odds() -> None:
    assert agreed([{"A": 0.3, "B": 0.8}]) == pytest.approx({"A": 0.3, "B": 0.8})
    both = agreed([{"A": 0.2, "B": 0.5, "C": 0.9}, {"A": 0.8, "B": 0.9}])
    assert both == pytest.approx({"A": 0.5, "B": 0.75, "C": 0.9})
    # One that is never in doubt has no more to say than one that is sure.
    assert agreed([{"A": 1.0}, {"A": 0.001}])["A"] == pytest.approx(0.5)

"""Words to regions: the released keyword table, phrases, precedence, and what an edit changes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fluxguard_core.cli.main import main
from fluxguard_core.mini.captions import caption
from fluxguard_core.mini.portrait_spec import Attributes
from fluxguard_core.regions import (
    RULES,
    UnknownWords,
    nearest,
    region_names,
    regions_in,
    regions_of_edit,
    understand,
)
from fluxguard_core.regions.lexicon import load_lexicon

# The released code's table, as recognition.md 4.1 lists it.
RELEASED = {
    "eyes": "eye,eyes,eyeliner,eye liner,mascara,eye makeup,eye color,eye shape",
    "eyeshadow": "eyeshadow,eye shadow",
    "makeup": "makeup",
    "lips": "lipstick,lip gloss,lip,lips",
    "cheeks": "blush,rouge",
    "beard": "beard,mustache",
    "forehead": "forehead",
    "hairline": "hairline",
    "hair": "hair",
    "bangs": "bangs,bang,fringe",
    "eyebrows": "eyebrow,eyebrows",
    "chin": "chin",
    "nose": "nose",
    "eyeglasses": "eyeglasses,glasses",
    "skin": "skin",
    "mouth": "mouth",
}


def test_every_released_keyword_names_its_region() -> None:
    for region, words in RELEASED.items():
        for word in words.split(","):
            assert regions_in(f"a person, {word.upper()}!") == (region,), word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a person with blond hair, wearing red lipstick", ("hair", "lips")),
        ("green eye shadow", ("eyeshadow",)),
        ("long wavy blond hair", ("hairstyle",)),
        ("long straight and black hair", ("hair",)),
        ("blue eyes and round sunglasses", ("eyes", "eyeglasses")),
        ("glasses over her eyes", ("eyeglasses", "eyes")),
        ("the lips of her mouth", ("lips",)),
        ("lips and mouth", ("lips", "mouth")),
        ("bangs of hair over the forehead", ("bangs",)),
        ("hair with bangs", ("hair", "bangs")),
        ("makeup on her eyes", ("eyes",)),
        ("a face with a beard", ("beard",)),
        ("a younger face", ("face",)),
        ("a clean-shaven man in a t-shirt and a cap", ("beard", "clothes", "hat")),
        ("lips, then more lips", ("lips",)),
        ("wearing a face mask", ("nose", "mouth", "chin")),
        ("lèvres rouges", ("lips",)),
        ("rouge à lèvres", ("lips",)),
        ("rouge on her cheeks", ("cheeks",)),
    ],
)
def test_sentences(text: str, expected: tuple[str, ...]) -> None:
    assert regions_in(text) == expected


@pytest.mark.parametrize("text", ["", "a fast car", "eyesore", "hairy", "chinese", "nosebleed"])
def test_no_region_is_an_error_that_lists_the_words(text: str) -> None:
    with pytest.raises(UnknownWords) as caught:
        regions_in(text)
    for word in ("lipstick", "eyeglasses", "background"):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ("a person with black hair", "a person with black hair, wearing red lipstick", ("lips",)),
        ("a person with black hair", "a person with blond hair", ("hair",)),
        ("a person with short black hair", "a person with short red hair", ("hair",)),
        ("a person with short black hair", "a person with long black hair", ("hairstyle",)),
        ("a bald person", "a person with long black hair", ("hairstyle",)),
        ("a person with a beard and eyeglasses", "a person with a beard", ("eyeglasses",)),
        ("a person, grey background", "a person with a hat, grey background", ("hat",)),
        ("", "a person with a smile", ("smile",)),
    ],
)
def test_an_edit_is_where_two_prompts_differ(
    source: str, target: str, expected: tuple[str, ...]
) -> None:
    assert regions_of_edit(source, target) == expected


@pytest.mark.parametrize(
    ("change", "region"),
    [
        ({"hair_colour": "red"}, "hair"),
        ({"hair_style": "curly"}, "hairstyle"),
        ({"lipstick": "dark"}, "lips"),
        ({"smile": "yes"}, "smile"),
        ({"eyeglasses": "yes"}, "eyeglasses"),
        ({"beard": "yes"}, "beard"),
        ({"eyeshadow": "green"}, "eyeshadow"),
        ({"hat": "blue"}, "hat"),
        ({"earrings": "yes"}, "earrings"),
        ({"background": "pink"}, "background"),
        ({"clothes": "green"}, "clothes"),
    ],
)
def test_the_miniatures_captions_are_understood(change: dict[str, str], region: str) -> None:
    source = Attributes()
    target = replace(source, **change)
    assert regions_of_edit(caption(source), caption(target)) == (region,)
    assert regions_of_edit(caption(target), caption(source)) == (region,)


def test_equal_prompts_are_an_error() -> None:
    with pytest.raises(UnknownWords, match="say the same"):
        regions_of_edit("A person with hair.", "a person with hair")


def test_prompts_that_differ_in_one_thing_name_only_that() -> None:
    before = "a woman in a red dress standing in a park"
    assert regions_of_edit(before, "a woman in a red dress standing on a beach") == ("background",)
    assert regions_of_edit(before, "a woman in a blue dress standing in a park") == ("clothes",)
    assert regions_of_edit("a photo of a man", "a photo of an old man") == ("face",)
    assert regions_of_edit("a photo of a man", "a photo of a woman") == ("face",)


def test_a_bare_wish_is_no_description_of_the_whole_picture() -> None:
    source = "a woman with brown hair and a hat"
    assert regions_of_edit(source, "red lipstick") == ("lips",)
    assert regions_of_edit(source, "give the woman a beard") == ("beard",)


@pytest.mark.parametrize(
    ("text", "regions", "kept"),
    [
        ("same hair, red lips", ("lips",), ("hair",)),
        ("keep the hair and the eyes, change the mouth", ("mouth",), ("hair", "eyes")),
        ("keep the hair and add a hat", ("hat",), ("hair",)),
        ("a red hat, the beard stays the same", ("hat",), ("beard",)),
        ("change the clothes but not the hair", ("clothes",), ("hair",)),
        ("a new hairstyle without changing the beard", ("hairstyle",), ("beard",)),
        ("remove the glasses", ("eyeglasses",), ()),
        ("sunglasses instead of the hat", ("eyeglasses", "hat"), ()),
        ("换背景，保留头发", ("background",), ("hair",)),
    ],
)
def test_what_is_kept_is_not_changed(
    text: str, regions: tuple[str, ...], kept: tuple[str, ...]
) -> None:
    found = understand(text)
    assert (found.regions, found.kept) == (regions, kept)


def test_only_things_to_keep_are_told_as_such() -> None:
    with pytest.raises(UnknownWords, match="only says what stays"):
        regions_in("keep her hair")


def test_unknown_words_are_told_with_near_ones() -> None:
    found = understand("a zorblax and red lips")
    assert found.regions == ("lips",) and found.unknown == ("zorblax",)
    assert "eyebrow" in nearest("eyebrwo")
    with pytest.raises(UnknownWords, match=r"beerd: .*beard"):
        regions_in("a long beerd")


def _rows(name: str) -> list[list[str]]:
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    return [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("name", ["region_wishes.tsv", "region_wishes_fresh.tsv"])
def test_lists_of_wishes(name: str) -> None:
    wrong = []
    for wish, wanted, forbidden in _rows(name):
        found = set(understand(wish).regions)
        if not found & set(wanted.split("|")) or found & set(forbidden.split("|")):
            wrong.append((wish, found))
    assert not wrong


def test_sentences_without_a_wish_name_nothing() -> None:
    found = {row[0]: understand(row[0]).regions for row in _rows("region_captions.tsv")}
    assert len(found) >= 40 and not {text: named for text, named in found.items() if named}


def test_every_region_of_the_lexicon_has_a_shape_and_every_example_its_region() -> None:
    assert set(region_names()) <= set(RULES)
    for group in load_lexicon().table["groups"]:
        for noun in group.get("nouns", ()):
            if not (group.get("place") or group.get("role") or group.get("yields")):
                assert set(understand(noun.replace("_", "")).regions) & set(RULES), noun


def test_the_command_needs_no_torch() -> None:
    code = (
        "import sys; from fluxguard_core.cli.main import main;"
        "main(['regions', 'red lips', '--json']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[0])["regions"] == ["lips"]
    assert done.stdout.splitlines()[1] == "False"


def test_the_regions_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["regions", "red lipstick, same hair", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "regions": ["lips"],
        "unknown": [],
        "kept": ["hair"],
        "how": "lexicon",
    }
    assert main(["regions", "a woman with a hat", "--source", "a woman"]) == 0
    assert capsys.readouterr().out.strip() == "hat"
    assert main(["regions", "a fast car"]) == 2
    assert "Name at least one of" in capsys.readouterr().err

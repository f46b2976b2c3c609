"""Words to regions: the released keyword table, phrases, precedence, and what an edit changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fluxguard_core.mini.captions import caption
from fluxguard_core.mini.portrait_spec import Attributes
from fluxguard_core.regions import (
    REGION_WORDS,
    RULES,
    UnknownWords,
    known_words,
    regions_in,
    regions_of_edit,
)

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


def test_every_known_word_has_one_region_with_a_shape() -> None:
    words = known_words()
    assert len(words) == len(set(words))
    for region, phrases in REGION_WORDS.items():
        assert region in RULES
        for phrase in phrases:
            found = regions_in(phrase.replace("...", "golden"))
            assert found == (region,), (phrase, found)


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

"""The renderer: determinism, labels and landmarks that agree with the picture, captions that parse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.captions import caption, parse_caption
from fluxguard_core.mini.portrait_spec import (
    CHOICES,
    Attributes,
    Nuisance,
    identity,
    random_attributes,
    random_spec,
    with_attributes,
)
from fluxguard_core.mini.renderer import LABEL_NAMES, render, render_batch
from training.mini.wordings import training_caption

SPECS = [random_spec(seed) for seed in range(12)]


def test_equal_specs_give_equal_pictures_alone_or_in_a_batch() -> None:
    images, labels, landmarks = render_batch(SPECS[:4])
    single = render(SPECS[2])
    assert torch.allclose(images[2], single.image, atol=1e-6)
    assert (labels[2] != single.labels).float().mean() < 1e-4
    assert torch.allclose(landmarks[2], single.landmarks, atol=1e-4)
    assert random_spec(7) == random_spec(7) != random_spec(8)


def test_pictures_are_in_range_and_scale_with_size() -> None:
    images, labels, landmarks = render_batch(SPECS, 64)
    assert images.shape == (12, 3, 64, 64) and bool(((images >= 0) & (images <= 1)).all())
    assert int(labels.max()) < len(LABEL_NAMES)
    large, _, points = render_batch(SPECS, 128)
    assert torch.allclose((landmarks + 0.5) * 2, points + 0.5, atol=1e-3)
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (shrunk - images).abs().mean() < 0.02


def test_landmarks_lie_on_what_they_name() -> None:
    plain = Attributes(hair_style="bald")
    specs = [random_spec(seed, attributes=plain) for seed in range(12)]
    _, labels, landmarks = render_batch(specs)
    for picture, points in zip(labels, landmarks.round().long(), strict=True):
        at = [int(picture[y, x]) for x, y in points[:3]]
        assert at[0] == 4 and at[1] == 5 and at[2] == 10
        for x, y in points[3:]:
            near = picture[y - 3 : y + 4, x - 3 : x + 4]
            assert bool(((near == 11) | (near == 12) | (near == 13)).any())


@pytest.mark.parametrize(
    ("change", "region"),
    [({"lipstick": "red"}, {12, 13}), ({"eyeglasses": "yes"}, {6}), ({"hat": "blue"}, {18, 1, 17})],
)
def test_an_attribute_changes_its_region_and_little_else(
    change: dict[str, str], region: set[int]
) -> None:
    base = random_spec(3, attributes=Attributes(), nuisance=Nuisance())
    before, after = render(base), render(with_attributes(base, **change))
    moved = (before.image - after.image).abs().amax(0) > 0.08
    ids = set(after.labels[moved].tolist())
    assert int(moved.sum()) > 40
    inside = sum(int((after.labels[moved] == i).sum()) for i in region)
    assert inside / int(moved.sum()) > 0.7, ids


def test_identities_look_different_under_the_same_attributes() -> None:
    specs = [random_spec(0, identity(s), Attributes(), Nuisance()) for s in range(6)]
    images, _, _ = render_batch(specs, 64)
    for i in range(6):
        for j in range(i):
            assert (images[i] - images[j]).abs().mean() > 0.015


def test_bad_requests_name_what_is_known() -> None:
    with pytest.raises(FluxGuardError, match="multiple of 16"):
        render(SPECS[0], 100)
    with pytest.raises(FluxGuardError, match="hair_colour"):
        with_attributes(SPECS[0], moustache="yes")
    with pytest.raises(FluxGuardError, match="lipstick must be one of none, red"):
        with_attributes(SPECS[0], lipstick="golden")


def test_full_captions_parse_back() -> None:
    rng = np.random.default_rng(0)
    for seed in range(50):
        attributes = random_attributes(seed)
        asked = parse_caption(caption(attributes))
        for name, value in asked.items():
            assert getattr(attributes, name) == value
        present = {n for n in CHOICES if getattr(attributes, n) not in ("no", "none")}
        if attributes.hair_style == "bald":
            present.discard("hair_colour")
        assert present == set(asked)
        for name, value in parse_caption(training_caption(attributes, rng)).items():
            assert getattr(attributes, name) == value


def test_free_word_order_and_unknown_words() -> None:
    wanted = {"hair_colour": "blond", "lipstick": "red"}
    assert parse_caption("a person with blond hair, wearing red lipstick") == wanted
    assert parse_caption("red lipstick and blonde hair on a person") == wanted
    assert parse_caption("a person without glasses, no hat") == {"eyeglasses": "no", "hat": "none"}
    with pytest.raises(FluxGuardError, match=r"spaceship.*It knows: a, an"):
        parse_caption("a person with a spaceship")
    with pytest.raises(FluxGuardError, match="lipstick comes in"):
        parse_caption("green lipstick")


UNDERSTOOD = {
    "a blond woman with red lipstick": {"hair_colour": "blond", "lipstick": "red"},
    "a blond, smiling man": {"hair_colour": "blond", "smile": "yes"},
    "blond and curly hair": {"hair_colour": "blond", "hair_style": "curly"},
    "a bearded person, bald": {"beard": "yes", "hair_style": "bald"},
    "pink lips with lipstick": {"lipstick": "pink"},
    "a hat": {"hat": "black"},
    "a person without hair": {"hair_style": "bald"},
    "without eyeglasses and lipstick": {"eyeglasses": "no", "lipstick": "none"},
    "without a beard and a smile": {"beard": "no", "smile": "no"},
    "no beard and a smile": {"beard": "no", "smile": "yes"},
    "without a hat and smiling": {"hat": "none", "smile": "yes"},
    "no hat or blue eyeshadow": {"hat": "none", "eyeshadow": "none"},
    "no hat, red lipstick": {"hat": "none", "lipstick": "red"},
    "without a beard and with eyeglasses": {"beard": "no", "eyeglasses": "yes"},
    "without wearing a hat": {"hat": "none"},
}
REFUSED = {
    "curly hat": "curly describes hair only.*red, blue, black",
    "long red lipstick": "long describes hair only.*none, red, pink, dark",
    "a short beard": "short describes hair only",
    "a red and blue hat": "one hat, got red and blue.*none, red, blue, black",
    "red lipstick, pink lips": "one lipstick, got red and pink",
    "long and curly hair": "one hair style, got long and curly",
    "a bald man with long hair": "one hair style, got bald and long",
    "a red woman": "What of the woman is red.*lipstick, lips",
    "hair in red": "What is red.*lipstick, lips",
    "blue eyeglasses": "eyeglasses without a colour",
    "no blond hair": "what hair instead.*bald.*black, brown, blond",
    "no bald head": "what hair instead.*short, bob, long",
    "no background": "always background.*white, grey",
    "no person": "always a person",
    "no hat and red lipstick": "'no' reach 'red lipstick'",
    "eyeglasses, lipstick or earrings": "'or' leaves a choice",
    "a person without": "not, after 'without'.*lipstick",
}


@pytest.mark.parametrize("words", UNDERSTOOD)
def test_every_word_of_a_prompt_counts(words: str) -> None:
    assert parse_caption(words) == UNDERSTOOD[words]


@pytest.mark.parametrize("words", REFUSED)
def test_what_the_grammar_cannot_hold_is_an_error_that_lists_what_it_can(words: str) -> None:
    with pytest.raises(FluxGuardError, match=REFUSED[words]):
        parse_caption(words)

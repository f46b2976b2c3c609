"""Attributes in words: the road without a GAN, where FluxGuard's own masked edit changes what a face reveals."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import FluxGuardError


@dataclass(frozen=True)
class AttributeWords:
    """How an attribute is said and where it lies.

    Args:
        there: words for a face that has it.
        gone: words for one that has not.
        regions: names of `regions.RULES`.
        strength: share of the way from the picture to the edit, in (0, 1].
    """

    there: str
    gone: str
    regions: tuple[str, ...]
    strength: float = 1.0


WORDS: dict[str, AttributeWords] = {
    "5_o_Clock_Shadow": AttributeWords("stubble", "clean-shaven", ("beard",), 0.8),
    "Arched_Eyebrows": AttributeWords("arched eyebrows", "straight eyebrows", ("eyebrows",), 0.9),
    "Bags_Under_Eyes": AttributeWords(
        "bags under the eyes", "rested eyes", ("cheeks", "eyes"), 0.6
    ),
    "Bald": AttributeWords("a bald head", "short brown hair", ("hairstyle", "hair")),
    "Bangs": AttributeWords("bangs", "hair off the forehead", ("bangs",)),
    "Big_Lips": AttributeWords("full lips", "thin lips", ("lips",), 0.8),
    "Big_Nose": AttributeWords("a big nose", "a small nose", ("nose",), 0.8),
    "Black_Hair": AttributeWords("black hair", "brown hair", ("hair",)),
    "Blond_Hair": AttributeWords("blond hair", "brown hair", ("hair",)),
    "Brown_Hair": AttributeWords("brown hair", "black hair", ("hair",)),
    "Bushy_Eyebrows": AttributeWords("bushy eyebrows", "thin eyebrows", ("eyebrows",), 0.9),
    "Chubby": AttributeWords("a round face", "a slim face", ("face",), 0.7),
    "Double_Chin": AttributeWords("a double chin", "a firm chin", ("chin", "neck"), 0.8),
    "Eyeglasses": AttributeWords("eyeglasses", "no eyeglasses", ("eyeglasses",)),
    "Goatee": AttributeWords("a goatee", "no beard", ("beard",)),
    "Gray_Hair": AttributeWords("grey hair", "brown hair", ("hair",)),
    "Heavy_Makeup": AttributeWords("blue eyeshadow", "no eyeshadow", ("eyeshadow", "makeup"), 0.9),
    "High_Cheekbones": AttributeWords("high cheekbones", "soft cheeks", ("cheeks",), 0.7),
    "Male": AttributeWords("a man", "a woman", ("face", "hair")),
    "Mouth_Slightly_Open": AttributeWords("an open mouth", "a closed mouth", ("mouth",)),
    "Mustache": AttributeWords("a moustache", "no moustache", ("beard",)),
    "Narrow_Eyes": AttributeWords("narrow eyes", "wide open eyes", ("eyes",), 0.8),
    "No_Beard": AttributeWords("no beard", "a beard", ("beard",)),
    "Pale_Skin": AttributeWords("pale skin", "tanned skin", ("skin",), 0.7),
    "Pointy_Nose": AttributeWords("a pointed nose", "a round nose", ("nose",), 0.8),
    "Receding_Hairline": AttributeWords(
        "a high hairline", "a low hairline", ("hairline", "forehead")
    ),
    "Rosy_Cheeks": AttributeWords("rosy cheeks", "pale cheeks", ("cheeks",), 0.7),
    "Sideburns": AttributeWords("sideburns", "no sideburns", ("beard",)),
    "Smiling": AttributeWords("smiling", "no smile", ("smile", "mouth")),
    "Straight_Hair": AttributeWords("straight hair", "wavy hair", ("hairstyle",)),
    "Wavy_Hair": AttributeWords("wavy hair", "straight hair", ("hairstyle",)),
    "Wearing_Earrings": AttributeWords("earrings", "no earrings", ("earrings",)),
    "Wearing_Hat": AttributeWords("a black hat", "no hat", ("hat",)),
    "Wearing_Lipstick": AttributeWords("red lipstick", "no lipstick", ("lips",)),
    "Wearing_Necklace": AttributeWords("a necklace", "no necklace", ("neck",)),
    "Wearing_Necktie": AttributeWords("a necktie", "no necktie", ("clothes", "neck")),
    "Young": AttributeWords("a young person", "an old person", ("face",), 0.8),
}
"""All of CelebA's names but those that are no part of a face (Attractive, Blurry, Oval_Face)."""


@dataclass(frozen=True)
class WordedEdit:
    """An order for the masked edit.

    Args:
        source: what is said of the picture, to stand in its prompt.
        target: what is said of the edited one, in the same place.
        regions: where it may change.
        strength: share of the way that is kept.
    """

    source: str
    target: str
    regions: tuple[str, ...]
    strength: float


def words_of(name: str) -> AttributeWords:
    """An attribute's words; FluxGuardError for one that has none."""
    if name not in WORDS:
        raise FluxGuardError(
            f"No words are known for the attribute {name!r}.", f"Choose from {', '.join(WORDS)}."
        )
    return WORDS[name]


def worded(targets: dict[str, float]) -> WordedEdit:
    """The order for wanted labels 0 and 1 by name; what is only taken off beside another stays unsaid.

    A hair colour that gives way to another one, or to a bald head, is not named twice.
    """
    told = {name: value for name, value in targets.items() if value in (0.0, 1.0)}
    if not told:
        raise FluxGuardError(
            "Words can put an attribute on or take it off; nothing between.",
            "Use AttGAN to neutralise.",
        )
    put_on = [name for name, value in told.items() if value == 1.0]
    said = put_on + [n for n in told if n not in put_on and not _replaced(n, put_on)]
    source = [words_of(n).gone if told[n] else words_of(n).there for n in said]
    target = [words_of(n).there if told[n] else words_of(n).gone for n in said]
    regions = tuple(dict.fromkeys(r for n in told for r in words_of(n).regions))
    strength = min(words_of(n).strength for n in said)
    return WordedEdit(", ".join(source), ", ".join(target), regions, strength)


def _replaced(name: str, put_on: list[str]) -> bool:
    regions = set(words_of(name).regions)
    return any(regions & set(words_of(other).regions) for other in put_on)

"""The renderer's attributes under the names of CelebA's list, as yes or no."""

from __future__ import annotations

from collections.abc import Mapping

from .portrait_spec import Attributes

ATTRIBUTES: tuple[str, ...] = (
    "Bald",
    "Black_Hair",
    "Blond_Hair",
    "Brown_Hair",
    "Eyeglasses",
    "Gray_Hair",
    "Heavy_Makeup",
    "No_Beard",
    "Smiling",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
)
"""What the drawn AttGAN edits, in CelebA's order: those of its names that the renderer can draw."""

_COLOURS = {
    "black": "Black_Hair",
    "blond": "Blond_Hair",
    "brown": "Brown_Hair",
    "grey": "Gray_Hair",
}
# What an attribute looks like where it is put on: one look each, so that there is a right answer.
_PUT_ON = {
    "lipstick": "red",
    "eyeshadow": "blue",
    "hat": "black",
}


def labels_of(shown: Mapping[str, str]) -> tuple[int, ...]:
    """0 or 1 for each of ATTRIBUTES, of a face's values by name (`portrait_spec.CHOICES`).

    A bald head has no hair colour; it keeps that of its brows in the renderer's values.
    """
    bald = shown["hair_style"] == "bald"
    told = {
        "Bald": bald,
        **{name: not bald and shown["hair_colour"] == key for key, name in _COLOURS.items()},
        "Eyeglasses": shown["eyeglasses"] == "yes",
        "Heavy_Makeup": shown["eyeshadow"] != "none",
        "No_Beard": shown["beard"] == "no",
        "Smiling": shown["smile"] == "yes",
        "Wearing_Earrings": shown["earrings"] == "yes",
        "Wearing_Hat": shown["hat"] != "none",
        "Wearing_Lipstick": shown["lipstick"] != "none",
    }
    return tuple(int(told[name]) for name in ATTRIBUTES)


def attributes_with(before: Attributes, labels: Mapping[str, int]) -> Attributes:
    """The renderer's values that show labels by name; what stays keeps its look.

    At most one hair colour may be 1, and none with Bald. Hair that is put on a bald head is short.
    """
    values = dict(vars(before))
    on_off = {"Eyeglasses": "eyeglasses", "Smiling": "smile", "Wearing_Earrings": "earrings"}
    for name, key in on_off.items():
        values[key] = "yes" if labels[name] else "no"
    values["beard"] = "no" if labels["No_Beard"] else "yes"
    looks = {"Wearing_Lipstick": "lipstick", "Heavy_Makeup": "eyeshadow", "Wearing_Hat": "hat"}
    for name, key in looks.items():
        if not labels[name]:
            values[key] = "none"
        elif values[key] == "none":
            values[key] = _PUT_ON[key]
    if labels["Bald"]:
        values["hair_style"] = "bald"
        return Attributes(**values)
    if values["hair_style"] == "bald":
        values["hair_style"] = "short"
    chosen = [key for key, name in _COLOURS.items() if labels[name]]
    if chosen:
        values["hair_colour"] = chosen[0]
    elif values["hair_colour"] in _COLOURS:
        values["hair_colour"] = "red"
    return Attributes(**values)

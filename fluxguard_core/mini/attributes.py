"""Attribute privacy on drawn portraits: the shipped AttGAN, the regions, and a judge that it never met."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ..defences.attgan_files import load_attgan
from ..defences.attribute_edit import AttributeEditor, cut_to
from ..pipelines.attributes import AttributeModels, Judge
from ..recognition.ensemble import Ensemble
from ..weights.manifest import load_manifest
from .attribute_judge import SIZE as JUDGED
from .attribute_labels import ATTRIBUTES
from .faces import (
    PORTRAIT_POINTS,
    SIDE,
    attribute_net,
    judge_net,
    load_ensemble,
    parse_face,
)
from .portrait_spec import CHOICES

NAME = "fluxguard-mini-attgan"
FRAME = (PORTRAIT_POINTS + 0.5) / SIDE
_COLOURS = {
    "Black_Hair": "black",
    "Blond_Hair": "blond",
    "Brown_Hair": "brown",
    "Gray_Hair": "grey",
}
_SHOWN = {
    "Eyeglasses": ("eyeglasses", "yes"),
    "No_Beard": ("beard", "no"),
    "Smiling": ("smile", "yes"),
    "Wearing_Earrings": ("earrings", "yes"),
}
_WORN = {"Heavy_Makeup": "eyeshadow", "Wearing_Hat": "hat", "Wearing_Lipstick": "lipstick"}


def attgan_path() -> Path:
    """Where the shipped file lies."""
    return Path(__file__).parent / "weights" / "attributes" / f"{NAME}.safetensors"


@cache
def drawn_editor() -> AttributeEditor:
    """The shipped AttGAN; it edits drawn portraits only."""
    with torch.inference_mode(False):
        gan = load_attgan(attgan_path(), expected=load_manifest()[NAME])
    return AttributeEditor.of(NAME, gan, frame=FRAME)


@torch.no_grad()
def _seen(picture: Tensor, points: Tensor) -> Tensor:
    """What the miniature's attribute classifier says of the portrait, cut to its frame, by the editor's names [n]."""
    portrait = cut_to(FRAME, SIDE, picture, points)
    shares = {k: v.softmax(1)[0] for k, v in attribute_net()(portrait).items()}

    def share(kind: str, value: str) -> Tensor:
        return shares[kind][CHOICES[kind].index(value)]

    bald = share("hair_style", "bald")
    sure = {"Bald": bald}
    sure |= {name: (1 - bald) * share("hair_colour", colour) for name, colour in _COLOURS.items()}
    sure |= {name: share(*shown) for name, shown in _SHOWN.items()}
    sure |= {name: 1 - share(kind, "none") for name, kind in _WORN.items()}
    return torch.stack([sure[name] for name in ATTRIBUTES])


@torch.no_grad()
def _judged(picture: Tensor, points: Tensor) -> Tensor:
    """What the judge says of the portrait, cut as in its training [n]."""
    out: Tensor = judge_net()(cut_to(FRAME, JUDGED, picture, points))[0].sigmoid()
    return out


def drawn_reader() -> Judge:
    """The miniature's attribute classifier, which is asked during the search beside the AttGAN's own."""
    return Judge("fluxguard-mini-attributes", ATTRIBUTES, _seen)


def drawn_judge() -> Judge:
    """A network that was trained for judging alone: no part of the AttGAN's training or of the search."""
    return Judge("fluxguard-mini-judge", ATTRIBUTES, _judged)


def drawn_attributes(ensemble: Ensemble | None) -> AttributeModels:
    """Everything for drawn portraits."""
    return AttributeModels(
        drawn_editor(), (drawn_judge(),), ensemble, parse_face, (drawn_reader(),)
    )


def drawn_models(ensemble: Ensemble | None = None) -> AttributeModels:
    """The same with the miniature's recognisers; the ViT and MobileFace only judge."""
    return drawn_attributes(ensemble or load_ensemble(held_out=["mobileface"]))

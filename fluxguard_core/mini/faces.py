"""The miniature's face networks, ready to use: recognisers, finder, parser, attributes.

All of them know only the renderer's portraits and pictures edited from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import FluxGuardError
from ..faces.alignment import invert, resample, similarity_transform
from ..faces.detectors import face_from_points
from ..faces.face import Face
from ..recognition.encoder import FaceEncoder
from ..recognition.ensemble import Ensemble
from ..recognition.loading import load_encoder
from ..weights.loading import load_tensors
from ..weights.manifest import Entry, load_manifest
from ..worlds import knows
from .attribute_judge import JudgeNet
from .faces_networks import AttributeNet, LandmarkNet, ParserNet
from .portrait_spec import CHOICES

WEIGHTS = Path(__file__).parent / "weights" / "faces"
ATTACKABLE = ("ir", "irse", "facenet", "mobileface")
HELD_OUT = ("vit",)
MINIMUM_SCORE = 0.5
SIDE = 128
# Mean landmarks of the renderer's portraits at 128 pixels, the view that the networks know best.
PORTRAIT_POINTS = torch.tensor(
    [[43.1, 58.4], [83.9, 58.4], [63.5, 76.1], [48.0, 87.3], [79.1, 87.3]]
)


def weights_path(name: str) -> Path:
    """Where the shipped file of a face network lies."""
    return WEIGHTS / f"fluxguard-mini-{name}.safetensors"


def _listed(name: str) -> Entry:
    """What the manifest says about a shipped file."""
    return load_manifest()[f"fluxguard-mini-{name}"]


@cache
def load_recogniser(name: str) -> FaceEncoder:
    """One of ir, irse, facenet, mobileface, vit, with its thresholds; named mini-NAME."""
    known = ATTACKABLE + HELD_OUT
    short = name.removeprefix("mini-")
    if short not in known:
        raise FluxGuardError(
            f"The miniature has no recogniser {name!r}; it has {', '.join(known)}."
        )
    encoder = load_encoder(weights_path(short), name=f"mini-{short}", expected=_listed(short))
    return replace(encoder, world="drawn")


def load_ensemble(
    held_out: Sequence[str] = (), *, weighting: Literal["equal", "worst"] = "equal"
) -> Ensemble:
    """The miniature's recognisers; those in `held_out`, and always the ViT, only judge."""
    out = {name.removeprefix("mini-") for name in held_out} | set(HELD_OUT)
    attacked = tuple(load_recogniser(name) for name in ATTACKABLE if name not in out)
    judges = tuple(load_recogniser(name) for name in (*ATTACKABLE, *HELD_OUT) if name in out)
    unknown = out - set(ATTACKABLE) - set(HELD_OUT)
    if unknown:
        load_recogniser(sorted(unknown)[0])
    return Ensemble(attacked, judges, weighting)


def _load(network: nn.Module, name: str) -> nn.Module:
    with torch.inference_mode(False):
        state, _ = load_tensors(weights_path(name), expected=_listed(name))
    floats = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    network.load_state_dict(floats)
    return network.eval().requires_grad_(False)


@cache
def landmark_net() -> nn.Module:
    """The shipped network of the five points."""
    return _load(LandmarkNet(), "landmarks")


@cache
def parser_net() -> nn.Module:
    """The shipped network of the parts."""
    return _load(ParserNet(), "parser")


@cache
def attribute_net() -> nn.Module:
    """The shipped network of the attributes."""
    return _load(AttributeNet(), "attributes")


@cache
def judge_net() -> nn.Module:
    """The shipped network that judges edits of attributes."""
    return _load(JudgeNet(), "judge")


def _place(height: int, width: int) -> Tensor:
    """Map [1,2,3] from the 128x128 view to a picture's pixels, the whole picture centred in it."""
    scale = max(height, width) / SIDE
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2])
    shift = half - scale * (SIDE - 1) / 2
    return torch.cat((torch.eye(2) * scale, shift[:, None]), 1)[None]


def view_at(images: Tensor, back: Tensor) -> Tensor:
    """The 128x128 view of pictures, on the CPU; what lies outside a picture repeats its border."""
    pictures = images.detach().float().cpu()
    if tuple(pictures.shape[-2:]) == (SIDE, SIDE) and torch.equal(back[:1], _place(SIDE, SIDE)):
        return pictures
    inside = resample(torch.ones_like(pictures[:, :1]), back, SIDE)
    view = resample(pictures, back, SIDE) / inside.clamp_min(1e-3)
    mean = pictures.mean((2, 3), keepdim=True)
    return torch.where(inside > 0.02, view, mean).clamp(0, 1)


def _apply(back: Tensor, points: Tensor) -> Tensor:
    return points @ back[0, :, :2].T + back[0, :, 2]


@torch.no_grad()
def find_with(net: nn.Module, image: Tensor) -> list[Face]:
    """`find_faces` with a given landmark network."""
    back = _place(*image.shape[-2:])
    points, logit = net(view_at(image[None], back))
    if float(logit.sigmoid()) < 0.1:
        return []
    rough = _apply(back, points[0])
    back = invert(similarity_transform(rough[None], PORTRAIT_POINTS[None]))
    points, second = net(view_at(image[None], back))
    score = float(torch.maximum(logit, second).sigmoid())
    if score < MINIMUM_SCORE:
        return []
    return [face_from_points(_apply(back, points[0]).to(image.device), score)]


@torch.no_grad()
def parse_with(net: nn.Module, image: Tensor) -> Tensor:
    """`parse_face` with a given parser network."""
    height, width = image.shape[-2:]
    logits = net(view_at(image[None], _place(height, width))).float()
    longest = max(height, width)
    if longest != SIDE:
        logits = F.interpolate(logits, (longest, longest), mode="bilinear")
    top, left = (longest - height) // 2, (longest - width) // 2
    labels: Tensor = logits[0, :, top : top + height, left : left + width].argmax(0)
    return labels.to(torch.uint8).to(image.device)


@torch.no_grad()
def classify_with(net: nn.Module, images: Tensor) -> list[dict[str, str]]:
    """`classify_attributes` with a given attribute network."""
    back = _place(int(images.shape[-2]), int(images.shape[-1]))
    logits = net(view_at(images, back.expand(len(images), 2, 3)))
    best = {name: values.argmax(1).tolist() for name, values in logits.items()}
    return [
        {name: CHOICES[name][best[name][row]] for name in CHOICES} for row in range(len(images))
    ]


@knows("drawn")
def find_faces(image: Tensor) -> list[Face]:
    """The face in a picture [3,H,W] of a miniature world, or an empty list (a FaceFinder).

    Looks at the whole picture, then again at the face in the size the network knows best.
    """
    return find_with(landmark_net(), image)


@knows("drawn")
def parse_face(image: Tensor) -> Tensor:
    """CelebAMask-HQ labels [H,W] uint8 of a picture [3,H,W]."""
    return parse_with(parser_net(), image)


def classify_attributes(images: Tensor) -> list[dict[str, str]]:
    """What each of the pictures [B,3,H,W] shows: a value of `portrait_spec.CHOICES` by name."""
    return classify_with(attribute_net(), images)

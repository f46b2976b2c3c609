"""Face parsers from their public files: BiSeNet (79999_iter), SegFormer; labels in CelebAMask-HQ's order."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..devices import beside
from ..errors import FluxGuardError
from ..resampling import shrink
from ..weights.loading import load_tensors
from ..weights.manifest import Entry
from .bisenet import KEYS, BiSeNet

LABELS: tuple[str, ...] = (
    "background",
    "skin",
    "left brow",
    "right brow",
    "left eye",
    "right eye",
    "glasses",
    "left ear",
    "right ear",
    "earring",
    "nose",
    "mouth",
    "upper lip",
    "lower lip",
    "neck",
    "necklace",
    "clothes",
    "hair",
    "hat",
)
"""Names of CelebAMask-HQ's ids as BiSeNet's file has them."""

# jonathandinu/face-parsing numbers otherwise; its index -> BiSeNet's.
SEGFORMER_ORDER = (0, 1, 10, 6, 4, 5, 2, 3, 7, 8, 11, 12, 13, 17, 18, 9, 15, 14, 16)
_NAMES = {
    "background": 0,
    "skin": 1,
    "nose": 10,
    "eye_g": 6,
    "l_eye": 4,
    "r_eye": 5,
    "l_brow": 2,
    "r_brow": 3,
    "l_ear": 7,
    "r_ear": 8,
    "mouth": 11,
    "u_lip": 12,
    "l_lip": 13,
    "hair": 17,
    "hat": 18,
    "ear_r": 9,
    "neck_l": 15,
    "neck": 14,
    "cloth": 16,
}
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class NetworkParser:
    """A FaceParser over a network.

    logits: normalised pictures [1,3,size,size] -> [1,C,h,w], on any device; order: its class -> CelebAMask-HQ id.
    """

    name: str
    logits: Callable[[Tensor], Tensor]
    order: Sequence[int]
    size: int = 512

    def __call__(self, picture: Tensor) -> Tensor:
        """Labels [H,W] uint8 of a picture [3,H,W], RGB in [0,1]."""
        return self.read(picture)[0]

    @torch.no_grad()
    def read(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Labels [H,W] uint8 and the probability [H,W] that the network gives to each."""
        height, width = picture.shape[-2:]
        longest = max(height, width)
        top, left = (longest - height) // 2, (longest - width) // 2
        pad = (left, longest - width - left, top, longest - height - top)
        # A square by repeated borders: the networks know whole, unstretched heads.
        square = F.pad(picture[None].float(), pad, mode="replicate")
        view = shrink(square, (self.size, self.size))
        scores = self.logits((view - _column(MEAN, view)) / _column(DEVIATION, view)).float()
        scores = F.interpolate(scores, (longest, longest), mode="bilinear", align_corners=False)
        scores = scores[0, :, top : top + height, left : left + width]
        sure, own = scores.softmax(0).max(0)
        order = torch.tensor(self.order, dtype=torch.uint8, device=own.device)
        return order[own].to(picture.device), sure.to(picture.device)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(1, 3, 1, 1)


def bisenet_parser(
    path: str | Path, *, expected: Entry | None = None, size: int = 512
) -> NetworkParser:
    """The parser of a file in the layout of 79999_iter.pth (facexlib's parsing_bisenet.pth is the same).

    Raises FluxGuardError for another layout, ModelFileError for a file that cannot be read.
    """
    state, _ = load_tensors(path, expected=expected)
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    network = BiSeNet()
    own = network.state_dict()
    wrong = sorted(own.keys() ^ state.keys()) or sorted(
        name for name in own if own[name].shape != state[name].shape
    )
    if wrong:
        raise FluxGuardError(
            f"{path} is no BiSeNet face parser: expected the {KEYS} tensors of 79999_iter.pth, got "
            f"{len(state)}; the first that differs is {wrong[0]}.",
            "Fetch it with ‹run models download bisenet›.",
        )
    network.load_state_dict(state)
    network.eval().requires_grad_(False)
    return NetworkParser("bisenet", lambda view: network(beside(network, view)), range(19), size)


def segformer_parser(
    folder: str | Path, *, expected: Entry | None = None, size: int = 512
) -> NetworkParser:
    """The parser of a folder with SegFormer's config.json and model.safetensors (transformers).

    Raises FluxGuardError without transformers, and for another network.
    """
    place = Path(folder)
    try:
        from transformers import SegformerConfig, SegformerForSemanticSegmentation
    except ImportError as error:
        raise FluxGuardError(
            "SegFormer needs the package transformers, which is not installed.",
            "‹install transformers›.",
        ) from error
    if not (place / "config.json").is_file():
        raise FluxGuardError(
            f"{place} has no config.json beside SegFormer's weights.",
            "Fetch both with ‹run models download segformer-face›.",
        )
    values = json.loads((place / "config.json").read_text(encoding="utf-8"))
    if values.get("model_type") != "segformer":
        raise FluxGuardError(
            f"{place}/config.json describes {values.get('model_type')!r}, expected 'segformer'."
        )
    network = SegformerForSemanticSegmentation(SegformerConfig.from_dict(values))
    state, _ = load_tensors(place / "model.safetensors", expected=expected)
    missing = network.load_state_dict(state, strict=False).missing_keys
    if missing:
        raise FluxGuardError(
            f"{place}/model.safetensors does not fit its config.json: {len(missing)} tensors are missing, "
            f"the first is {missing[0]}."
        )
    network.eval().requires_grad_(False)

    def logits(view: Tensor) -> Tensor:
        out: Tensor = network(pixel_values=beside(network, view)).logits
        return out

    return NetworkParser("segformer", logits, segformer_order(values.get("id2label", {})), size)


def segformer_order(labels: dict[str, str]) -> tuple[int, ...]:
    """SegFormer's class -> CelebAMask-HQ id, by the names in its config, else as published."""
    if not labels or not set(labels.values()) <= _NAMES.keys():
        return SEGFORMER_ORDER
    return tuple(_NAMES[labels[key]] for key in sorted(labels, key=int))

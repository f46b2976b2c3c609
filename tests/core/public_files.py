"""Recogniser files in the public layouts at their real sizes, with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fluxguard_core.recognition.backbones.inception_resnet import InceptionResnetV1
from fluxguard_core.recognition.backbones.iresnet_evolve import IRBackbone
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet

BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "ir152": lambda: IRBackbone((3, 8, 36, 3)),
    "irse50": lambda: IRBackbone((3, 4, 14, 3), se=True),
    "facenet": InceptionResnetV1,
    "mobile_face": MobileFaceNet,
}
KEYS = {"ir152": 687, "irse50": 397, "facenet": 716, "mobile_face": 333}


def public_file(path: Path, name: str, *, wrapped: bool = False) -> Path:
    """Save a state dict as the public file of that layout has it, under any file name.

    `wrapped` as a training run leaves it: epoch, state_dict, module. prefixes.
    """
    with torch.random.fork_rng():
        torch.manual_seed(len(name))
        state: dict[str, Tensor] = dict(BUILDERS[name]().state_dict())
        if name == "facenet":  # the classifier of VGGFace2, which the public file carries
            state["logits.weight"], state["logits.bias"] = torch.zeros(8631, 512), torch.zeros(8631)
    assert len(state) == KEYS[name]
    inner = {f"module.{key}": tensor for key, tensor in state.items()}
    torch.save({"epoch": 7, "state_dict": inner} if wrapped else state, path)
    return path

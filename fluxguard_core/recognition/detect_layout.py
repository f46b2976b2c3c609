"""Recognise a face recogniser's weights by their names and shapes, and build the network for them.

A file's name says nothing reliable, so it is never looked at. Width, depth, input size and
embedding length are read off the tensors; every remaining difference is an error that names it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from ..errors import FluxGuardError
from .backbones.inception_resnet import InceptionResnetV1
from .backbones.iresnet_arcface import IResNet
from .backbones.iresnet_evolve import IRBackbone
from .backbones.mobilefacenet import MobileFaceNet
from .backbones.vit import FaceViT
from .encoder import Colour, Threshold
from .thresholds import PUBLISHED

State = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Layout:
    """What the tensors of a file say: a label, how to build the network, its input convention.

    `name` is the public model's name when width and depth are those of a public file (ir152,
    irse50, facenet, mobile_face, iresnet50 ...), else the family's. `colour` is the channel order
    that the publishers feed.
    """

    family: str
    name: str
    build: Callable[[], nn.Module]
    size: int
    colour: Colour = "rgb"

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """Published thresholds of exactly this model; empty when there are none."""
        return PUBLISHED.get(self.name, ())


def _count(state: State, prefix: str) -> int:
    """Number of consecutive indices N for which some key starts with prefix + N."""
    heads = {key[len(prefix) :].split(".")[0] for key in state if key.startswith(prefix)}
    return len(heads)


def _runs(widths: list[int]) -> tuple[int, ...]:
    """Lengths of the runs of equal widths: the units in each stage."""
    return tuple(len(list(group)) for _, group in groupby(widths))


def _grid(features: int, channels: int) -> int:
    """Side of the square feature map that a flattening layer reads."""
    return math.isqrt(max(0, features // max(1, channels)))


def _evolve(state: State) -> Layout:
    adaface = "body.0.res_layer.2.running_mean" in state
    se = "body.0.res_layer.5.fc1.weight" in state
    last = 4 if adaface else 3
    count = _count(state, "body.")
    widths = [state[f"body.{n}.res_layer.{last}.weight"].shape[0] for n in range(count)]
    units, width = _runs(widths), state["input_layer.0.weight"].shape[0]
    linear = state["output_layer.3.weight"]
    size = 16 * _grid(linear.shape[1], widths[-1])
    named: dict[tuple[int, tuple[int, ...], bool, bool], str] = {
        (64, (3, 8, 36, 3), False, False): "ir152",
        (64, (3, 4, 14, 3), True, False): "irse50",
    }
    family = "adaface_ir" if adaface else "ir_se" if se else "ir"

    def build() -> nn.Module:
        return IRBackbone(
            units, se=se, adaface=adaface, width=width, dimension=linear.shape[0], size=size
        )

    name = named.get((width, units, se, adaface), family)
    return Layout(family, name, build, size, "bgr" if adaface else "rgb")


def _arcface(state: State) -> Layout:
    units = tuple(_count(state, f"layer{stage}.") for stage in range(1, 5))
    width, linear = state["conv1.weight"].shape[0], state["fc.weight"]
    size = 16 * _grid(linear.shape[1], 8 * width)
    named: dict[tuple[int, ...], str] = {(3, 4, 14, 3): "iresnet50", (3, 13, 30, 3): "iresnet100"}
    name = named.get(units, "iresnet") if width == 64 else "iresnet"

    def build() -> nn.Module:
        return IResNet(units, width=width, dimension=linear.shape[0], size=size)

    return Layout("iresnet", name, build, size)


def _facenet(state: State) -> Layout:
    width = state["conv2d_1a.conv.weight"].shape[0]
    depth = tuple(_count(state, f"repeat_{n}.") for n in (1, 2, 3))
    dimension = state["last_linear.weight"].shape[0]
    public = (width, depth, dimension) == (32, (5, 10, 5), 512)

    def build() -> nn.Module:
        return InceptionResnetV1(width=width, depth=depth, dimension=dimension)

    return Layout("inception_resnet", "facenet" if public else "inception_resnet", build, 160)


def _mobile(state: State) -> Layout:
    width = state["conv1.conv.weight"].shape[0]
    depth = tuple(_count(state, f"conv_{n}.model.") for n in (3, 4, 5))
    dimension = state["linear.weight"].shape[0]
    size = 16 * state["conv_6_dw.conv.weight"].shape[-1]
    public = (width, depth, dimension) == (64, (4, 6, 2), 512)

    def build() -> nn.Module:
        return MobileFaceNet(width=width, depth=depth, dimension=dimension, size=size)

    return Layout("mobilefacenet", "mobile_face" if public else "mobilefacenet", build, size)


def _vit(state: State) -> Layout:
    projection = state["patch_embed.proj.weight"]
    width, patch = projection.shape[0], projection.shape[-1]
    depth, side = _count(state, "blocks."), math.isqrt(state["pos_embed"].shape[1])
    size = 112 if 112 // patch == side else side * patch
    hidden, dimension = (
        state["blocks.0.mlp.fc1.weight"].shape[0],
        state["feature.2.weight"].shape[0],
    )

    def build() -> nn.Module:
        return FaceViT(
            width=width, depth=depth, patch=patch, hidden=hidden, dimension=dimension, size=size
        )

    return Layout("vit", "vit", build, size)


_MARKS: tuple[tuple[str, str, Callable[[State], Layout]], ...] = (
    ("input_layer.0.weight", "body.0.res_layer.1.weight", _evolve),
    ("layer1.0.bn1.weight", "layer1.0.prelu.weight", _arcface),
    ("conv2d_1a.conv.weight", "mixed_6a.branch0.conv.weight", _facenet),
    ("conv_23.conv.conv.weight", "conv_6_dw.conv.weight", _mobile),
    ("patch_embed.proj.weight", "feature.0.weight", _vit),
)


def unwrap(state: State) -> dict[str, Tensor]:
    """Names without the prefix that a wrapper left (module., model.backbone., _orig_mod. ...).

    Other parts of a checkpoint, such as a training head, are dropped. FluxGuardError for a file
    with two recognisers under two prefixes.
    """
    prefixes = {
        key.removesuffix(first)
        for first, second, _ in _MARKS
        for key in state
        if key.endswith(first) and key.removesuffix(first) + second in state
    }
    whole = sorted(prefix for prefix in prefixes if not prefix or prefix.endswith("."))
    if "" in whole or not whole:
        return dict(state)
    if len(whole) > 1:
        raise FluxGuardError(
            f"The file holds several recognisers ({', '.join(whole)}...); expected one.",
            "Save the one that is meant into a file of its own.",
        )
    return {k.removeprefix(whole[0]): v for k, v in state.items() if k.startswith(whole[0])}


def detect(state: State) -> Layout:
    """The layout of an unwrapped state dict; FluxGuardError when it is none that is known."""
    for first, second, read in _MARKS:
        if first in state and second in state:
            try:
                return read(state)
            except (KeyError, IndexError) as error:
                raise FluxGuardError(
                    f"The file starts like a face recogniser but misses {error}; it is truncated "
                    "or altered.",
                    "Download it again.",
                ) from error
    shown = ", ".join(list(state)[:4]) or "no tensors at all"
    raise FluxGuardError(
        "The file is no face recogniser of a known layout (IR, IR-SE, IResNet, AdaFace, "
        f"Inception-ResNet, MobileFaceNet, ViT); it holds {shown} ...",
        "Give one of those, or convert an ONNX recogniser.",
    )


def _differences(network: nn.Module, state: State) -> list[str]:
    expected = network.state_dict()
    found = []
    for key, tensor in expected.items():
        if key in state:
            if state[key].shape != tensor.shape:
                found.append(f"{key} is {list(state[key].shape)}, not {list(tensor.shape)}")
        elif not key.endswith("num_batches_tracked"):
            found.append(f"{key} is missing")
    found += [f"{key} is unexpected" for key in state if key not in expected]
    return found


def build_network(state: State) -> tuple[nn.Module, Layout]:
    """The network of an unwrapped state dict with its weights in float32, and its layout.

    Missing `num_batches_tracked` counters are accepted, FaceNet's classifier `logits` is ignored;
    any other difference is a FluxGuardError.
    """
    layout = detect(state)
    kept = {k: v for k, v in state.items() if not k.startswith("logits.")}
    with torch.device("meta"):
        network = layout.build()
    differences = _differences(network, kept)
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise FluxGuardError(
            f"The file looks like {layout.name}, but {'; '.join(differences[:3])}{more}. It is "
            "truncated or belongs to another model.",
            "Download it again.",
        )
    for key in network.state_dict():
        if key.endswith("num_batches_tracked"):
            kept.setdefault(key, torch.zeros((), dtype=torch.long))
    floats = {k: v.float() if v.is_floating_point() else v for k, v in kept.items()}
    network.load_state_dict(floats, assign=True)
    return network.eval().requires_grad_(False), layout

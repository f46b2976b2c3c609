"""Perceptual distances: how different two pictures look. Any feature network serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FluxGuardError
from .engine import Draw, Reading

# Pictures [B, 3, H, W] in [0, 1] -> features [B, ...].
Features = Callable[[Tensor], Tensor]
# A reference picture -> a function that gives other pictures' distances [B] to it.
PerceptualDistance = Callable[[Tensor], Callable[[Tensor], Tensor]]

_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
# VGG19 up to relu3_4: convolution widths, 0 for a 2x2 maximum pooling.
_VGG19_RELU3_4 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 256)


def feature_distance(features: Features) -> PerceptualDistance:
    """Mean squared difference of features, one number a picture: the published perceptual loss."""

    def against(reference: Tensor) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            fixed = features(reference)
        return lambda picture: (features(picture) - fixed).square().flatten(1).mean(1)

    return against


@dataclass(frozen=True, eq=False)
class PerceptualTerm:
    """How different a picture looks from a reference; a cost without a goal."""

    distance: Callable[[Tensor], Tensor]  # pictures [B, 3, H, W] -> [B]
    name: str = "perceptual"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W] as a whole."""
        del draw
        return Reading(self.distance(picture))


class VGG19Features(nn.Module):
    """VGG19 up to relu3_4, torchvision's ``features[:18]``, with ImageNet normalisation (Flux-Guard Eq. 16).

    Shape: pictures [B, 3, H, W] in [0, 1] -> [B, 256, H/4, W/4].
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in _VGG19_RELU3_4:
            if width == 0:
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(3, 1, 1), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        return self.features((picture - self.mean) / self.std)


def vgg19_relu3_4(path: str | Path) -> VGG19Features:
    """Load VGG19 features from torchvision's ``vgg19-dcbb9e9d.pth`` or the same in safetensors."""
    from ..weights.loading import load_tensors

    tensors, _ = load_tensors(Path(path))
    network = VGG19Features()
    expected = network.state_dict()
    given = {key: value for key, value in tensors.items() if key in expected}
    wrong = [k for k in expected if k not in given or given[k].shape != expected[k].shape]
    if wrong:
        raise FluxGuardError(
            f"{Path(path).name} does not hold VGG19 features: {wrong[0]} is missing or has another shape.",
            "Give torchvision's vgg19 weights, or use another perceptual distance.",
        )
    network.load_state_dict(given)
    return network.eval().requires_grad_(False)


def lpips_distance(backbone: str | Path) -> PerceptualDistance:
    """LPIPS through the lpips package, with a local backbone file; nothing is downloaded.

    Args:
        backbone: torchvision's ImageNet weights of VGG16 or AlexNet, told apart by their first layer (the
            package brings only its linear heads).
    """
    from ..weights.loading import load_tensors

    package = _lpips()
    tensors, _ = load_tensors(backbone)
    first = tensors.get("features.0.weight")
    net = "alex" if first is not None and first.shape[-1] == 11 else "vgg"
    model: Any = package.LPIPS(net=net, pnet_rand=True, verbose=False)
    _fill_lpips_backbone(model, tensors, Path(backbone).name)
    model = model.eval().requires_grad_(False)

    def against(reference: Tensor) -> Callable[[Tensor], Tensor]:
        on_device = model.to(reference.device)
        return lambda picture: on_device(picture * 2 - 1, reference * 2 - 1).flatten(1).mean(1)

    return against


def _fill_lpips_backbone(model: Any, tensors: Mapping[str, Tensor], file: str) -> None:
    """Copy torchvision's ``features.N`` into the package's slices, which keep those numbers as names."""
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            number_and_leaf = name.split(".", 1)[1]
            given = tensors.get(f"features.{number_and_leaf}")
            if given is None or given.shape != parameter.shape:
                raise FluxGuardError(
                    f"{file} is not the backbone that LPIPS expects: features.{number_and_leaf} is missing or "
                    "has another shape.",
                    "Give torchvision's weights of the same network.",
                )
            parameter.copy_(given)


def _lpips() -> Any:
    try:
        import lpips
    except ImportError as error:
        raise FluxGuardError(
            f"LPIPS needs the packages lpips and torchvision ({error}).",
            "Run ‹install lpips torchvision›, or choose the VGG19 distance, which needs neither.",
        ) from error
    return lpips

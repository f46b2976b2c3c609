"""AttGAN's networks (He et al. 2019, IEEE TIP; arXiv 1711.10678) under the public PyTorch code's names.

Pictures are in [-1, 1] here, labels of the generator in [-0.5, 0.5] (a = ±0.5; further out is stronger).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WIDEST = 1024


@dataclass(frozen=True)
class AttGANShape:
    """Everything that fixes the networks' tensors; the defaults are the published ones.

    Args:
        attributes: names of the attributes, in the order of the label planes.
        size: side of the pictures, a multiple of 2 ** layers.
        width: channels after the first layer; they double up to 1024.
        layers: down-samplings by two, as many as up-samplings.
        shortcuts: decoder layers that are followed by the encoder's features of their size.
        injections: decoder layers that are followed by the label planes once more.
        head: hidden units of the critic's and the classifier's heads.
    """

    attributes: tuple[str, ...]
    size: int = 128
    width: int = 64
    layers: int = 5
    shortcuts: int = 1
    injections: int = 1
    head: int = 1024

    @property
    def channels(self) -> tuple[int, ...]:
        """Channels after every encoder layer."""
        return tuple(min(self.width * 2**i, WIDEST) for i in range(self.layers))


class _Block(nn.Module):
    """Linear operation, norm, activation, as one sequence called `layers`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _down(inputs: int, outputs: int, norm: nn.Module) -> _Block:
    return _Block(nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False), norm, nn.LeakyReLU(0.01))


def _up(inputs: int, outputs: int) -> _Block:
    convolution = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False)
    return _Block(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


def _planes(labels: Tensor, like: Tensor) -> Tensor:
    """Labels [B, n] as constant planes of a feature map's size."""
    return labels[:, :, None, None].to(like.dtype).expand(-1, -1, *like.shape[-2:])


class Generator(nn.Module):
    """Pictures [B, 3, S, S] in [-1, 1] and labels [B, n] -> pictures with these attributes."""

    def __init__(self, shape: AttGANShape) -> None:
        super().__init__()
        self.shape = shape
        channels, count = shape.channels, len(shape.attributes)
        self.enc_layers = nn.ModuleList(
            _down(inputs, outputs, nn.BatchNorm2d(outputs))
            for inputs, outputs in zip((3, *channels), channels, strict=False)
        )
        decoder: list[nn.Module] = []
        inputs = channels[-1] + count
        for i, outputs in enumerate(reversed(channels[1:])):
            decoder.append(_up(inputs, outputs))
            inputs = outputs
            inputs += channels[-2 - i] if i < shape.shortcuts else 0
            inputs += count if i < shape.injections else 0
        decoder.append(_Block(nn.ConvTranspose2d(inputs, 3, 4, 2, 1), nn.Tanh()))
        self.dec_layers = nn.ModuleList(decoder)

    def encode(self, pictures: Tensor) -> list[Tensor]:
        """Features after every encoder layer, the finest first."""
        features = []
        for layer in self.enc_layers:
            pictures = layer(pictures)
            features.append(pictures)
        return features

    def decode(self, features: Sequence[Tensor], labels: Tensor) -> Tensor:
        """The picture [B, 3, S, S] that the features and labels [B, n] describe."""
        x = torch.cat((features[-1], _planes(labels, features[-1])), 1)
        last = len(self.dec_layers) - 1
        for i, layer in enumerate(self.dec_layers):
            x = layer(x)
            if i < min(self.shape.shortcuts, last):
                x = torch.cat((x, features[-2 - i]), 1)
            if i < min(self.shape.injections, last):
                x = torch.cat((x, _planes(labels, x)), 1)
        return x

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        return self.decode(self.encode(pictures), labels)


class Discriminators(nn.Module):
    """Pictures [B, 3, S, S] in [-1, 1] -> the critic's scores [B] and attribute logits [B, n]."""

    def __init__(self, shape: AttGANShape) -> None:
        super().__init__()
        self.shape = shape
        channels = shape.channels
        self.conv = nn.Sequential(
            *(
                _down(inputs, outputs, nn.InstanceNorm2d(outputs, affine=True))
                for inputs, outputs in zip((3, *channels), channels, strict=False)
            )
        )
        side = shape.size // 2**shape.layers
        self.fc_adv = _head(channels[-1] * side**2, shape.head, 1)
        self.fc_cls = _head(channels[-1] * side**2, shape.head, len(shape.attributes))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.conv(pictures).flatten(1)
        return self.fc_adv(features)[:, 0], self.fc_cls(features)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        _Block(nn.Linear(inputs, hidden), nn.ReLU()), _Block(nn.Linear(hidden, outputs))
    )

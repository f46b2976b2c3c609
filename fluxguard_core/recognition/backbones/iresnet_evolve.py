"""IR and IR-SE residual networks in the names of face.evoLVe, TreB1eN and AdaFace.

Improved residual units of ArcFace (arXiv 1801.07698, section 3.2.2): BN-Conv-PReLU-Conv-BN, here
with the naming `input_layer`, `body.N`, `output_layer`. AdaFace's files (arXiv 2204.00964) add a
batch norm after the first convolution and drop the affine part of the last one.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

UNITS = {"ir50": (3, 4, 14, 3), "ir100": (3, 13, 30, 3), "ir152": (3, 8, 36, 3)}


class SqueezeExcite(nn.Module):
    """Channel gate (arXiv 1709.01507) of two bias-free 1x1 convolutions."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        out: Tensor = x * gate
        return out


def _residual(inputs: int, outputs: int, stride: int, se: bool, middle_norm: bool) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.BatchNorm2d(inputs),
        nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
    ]
    if middle_norm:
        layers.append(nn.BatchNorm2d(outputs))
    layers += [
        nn.PReLU(outputs),
        nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if se:
        layers.append(SqueezeExcite(outputs))
    return nn.Sequential(*layers)


class IRUnit(nn.Module):
    """One unit: res_layer(x) + shortcut_layer(x)."""

    def __init__(self, inputs: int, outputs: int, stride: int, se: bool, middle_norm: bool) -> None:
        super().__init__()
        self.res_layer = _residual(inputs, outputs, stride, se, middle_norm)
        self.shortcut_layer: nn.Module
        if inputs == outputs:
            self.shortcut_layer = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.res_layer(x) + self.shortcut_layer(x)
        return out


class IRBackbone(nn.Module):
    """Four stages of IR units at `width` * (1, 2, 4, 8) channels, each halving the picture.

    units: units in each stage; se: squeeze-and-excitation in each unit; adaface: AdaFace's
    variant. Input [B,3,size,size] with size a multiple of 16, output [B,dimension].
    """

    def __init__(
        self,
        units: Sequence[int],
        *,
        se: bool = False,
        adaface: bool = False,
        width: int = 64,
        dimension: int = 512,
        size: int = 112,
        dropout: float = 0.4,
    ) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        body: list[nn.Module] = []
        inputs = width
        for stage, count in enumerate(units):
            outputs = width << stage
            for unit in range(count):
                body.append(IRUnit(inputs, outputs, 2 if unit == 0 else 1, se, adaface))
                inputs = outputs
        self.body = nn.Sequential(*body)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(inputs * (size // 16) ** 2, dimension),
            nn.BatchNorm1d(dimension, affine=not adaface),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.output_layer(self.body(self.input_layer(x)))
        return out

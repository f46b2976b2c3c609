"""MobileFaceNet (arXiv 1804.07573) in the names of TreB1eN's InsightFace_Pytorch."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution, batch norm and, unless linear, a PReLU."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.prelu = None if linear else nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        return x if self.prelu is None else self.prelu(x)


class DepthWise(nn.Module):
    """Inverted bottleneck: expand to `groups`, 3x3 depthwise, project; residual if asked."""

    def __init__(self, inputs: int, outputs: int, groups: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv = ConvBlock(inputs, groups)
        self.conv_dw = ConvBlock(groups, groups, 3, stride, 1, groups)
        self.project = ConvBlock(groups, outputs, linear=True)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.project(self.conv_dw(self.conv(x)))
        return x + out if self.residual else out


class Residual(nn.Module):
    """A run of residual bottlenecks at one width."""

    def __init__(self, channels: int, count: int, groups: int) -> None:
        super().__init__()
        blocks = [DepthWise(channels, channels, groups, 1, True) for _ in range(count)]
        self.model = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x)
        return out


class MobileFaceNet(nn.Module):
    """[B,3,size,size] -> [B,dimension]; the public file has width 64 and depth (4, 6, 2)."""

    def __init__(
        self,
        *,
        width: int = 64,
        depth: Sequence[int] = (4, 6, 2),
        dimension: int = 512,
        size: int = 112,
    ) -> None:
        super().__init__()
        w = width
        self.conv1 = ConvBlock(3, w, 3, 2, 1)
        self.conv2_dw = ConvBlock(w, w, 3, 1, 1, w)
        self.conv_23 = DepthWise(w, w, 2 * w, 2, False)
        self.conv_3 = Residual(w, depth[0], 2 * w)
        self.conv_34 = DepthWise(w, 2 * w, 4 * w, 2, False)
        self.conv_4 = Residual(2 * w, depth[1], 4 * w)
        self.conv_45 = DepthWise(2 * w, 2 * w, 8 * w, 2, False)
        self.conv_5 = Residual(2 * w, depth[2], 4 * w)
        self.conv_6_sep = ConvBlock(2 * w, 8 * w)
        self.conv_6_dw = ConvBlock(8 * w, 8 * w, size // 16, groups=8 * w, linear=True)
        self.linear = nn.Linear(8 * w, dimension, bias=False)
        self.bn = nn.BatchNorm1d(dimension)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_3(self.conv_23(self.conv2_dw(self.conv1(x))))
        x = self.conv_5(self.conv_45(self.conv_4(self.conv_34(x))))
        x = self.conv_6_dw(self.conv_6_sep(x)).flatten(1)
        out: Tensor = self.bn(self.linear(x))
        return out

"""Inception-ResNet-v1 (arXiv 1602.07261, figures 10-14) in timesler's facenet-pytorch names."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Kernel = int | tuple[int, int]


class BasicConv(nn.Module):
    """Convolution, batch norm (eps 1e-3, as in the TensorFlow original), ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel = 1, stride: int = 1, padding: Kernel = 0
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn(self.conv(x)).relu()
        return out


class InceptionBlock(nn.Module):
    """Parallel branches, joined by a 1x1 convolution, scaled and added to the input."""

    def __init__(
        self, branches: Sequence[nn.Module], inner: int, channels: int, scale: float, relu: bool
    ) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self.count = len(branches)
        self.conv2d = nn.Conv2d(inner, channels, 1)
        self.scale = scale
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"branch{index}")(x) for index in range(self.count)]
        x = x + self.conv2d(torch.cat(parts, 1)) * self.scale
        return x.relu() if self.relu else x


class Reduction(nn.Module):
    """Parallel strided branches and a max pool, concatenated."""

    def __init__(self, branches: Sequence[nn.Module]) -> None:
        super().__init__()
        for index, branch in enumerate(branches):
            self.add_module(f"branch{index}", branch)
        self.count = len(branches)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.get_submodule(f"branch{index}")(x) for index in range(self.count)]
        return torch.cat([*parts, nn.functional.max_pool2d(x, 3, 2)], 1)


def _block35(w: int) -> InceptionBlock:
    wide = 8 * w
    branches = (
        BasicConv(wide, w),
        nn.Sequential(BasicConv(wide, w), BasicConv(w, w, 3, 1, 1)),
        nn.Sequential(BasicConv(wide, w), BasicConv(w, w, 3, 1, 1), BasicConv(w, w, 3, 1, 1)),
    )
    return InceptionBlock(branches, 3 * w, wide, 0.17, True)


def _cross(wide: int, inner: int, length: int) -> nn.Sequential:
    pad = length // 2
    return nn.Sequential(
        BasicConv(wide, inner),
        BasicConv(inner, inner, (1, length), 1, (0, pad)),
        BasicConv(inner, inner, (length, 1), 1, (pad, 0)),
    )


def _block17(w: int) -> InceptionBlock:
    wide, inner = 28 * w, 4 * w
    branches = (BasicConv(wide, inner), _cross(wide, inner, 7))
    return InceptionBlock(branches, 2 * inner, wide, 0.10, True)


def _block8(w: int, scale: float = 0.20, relu: bool = True) -> InceptionBlock:
    wide, inner = 56 * w, 6 * w
    branches = (BasicConv(wide, inner), _cross(wide, inner, 3))
    return InceptionBlock(branches, 2 * inner, wide, scale, relu)


def _mixed_6a(w: int) -> Reduction:
    return Reduction(
        (
            BasicConv(8 * w, 12 * w, 3, 2),
            nn.Sequential(
                BasicConv(8 * w, 6 * w),
                BasicConv(6 * w, 6 * w, 3, 1, 1),
                BasicConv(6 * w, 8 * w, 3, 2),
            ),
        )
    )


def _mixed_7a(w: int) -> Reduction:
    def entry() -> BasicConv:
        return BasicConv(28 * w, 8 * w)

    return Reduction(
        (
            nn.Sequential(entry(), BasicConv(8 * w, 12 * w, 3, 2)),
            nn.Sequential(entry(), BasicConv(8 * w, 8 * w, 3, 2)),
            nn.Sequential(entry(), BasicConv(8 * w, 8 * w, 3, 1, 1), BasicConv(8 * w, 8 * w, 3, 2)),
        )
    )


class InceptionResnetV1(nn.Module):
    """[B,3,S,S] -> [B,dimension]; the public file has width 32, depth (5, 10, 5), S 160.

    width is the channel count of the stem and must be a multiple of 4; depth the number of
    35, 17 and 8 blocks. The classifier `logits` of public files is not part of an embedding.
    """

    def __init__(
        self, *, width: int = 32, depth: Sequence[int] = (5, 10, 5), dimension: int = 512
    ) -> None:
        super().__init__()
        w = width
        self.conv2d_1a = BasicConv(3, w, 3, 2)
        self.conv2d_2a = BasicConv(w, w, 3)
        self.conv2d_2b = BasicConv(w, 2 * w, 3, 1, 1)
        self.conv2d_3b = BasicConv(2 * w, 5 * w // 2)
        self.conv2d_4a = BasicConv(5 * w // 2, 6 * w, 3)
        self.conv2d_4b = BasicConv(6 * w, 8 * w, 3, 2)
        self.repeat_1 = nn.Sequential(*(_block35(w) for _ in range(depth[0])))
        self.mixed_6a = _mixed_6a(w)
        self.repeat_2 = nn.Sequential(*(_block17(w) for _ in range(depth[1])))
        self.mixed_7a = _mixed_7a(w)
        self.repeat_3 = nn.Sequential(*(_block8(w) for _ in range(depth[2])))
        self.block8 = _block8(w, 1.0, False)
        self.dropout = nn.Dropout(0.6)
        self.last_linear = nn.Linear(56 * w, dimension, bias=False)
        self.last_bn = nn.BatchNorm1d(dimension, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x)))
        x = nn.functional.max_pool2d(x, 3, 2)
        x = self.conv2d_4b(self.conv2d_4a(self.conv2d_3b(x)))
        x = self.repeat_2(self.mixed_6a(self.repeat_1(x)))
        x = self.block8(self.repeat_3(self.mixed_7a(x)))
        x = self.dropout(x.mean((2, 3)))
        out: Tensor = self.last_bn(self.last_linear(x))
        return out

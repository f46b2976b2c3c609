"""Small networks of the miniature that are no recognisers: landmarks, parsing, attributes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .portrait_spec import CHOICES

CLASSES = 19


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class ResidualConv(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _conv(channels, channels)
        self.second = nn.Sequential(
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = (x + self.second(self.first(x))).relu()
        return out


class LandmarkNet(nn.Module):
    """[B,3,128,128] -> five points [B,5,2] in pixels and face logits [B].

    Heatmaps at a quarter of the resolution; a point is their softmax mean.
    """

    size = 128

    def __init__(self, width: int = 20) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(_conv(3, w, 2), _conv(w, 2 * w, 2), ResidualConv(2 * w))
        self.down = nn.Sequential(
            _conv(2 * w, 3 * w, 2), ResidualConv(3 * w), _conv(3 * w, 3 * w, 2), ResidualConv(3 * w)
        )
        self.middle = nn.Conv2d(3 * w, 2 * w, 1)
        self.merge = ResidualConv(2 * w)
        self.heat = nn.Conv2d(2 * w, 5, 3, 1, 1)
        self.face = nn.Linear(6 * w, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(x * 2 - 1)
        coarse = self.down(fine)
        joined = fine + F.interpolate(self.middle(coarse), scale_factor=4.0, mode="bilinear")
        heat = self.heat(self.merge(joined)).float()
        b, n, h, w = heat.shape
        share = heat.flatten(2).softmax(-1).view(b, n, h, w)
        steps = torch.arange(w, device=x.device) * 4.0 + 1.5
        points = torch.stack(((share.sum(2) * steps).sum(-1), (share.sum(3) * steps).sum(-1)), -1)
        pooled = torch.cat((coarse.mean((2, 3)), coarse.amax((2, 3))), 1)
        return points, self.face(pooled)[:, 0].float()


class ParserNet(nn.Module):
    """U-Net [B,3,H,W] -> logits [B,19,H,W] (CelebAMask-HQ classes), sides multiples of 16."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.enter = _conv(3, w, 2)
        self.down1 = nn.Sequential(_conv(w, 2 * w, 2), ResidualConv(2 * w))
        self.down2 = nn.Sequential(_conv(2 * w, 3 * w, 2), ResidualConv(3 * w))
        self.down3 = nn.Sequential(_conv(3 * w, 4 * w, 2), ResidualConv(4 * w))
        self.up2 = _conv(7 * w, 3 * w)
        self.up1 = _conv(5 * w, 2 * w)
        self.up0 = _conv(3 * w, 2 * w)
        self.classes = nn.Conv2d(2 * w, 4 * CLASSES, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x0 = self.enter(x * 2 - 1)
        x1 = self.down1(x0)
        x2 = self.down2(x1)
        x3 = self.down3(x2)
        y = self.up2(torch.cat((x2, F.interpolate(x3, scale_factor=2.0)), 1))
        y = self.up1(torch.cat((x1, F.interpolate(y, scale_factor=2.0)), 1))
        y = self.up0(torch.cat((x0, F.interpolate(y, scale_factor=2.0)), 1))
        return F.pixel_shuffle(self.classes(y), 2)


class AttributeNet(nn.Module):
    """[B,3,128,128] -> logits [B,C] for each attribute of `portrait_spec.CHOICES`, by name."""

    size = 128

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        w = width
        self.body = nn.Sequential(
            _conv(3, w, 2),
            _conv(w, 2 * w, 2),
            ResidualConv(2 * w),
            _conv(2 * w, 3 * w, 2),
            ResidualConv(3 * w),
            _conv(3 * w, 4 * w, 2),
        )
        self.squeeze = _conv(4 * w, w)
        heads = {name: nn.Linear(w * 64, len(values)) for name, values in CHOICES.items()}
        self.heads = nn.ModuleDict(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.squeeze(self.body(x * 2 - 1)).flatten(1)
        return {name: head(features).float() for name, head in self.heads.items()}

"""IResNet in the names of insightface's arcface_torch (IResNet-18 ... 200).

The same improved residual unit (arXiv 1801.07698, section 3.2.2) as in `iresnet_evolve`, named
like torchvision's ResNet, with a batch norm after the first convolution of a unit.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

UNITS = {"iresnet50": (3, 4, 14, 3), "iresnet100": (3, 13, 30, 3)}


class IResNetUnit(nn.Module):
    """BN-Conv-BN-PReLU-Conv(stride)-BN plus identity or a projected shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return out + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    """Four stages at `width` * (1, 2, 4, 8) channels; [B,3,size,size] -> [B,dimension]."""

    def __init__(
        self,
        units: Sequence[int],
        *,
        width: int = 64,
        dimension: int = 512,
        size: int = 112,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.prelu = nn.PReLU(width)
        stages, inputs = [], width
        for stage, count in enumerate(units):
            outputs = width << stage
            blocks = [IResNetUnit(inputs, outputs, 2)]
            blocks += [IResNetUnit(outputs, outputs, 1) for _ in range(count - 1)]
            stages.append(nn.Sequential(*blocks))
            inputs = outputs
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.bn2 = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * (size // 16) ** 2, dimension)
        self.features = nn.BatchNorm1d(dimension)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prelu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: Tensor = self.features(self.fc(self.bn2(x).flatten(1)))
        return out

"""A classifier of drawn attributes that is there to judge edits and for nothing else."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from .attribute_labels import ATTRIBUTES

SIZE = 64


class JudgeNet(nn.Module):
    """Portraits [B, 3, 64, 64] in [0, 1] -> logits of `attribute_labels.ATTRIBUTES` [B, n].

    Four convolutions, each layer's mean and spread taken over the batch, so that it sees colours, which a critic with
    instance norm does not.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        sizes = (3, width, 2 * width, 3 * width, 4 * width)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            convolution = nn.Conv2d(inputs, outputs, 3, 1 if i == 0 else 2, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(4 * width * (SIZE // 8) ** 2, len(ATTRIBUTES))

    def forward(self, pictures: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(pictures * 2 - 1).flatten(1))
        return out

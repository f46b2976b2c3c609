"""What a portrait holds, as a second task that teaches FLUX's middle layers to see the whole face.

Representation alignment (Yu et al. 2024, "Representation alignment for generation"), with the renderer's
ground truth in place of a pretrained encoder: every image token tells, from the noisy picture, who is
shown and how, and what lies under the token. The head is thrown away after training.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxguard_core.mini.portrait_spec import CHOICES
from fluxguard_core.mini.renderer import LABEL_NAMES

from .cache import PortraitCache

CLASSES = len(LABEL_NAMES)
TOKEN_PIXELS = 16
# Half-way through the network: the later layers paint what the earlier ones have understood.
SINGLE_BLOCK = 1
WEIGHT = 0.5
# Eyes and lips lie under ten tokens of 64, where a viewer looks first and an average error hardly does.
FOCUS = {"l_eye": 20.0, "r_eye": 20.0, "u_lip": 5.0, "l_lip": 5.0, "mouth": 5.0}
SURVEYED = 800


def scene_vectors(cache: PortraitCache) -> Tensor:
    """[N,G] of zero mean and unit variance: identity, attributes (one-hot), nuisances, landmarks."""
    specs = [cache.spec(row) for row in range(cache.plan.count)]
    numbers = torch.tensor([(*s.identity, *astuple(s.nuisance)) for s in specs])
    codes = torch.from_numpy(np.array(cache.attributes)).long()
    sizes = [len(values) for values in CHOICES.values()]
    hot = [F.one_hot(codes[:, i], size).float() for i, size in enumerate(sizes)]
    points = torch.from_numpy(np.array(cache.landmarks)).flatten(1)
    table = torch.cat((numbers, *hot, points), 1)
    return (table - table.mean(0)) / table.std(0).clamp_min(1e-3)


def token_labels(cache: PortraitCache, rows: np.ndarray) -> Tensor:
    """[B,L,19]: the share of every class under each token, on every second pixel."""
    labels = torch.from_numpy(cache.labels[rows, ::2, ::2].astype(np.int64))
    shares = F.one_hot(labels, CLASSES).permute(0, 3, 1, 2).float()
    return F.avg_pool2d(shares, TOKEN_PIXELS // 2).flatten(2).transpose(1, 2)


def token_focus(cache: PortraitCache) -> Tensor:
    """[L] of mean 1: the weight of every place in the loss, by what usually lies there.

    It depends on the place alone, not on the picture, so the velocity it leads to is the same one.
    """
    rows = np.linspace(0, cache.plan.count - 1, min(SURVEYED, cache.plan.count)).astype(int)
    shares = token_labels(cache, rows).mean(0)
    gain = torch.tensor([FOCUS.get(name, 0.0) for name in LABEL_NAMES])
    weight = 1.0 + shares @ gain
    return weight / weight.mean()


class SceneHead(nn.Module):
    """Reads a token: [B,L,width] -> scene [B,L,G] and class logits [B,L,19]."""

    def __init__(self, width: int, scene: int) -> None:
        super().__init__()
        self.read = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, scene + CLASSES),
        )
        self.scene = scene
        self.seen: Tensor | None = None

    def listen(self, transformer: Any) -> None:
        """Keep the image tokens that leave the chosen block of diffusers' FLUX."""
        block = transformer.single_transformer_blocks[SINGLE_BLOCK]
        block.register_forward_hook(self._keep)

    @torch.compiler.disable
    def _keep(self, block: nn.Module, given: Any, output: tuple[Tensor, Tensor]) -> None:
        self.seen = output[1]

    def loss(self, scene: Tensor, labels: Tensor) -> Tensor:
        """Squared error of the scene [B,G] and cross entropy of the classes [B,L,19], one a sample [B]."""
        if self.seen is None:
            raise RuntimeError("loss() needs a forward pass of the transformer before it")
        read = self.read(self.seen).float()
        wrong = ((read[..., : self.scene] - scene[:, None]) ** 2).mean((1, 2))
        classes = -(labels * F.log_softmax(read[..., self.scene :], -1)).sum(-1).mean(1)
        self.seen = None
        return wrong + classes

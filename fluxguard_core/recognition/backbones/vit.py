"""Vision transformer in the names of insightface's arcface_torch, also used by CVLface.

No class token: the tokens of all patches are concatenated and projected. ReLU6 in the MLPs,
queries, keys and values without bias, 8 heads at every width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).view(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        x = nn.functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(x.transpose(1, 2).reshape(batch, tokens, width))
        return out


class Mlp(nn.Module):
    """Two linear layers with a ReLU6 between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(nn.functional.relu6(self.fc1(x)))
        return out


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class PatchEmbed(nn.Module):
    """Patches as a strided convolution; columns that fill no patch are left out."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x).flatten(2).transpose(1, 2)
        return out


class FaceViT(nn.Module):
    """[B,3,size,size] -> [B,dimension]; public files: patch 9, width 256/512, depth 12/24.

    mask_token is part of the files (random masking of patches in training) and without effect
    in use.
    """

    def __init__(
        self,
        *,
        width: int = 512,
        depth: int = 12,
        patch: int = 9,
        heads: int = 8,
        hidden: int | None = None,
        dimension: int = 512,
        size: int = 112,
    ) -> None:
        super().__init__()
        tokens = (size // patch) ** 2
        self.patch_embed = PatchEmbed(patch, width)
        self.pos_embed = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.blocks = nn.Sequential(
            *(Block(width, heads, hidden or 4 * width) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.feature = nn.Sequential(
            nn.Linear(width * tokens, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, dimension, bias=False),
            nn.BatchNorm1d(dimension, eps=2e-5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.blocks(self.patch_embed(x) + self.pos_embed))
        out: Tensor = self.feature(x.flatten(1))
        return out

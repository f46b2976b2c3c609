"""Small deepfake models of drawn faces for cloaks to break: StarGAN's and STGAN's generators, and a face swap.

They are trained to change a face in plain sight and no further: targets, not editors. Neither of the two that edit
redraws the whole face, which would take far longer than they are trained.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _planes(labels: Tensor, like: Tensor) -> Tensor:
    return labels[:, :, None, None].to(like).expand(-1, -1, *like.shape[-2:])


def _step(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(channels, affine=True), nn.ReLU()]


def _last(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Module:
    """The last layer, so small that a fresh network hands pictures through."""
    with torch.no_grad():
        convolution.weight.mul_(0.1)
    return convolution


def _added(pictures: Tensor, change: Tensor) -> Tensor:
    """The residual image on top of the picture, in [-1, 1]."""
    out: Tensor = (pictures + 2 * change.float().tanh()).clamp(-1, 1)
    return out


class _Adaptive(nn.Module):
    """An instance norm whose scale and shift the labels say (AdaIN)."""

    def __init__(self, channels: int, attributes: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(channels)
        self.say = nn.Linear(attributes, 2 * channels)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        scale, shift = self.say(labels)[:, :, None, None].chunk(2, 1)
        out: Tensor = (1 + scale) * self.norm(x) + shift
        return out


class _AdaptiveResidual(nn.Module):
    def __init__(self, channels: int, attributes: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, 1, 1) for _ in range(2))
        self.norms = nn.ModuleList(_Adaptive(channels, attributes) for _ in range(2))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        y = F.relu(self.norms[0](self.convolutions[0](x), labels))
        out: Tensor = x + self.norms[1](self.convolutions[1](y), labels)
        return out


class StarGenerator(nn.Module):
    """StarGAN's (Choi et al. 2018, Table 4): pictures [B, 3, S, S] in [-1, 1], labels [B, n] -> pictures.

    Width and number of residual blocks are smaller than the published 64 and 6. The labels come in as in the second
    version (2020), by adaptive norms from the middle on: planes of one value beside the picture, as in the first, the
    next instance norm takes away but at the border, and that is slow to learn from. What comes out is laid over the
    picture through a mask, as GANimation (Pumarola et al. 2018) does: norms lose how light a face was.
    """

    def __init__(self, attributes: int, width: int = 12, blocks: int = 2) -> None:
        super().__init__()
        wide = 4 * width
        self.down = nn.Sequential(
            *_step(nn.Conv2d(3, width, 7, 1, 3), width),
            *_step(nn.Conv2d(width, 2 * width, 4, 2, 1), 2 * width),
            *_step(nn.Conv2d(2 * width, wide, 4, 2, 1), wide),
        )
        self.middle = nn.ModuleList(_AdaptiveResidual(wide, attributes) for _ in range(blocks))
        self.up = nn.ModuleList(
            (
                nn.ConvTranspose2d(wide, 2 * width, 4, 2, 1),
                nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            )
        )
        self.norms = nn.ModuleList((_Adaptive(2 * width, attributes), _Adaptive(width, attributes)))
        self.last = nn.Conv2d(width, 4, 7, 1, 3)

    def forward(self, pictures: Tensor, labels: Tensor) -> Tensor:
        x = self.down(pictures)
        for block in self.middle:
            x = block(x, labels)
        for up, norm in zip(self.up, self.norms, strict=True):
            x = F.relu(norm(up(x), labels))
        drawn = self.last(x).float()
        where = (drawn[:, 3:] - 2).sigmoid()
        out: Tensor = (1 - where) * pictures + where * drawn[:, :3].tanh()
        return out


class _Transfer(nn.Module):
    """A selective transfer unit (Liu et al. 2019, Eq. 2-7): what of an encoder's features an edit lets through."""

    def __init__(self, inner: int, outer: int, attributes: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(inner + attributes, outer, 4, 2, 1)
        self.reset = nn.Conv2d(2 * outer, outer, 3, 1, 1)
        self.gate = nn.Conv2d(2 * outer, outer, 3, 1, 1)
        self.new = nn.Conv2d(2 * outer, outer, 3, 1, 1)

    def forward(self, features: Tensor, state: Tensor, difference: Tensor) -> tuple[Tensor, Tensor]:
        """Features that pass, and the state for the next unit outwards."""
        before = self.up(torch.cat((state, _planes(difference, state)), 1))
        both = torch.cat((features, before), 1)
        state = self.reset(both).sigmoid() * before
        fresh = self.new(torch.cat((features, state), 1)).tanh()
        gate = self.gate(both).sigmoid()
        return (1 - gate) * before + gate * fresh, state


class SelectiveGenerator(nn.Module):
    """STGAN's: pictures [B, 3, S, S] in [-1, 1] and a difference of labels [B, n] in [-1, 1] -> pictures.

    It gives a residual image, as ResGAN (Shen and Liu 2017) does.
    """

    def __init__(self, attributes: int, width: int = 16, layers: int = 3) -> None:
        super().__init__()
        sizes = [width * 2**i for i in range(layers)]
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(before, after, 4, 2, 1),
                nn.InstanceNorm2d(after, affine=True),
                nn.LeakyReLU(0.2),
            )
            for before, after in zip((3, *sizes), sizes, strict=False)
        )
        self.pass_on = nn.ModuleList(
            _Transfer(sizes[i + 1], sizes[i], attributes) for i in reversed(range(layers - 1))
        )
        ups, inputs = [], sizes[-1] + attributes
        for size in reversed(sizes[:-1]):
            step = nn.Sequential(
                nn.ConvTranspose2d(inputs, size, 4, 2, 1),
                nn.InstanceNorm2d(size, affine=True),
                nn.ReLU(),
            )
            ups.append(step)
            inputs = 2 * size
        self.up = nn.ModuleList(ups)
        self.last = _last(nn.ConvTranspose2d(inputs, 3, 4, 2, 1))

    def forward(self, pictures: Tensor, difference: Tensor) -> Tensor:
        features, x = [], pictures
        for step in self.down:
            x = step(x)
            features.append(x)
        state = x
        x = torch.cat((x, _planes(difference, x)), 1)
        pairs = zip(self.up, self.pass_on, reversed(features[:-1]), strict=True)
        for up, unit, outer in pairs:
            passed, state = unit(outer, state, difference)
            x = torch.cat((up(x), passed), 1)
        return _added(pictures, self.last(x))


class SwapPair(nn.Module):
    """A face swap: one encoder for everybody, one decoder for each of the persons who are put in.

    Pictures [B, 3, 64, 64] in [-1, 1] and a person's number [B] -> that person in the same shot.
    """

    def __init__(self, people: int = 2, width: int = 16) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, 5, 2, 2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(width, 2 * width, 5, 2, 2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(2 * width, 4 * width, 5, 2, 2),
            nn.LeakyReLU(0.1),
            nn.Conv2d(4 * width, 4 * width, 3, 1, 1),
            nn.LeakyReLU(0.1),
        )
        self.decoders = nn.ModuleList(_decoder(width) for _ in range(people))

    def forward(self, pictures: Tensor, people: Tensor) -> Tensor:
        code = self.encoder(pictures)
        made = torch.stack([decoder(code) for decoder in self.decoders])
        out: Tensor = made[people, torch.arange(len(pictures), device=people.device)]
        return out


def _decoder(width: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 4 * width
    for outputs in (2 * width, width, width // 2):
        layers += [nn.Conv2d(inputs, 4 * outputs, 3, 1, 1), nn.LeakyReLU(0.1), nn.PixelShuffle(2)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Conv2d(inputs, 3, 5, 1, 2), nn.Tanh())


class PatchCritic(nn.Module):
    """StarGAN's (Table 5): pictures [B, 3, S, S] in [-1, 1] -> scores [B], the mean over patches, and logits [B, n].

    No norm, as the gradient penalty wants it; width 16 and 4 layers where the published has 64 and 6.
    """

    def __init__(self, labels: int, side: int = 64, width: int = 16, layers: int = 4) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        inputs = 3
        for layer in range(layers):
            outputs = width * 2**layer
            steps += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.01)]
            inputs = outputs
        self.body = nn.Sequential(*steps)
        self.source = nn.Conv2d(inputs, 1, 3, 1, 1)
        self.classes = nn.Conv2d(inputs, labels, side // 2**layers)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(pictures)
        return self.source(features).mean((1, 2, 3)), self.classes(features)[:, :, 0, 0]


def sized(pictures: Tensor, side: int) -> Tensor:
    """Pictures at the side that a model works at."""
    if pictures.shape[-1] == side:
        return pictures
    return F.interpolate(pictures, (side, side), mode="area")

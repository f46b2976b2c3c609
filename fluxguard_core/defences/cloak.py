"""DADFI's generator (PeerJ CS 2356): one pass makes a cloak, a change of a picture within a hard bound."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import FluxGuardError
from ..resampling import bicubic, shrink
from ..weights.loading import load_tensors
from ..worlds import WORLDS, World

WIDTH = 32
BOUND = 6 / 255
WORKING = 256
"""Longest side in pixels that the generator looks at; of larger pictures the cloak is enlarged."""
EYES = 57.5
"""Distance of the eyes in pixels where faces are 256 pixels wide and framed as CelebA's."""


class _Residual(nn.Module):
    """Two 3x3 convolutions with instance norm, ReLU after the first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


def _step(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(channels), nn.ReLU()]


class CloakGenerator(nn.Module):
    """Pictures [B, 3, H, W] in [0, 1] -> changes [B, 3, H, W], unbounded; `bounded` or `soft` makes cloaks of them.

    Three convolutions, four residual blocks, three up-samplings, instance norm after each. The paper gives no
    widths and strides; a quarter, a half and the whole of `width` at strides 1, 2, 2 are advGAN's.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        quarter, half = width // 4, width // 2
        self.width = width
        self.down = nn.Sequential(
            *_step(nn.Conv2d(3, quarter, 3, 1, 1), quarter),
            *_step(nn.Conv2d(quarter, half, 3, 2, 1), half),
            *_step(nn.Conv2d(half, width, 3, 2, 1), width),
        )
        self.middle = nn.Sequential(*(_Residual(width) for _ in range(4)))
        self.up = nn.Sequential(
            *_step(nn.ConvTranspose2d(width, half, 4, 2, 1), half),
            *_step(nn.ConvTranspose2d(half, quarter, 4, 2, 1), quarter),
            nn.Conv2d(quarter, 3, 5, 1, 2),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, pictures: Tensor) -> Tensor:
        height, width = pictures.shape[-2:]
        padded = F.pad(pictures * 2 - 1, (0, -width % 4, 0, -height % 4), mode="replicate")
        change: Tensor = self.up(self.middle(self.down(padded)))
        return change[..., :height, :width]


class PatchDiscriminator(nn.Module):
    """Pictures [B, 3, H, W] -> scores [B, 1, h, w] of patches of 70 pixels: cloaked or not, broken as the base or not."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        channels = width
        for stride in (2, 2, 1):
            layers += [nn.Conv2d(channels, 2 * channels, 4, stride, 1)]
            channels *= 2
            layers += [nn.InstanceNorm2d(channels), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4, 1, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        scores: Tensor = self.body(pictures * 2 - 1)
        return scores


def bounded(change: Tensor, limit: float) -> Tensor:
    """lim·tanh: within the limit whatever the generator says."""
    return limit * change.tanh()


def soft(change: Tensor, limit: float) -> Tensor:
    """The published mode: the change itself at the limit's scale; only the hinge of the loss holds it back."""
    return limit * change


@dataclass(frozen=True, eq=False)
class Cloak:
    """A trained generator and what it is for.

    Args:
        limit: largest change of a value, in [0, 1].
        world: the faces it was trained on.
        against: names of what it was trained against.
        eyes: distance of the eyes in pixels in the pictures that it was trained on.
    """

    generator: CloakGenerator
    limit: float = BOUND
    world: World = "photo"
    against: tuple[str, ...] = ()
    eyes: float = EYES

    @torch.no_grad()
    def __call__(
        self, pictures: Tensor, mask: Tensor | None = None, *, working: int = WORKING
    ) -> Tensor:
        """Cloaked pictures [B, 3, H, W] on the grid of 1/255, none of whose values moves by more than the limit.

        Args:
            mask: where they may change, [1 or B, 1, H, W] in [0, 1].
            working: longest side that the generator looks at; the change of a larger picture is enlarged.
        """
        size = (pictures.shape[-2], pictures.shape[-1])
        seen = _at_most(pictures, working)
        change = bounded(self.generator(seen), self.limit)
        if change.shape[-2:] != size:
            change = bicubic(change, size, antialias=False).clamp(-self.limit, self.limit)
        if mask is not None:
            change = change * mask.to(change)
        lowest, highest = ((pictures + side * self.limit) * 255 for side in (-1, 1))
        levels = ((pictures + change) * 255).round()
        levels = torch.maximum(levels, (lowest - 1e-3).ceil())
        return torch.minimum(levels, (highest + 1e-3).floor()).clamp(0, 255) / 255


def _at_most(pictures: Tensor, longest: int) -> Tensor:
    height, width = pictures.shape[-2:]
    if max(height, width) <= longest:
        return pictures
    share = longest / max(height, width)
    return shrink(pictures, (max(8, round(height * share)), max(8, round(width * share))))


def save_cloak(path: Path, cloak: Cloak, notes: dict[str, str] | None = None) -> Path:
    """Write float16 tensors and what the cloak is for, whole or not at all."""
    state = {k: v.half().cpu().contiguous() for k, v in cloak.generator.state_dict().items()}
    told = {
        "kind": "fluxguard-cloak",
        "limit": repr(cloak.limit),
        "world": cloak.world,
        "against": ", ".join(cloak.against),
        "eyes": repr(cloak.eyes),
        **(notes or {}),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(state, part, told)
    part.chmod(0o644)
    part.replace(path)
    return path


def load_cloak(path: str | Path) -> Cloak:
    """Read a cloak; FluxGuardError for another file."""
    state, notes = load_tensors(path)
    world = notes.get("world", "")
    if (
        notes.get("kind") != "fluxguard-cloak"
        or world not in WORLDS
        or "down.6.weight" not in state
    ):
        raise FluxGuardError(
            f"{path} is no cloak of FluxGuard.", "Train one with ‹run cloak train›."
        )
    generator = CloakGenerator(int(state["down.6.weight"].shape[0]))
    try:
        limit, eyes = float(notes["limit"]), float(notes.get("eyes", EYES))
        generator.load_state_dict({k: v.float() for k, v in state.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise FluxGuardError(f"{path} is a damaged cloak: {str(error)[:120]}.") from error
    if not 0 < limit <= 0.5:
        raise FluxGuardError(f"{path} says a limit of {limit}; expected one in (0, 0.5].")
    generator.eval().requires_grad_(False)
    against = tuple(name for name in notes.get("against", "").split(", ") if name)
    return Cloak(generator, limit, "drawn" if world == "drawn" else "photo", against, eyes)

"""What an editor does with a picture, as terms: each rises as the editor's work is spoilt.

Four ways to ask the model, by cost: its autoencoder alone, its error without a way back through the transformer, its
error with one, and its velocities along the very trajectory that an edit by inversion would take.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from ..backends.flux import DiffusersModel, FluxStack, encode_image
from ..backends.geometry import FLUX, geometry_of
from ..errors import FluxGuardError
from ..flow.field import VelocityField
from ..pictures.geometry import pad_to_multiple
from ..protect.engine import Draw, Reading
from ..resampling import shrink
from .adapters import attention_layers
from .attention import Recording, recorded_attention, recorded_reference

# Picture [B, 3, H, W] in [0, 1] -> model-space latent [B, C, h, w]; differentiable.
Encode = Callable[[Tensor], Tensor]
# How many text tokens, and rows and columns of image tokens -> records attention while it is open.
Watch = Callable[[int, tuple[int, int]], AbstractContextManager[Recording]]
_TINY = 1e-12  # a root has no slope at 0


class PromptedField(VelocityField, Protocol):
    """A velocity field at a prompt's embedding, which can be asked at another one and beside a picture."""

    @property
    def context(self) -> Tensor:
        """The embedding [B, T, D]."""

    def at(self, context: Tensor) -> PromptedField:
        """The same at another embedding."""

    def beside(self, reference: Tensor) -> PromptedField:
        """The same with a reference's latent [B, C, h, w] beside the picture that is made, as Kontext has it."""


# The editor as it is asked now; a dynamic prompt answers differently over time.
Editor = Callable[[], PromptedField]


@dataclass(frozen=True, eq=False)
class Surrogate:
    """The model whose work is to be spoilt, whatever runs it.

    Args:
        encode: its autoencoder's first half, for pictures of any size.
        field: the transformer at the prompt, guidance 1; None where only the autoencoder is at hand.
        layers: the transformer's linear layers beside which a stand-in for training may lie.
        watch: records where the transformer looks; ``watch_reference`` the share of it that a reference gets.
        pixels: pictures of more are seen by the transformer brought down to so many.
    """

    encode: Encode
    device: torch.device
    field: PromptedField | None = None
    layers: tuple[nn.Module, ...] = ()
    watch: Watch | None = None
    watch_reference: Watch | None = None
    tokens_of: Callable[[tuple[int, int]], int] = FLUX.tokens_of
    pixels: int = 1024**2

    @property
    def encode_small(self) -> Encode:
        """The first half on at most ``pixels`` pixels, as an editor or a trainer scales what it is given."""
        return at_most(self.encode, self.pixels)

    @property
    def prompted(self) -> PromptedField:
        """The transformer; FluxGuardError where there is none."""
        if self.field is None:
            raise FluxGuardError(
                "This shield asks a FLUX transformer, and only an autoencoder is here.",
                "Give ‹give model›, or choose the fast preset of the shield against edits.",
            )
        return self.field


def at_most(encode: Encode, pixels: int) -> Encode:
    """An encoder that sees larger pictures brought down to so many pixels, antialiased."""

    def small(picture: Tensor) -> Tensor:
        height, width = picture.shape[-2:]
        if height * width <= pixels:
            return encode(picture)
        scale = (pixels / (height * width)) ** 0.5
        return encode(shrink(picture, (round(scale * height), round(scale * width))))

    return small


def rms(change: Tensor) -> Tensor:
    """||x|| / sqrt(n) of each [B]; it has a gradient at 0 as well."""
    return (change.square().flatten(1).mean(1) + _TINY).sqrt()


@dataclass(frozen=True, eq=False)
class LatentTerm:
    """Distance of the latent from another: ||E(x) - E(y)|| / sqrt(n). Needs no prompt.

    Args:
        other: E(y) [B, C, h, w]: the clean picture's, to get away from, or with ``towards`` somebody else's, to get
            near to, as Glaze does for a style.
    """

    encode: Encode
    other: Tensor
    towards: bool = False
    name: str = "latent"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``distance`` [B]."""
        del draw
        distance = rms(self.encode(picture) - self.other)
        return Reading(distance if self.towards else -distance, figures={"distance": distance})


@dataclass(frozen=True, eq=False)
class ScoreTerm:
    """The model's error, followed without a way back through the transformer: <r, E(x)> with r = v(z_t) - (ε - z0).

    The gradient of the flow-matching error with the network's own derivative left out, as score distillation does.
    So it works where a quantised or offloaded transformer has no backward pass.
    """

    encode: Encode
    editor: Editor
    times: tuple[float, float] = (0.2, 0.9)
    name: str = "score"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``error`` [B]."""
        latent = self.encode(picture)
        time, noise = drawn(latent, self.times, draw)
        with torch.no_grad():
            clean = latent.detach()
            noisy = (1 - time) * clean + time * noise
            residual = self.editor()(noisy, time).float() - (noise - clean)
        pull = (residual * latent).flatten(1).mean(1)
        error = residual.square().flatten(1).mean(1)
        return Reading(-(error + pull - pull.detach()), figures={"error": error})


@dataclass(frozen=True, eq=False)
class FlowMatchingTerm:
    """The model's training error on the picture: mean of (v(z_t) - (ε - z0))², with the whole way back."""

    encode: Encode
    editor: Editor
    times: tuple[float, float] = (0.2, 0.9)
    name: str = "flow matching"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``error`` [B]."""
        latent = self.encode(picture)
        time, noise = drawn(latent, self.times, draw)
        velocity = self.editor()((1 - time) * latent + time * noise, time).float()
        error = (velocity - (noise - latent)).square().flatten(1).mean(1)
        return Reading(-error, figures={"error": error})


@dataclass(frozen=True, eq=False)
class Waypoint:
    """A point of the clean picture's inversion: its latent z_t and velocity [B, C, h, w] at σ = t."""

    time: float
    latent: Tensor
    velocity: Tensor


@dataclass(frozen=True, eq=False)
class TrajectoryTerm:
    """How far the editor's velocities leave the clean picture's own trajectory: mean of (v(z_t') - v_t)².

    z_t' is the clean inversion's point, moved by the share (1 - t) of the latent's change, so that both hold the same
    noise. The velocities to leave belong to the clean prompt, and never move with a dynamic one.
    """

    encode: Encode
    editor: Editor
    clean: Tensor
    waypoints: Sequence[Waypoint]
    name: str = "trajectory"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``distance`` [B]."""
        del draw
        change, field = self.encode(picture) - self.clean, self.editor()
        away = [
            (field(p.latent + (1 - p.time) * change, p.time).float() - p.velocity).square()
            for p in self.waypoints
        ]
        distance = torch.stack(away).mean(0).flatten(1).mean(1)
        return Reading(-distance, figures={"distance": distance})


@dataclass(frozen=True, eq=False)
class RedrawTerm:
    """How far a half redrawing leaves the clean picture's: ||ẑ0(x) - ẑ0(x0)|| / sqrt(n), in latents.

    TDAE's own loss, the distance of two edits' outputs, at one step of the editor: ẑ0 = z_t - t·v(z_t) with
    z_t = (1 - t)·E(x) + t·ε. Both sides see the same noise and time, drawn anew every step; the clean side keeps the
    clean prompt.

    Args:
        clean: E(x0) [B, C, h, w].
        plain: the editor at the clean prompt.
    """

    encode: Encode
    editor: Editor
    clean: Tensor
    plain: VelocityField
    times: tuple[float, float] = (0.4, 0.8)
    name: str = "redraw"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``distance`` [B]."""
        latent = self.encode(picture)
        time, noise = drawn(latent, self.times, draw)
        with torch.no_grad():
            expected = _one_step(self.plain, self.clean, time, noise)
        distance = rms(_one_step(self.editor(), latent, time, noise) - expected)
        return Reading(-distance, figures={"distance": distance})


def _one_step(field: VelocityField, latent: Tensor, time: float, noise: Tensor) -> Tensor:
    noisy = (1 - time) * latent + time * noise
    return noisy - time * field(noisy, time).float()


def encoder(vae: DiffusersModel, device: torch.device) -> Encode:
    """A diffusers autoencoder's first half for pictures of any size, repeated at the border to whole tokens."""
    side = geometry_of(vae).pixels_per_token
    return lambda picture: encode_image(vae, pad_to_multiple(picture, side).to(device))


def surrogate(stack: FluxStack, prompt: str = "") -> Surrogate:
    """A diffusers FLUX as what is to be spoilt."""
    return Surrogate(
        encode=encoder(stack.vae, stack.device),
        device=stack.device,
        field=stack.field(prompt, 1.0),
        layers=tuple(attention_layers(stack.transformer)),
        watch=partial(recorded_attention, stack.transformer),
        watch_reference=partial(recorded_reference, stack.transformer),
    )


def autoencoder_alone(vae: DiffusersModel, device: torch.device) -> Surrogate:
    """A diffusers autoencoder as what is to be spoilt."""
    return Surrogate(encode=encoder(vae, device), device=device)


def drawn(latent: Tensor, times: tuple[float, float], draw: Draw) -> tuple[float, Tensor]:
    """A time of the range and a noise like ``latent``, both from the draw's generator."""
    low, high = times
    time = low + (high - low) * float(torch.rand(1, generator=draw.generator))
    noise = torch.randn(latent.shape, generator=draw.generator).to(latent)
    return time, noise

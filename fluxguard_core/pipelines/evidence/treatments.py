"""What happens to a published picture, by networks and by those who want the protection gone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO

import torch
from PIL import Image
from torch import Tensor

from ...evaluate.transforms import Transform, blur, jpeg, noise, rescale
from ...flow import flux_schedule
from ...pictures.files import to_pillow
from ...resampling import bicubic
from ..models import Models
from .bench import Subject

Shown = tuple[Tensor, Tensor]
"""A picture [1, 3, H, W] in [0, 1] and the five points [5, 2] of the face in it."""


@dataclass(frozen=True, eq=False)
class Treatment:
    """A change of a picture: (picture, points, subject) -> (picture, points)."""

    name: str
    label: str
    apply: Callable[[Tensor, Tensor, Subject], Shown]

    def __call__(self, picture: Tensor, points: Tensor, subject: Subject) -> Shown:
        """The changed picture, in 8 bits."""
        with torch.no_grad():
            changed, moved = self.apply(picture, points, subject)
        return (changed.clamp(0, 1) * 255).round() / 255, moved


def _plain(transform: Transform) -> Treatment:
    return Treatment(transform.name, transform.label, lambda x, at, _: (transform(x), at))


def chain(name: str, label: str, *parts: Treatment) -> Treatment:
    """One treatment after the other."""

    def apply(picture: Tensor, points: Tensor, subject: Subject) -> Shown:
        for part in parts:
            picture, points = part(picture, points, subject)
        return picture, points

    return Treatment(name, label, apply)


def webp(quality: int) -> Treatment:
    """WebP through the real encoder and decoder."""

    def apply(picture: Tensor, points: Tensor, _: Subject) -> Shown:
        stream = BytesIO()
        to_pillow(picture[0]).save(stream, format="WEBP", quality=quality)
        with Image.open(stream) as opened:
            data = bytearray(opened.convert("RGB").tobytes())
        height, width = picture.shape[-2:]
        pixels = torch.frombuffer(data, dtype=torch.uint8).view(height, width, 3)
        return pixels.permute(2, 0, 1)[None].float() / 255, points

    return Treatment(f"webp{quality}", f"WebP {quality}", apply)


def cropped(share: float) -> Treatment:
    """A rim of ``share`` of the sides cut off and the rest enlarged to the old size."""

    def apply(picture: Tensor, points: Tensor, _: Subject) -> Shown:
        height, width = picture.shape[-2:]
        top, left = round(share * height), round(share * width)
        inside = picture[..., top : height - top, left : width - left]
        grown = bicubic(inside, (height, width))
        scale = torch.tensor([width / (width - 2 * left), height / (height - 2 * top)])
        moved = (points - torch.tensor([left, top]) + 0.5) * scale - 0.5
        return grown, moved

    return Treatment(f"crop{share:g}", f"{100 * share:.0f} % cropped off each side", apply)


def median(side: int = 3) -> Treatment:
    """Median of a square."""

    def apply(picture: Tensor, points: Tensor, _: Subject) -> Shown:
        from kornia.filters import median_blur

        return median_blur(picture, (side, side)), points

    return Treatment(f"median{side}", f"Median of {side} pixels", apply)


def bilateral(sigma: float = 0.1, space: float = 1.5) -> Treatment:
    """A bilateral filter: ``sigma`` in values of [0, 1], ``space`` in pixels."""

    def apply(picture: Tensor, points: Tensor, _: Subject) -> Shown:
        from kornia.filters import bilateral_blur

        return bilateral_blur(picture, (5, 5), sigma, (space, space)), points

    return Treatment("bilateral", f"Bilateral filter ({sigma:g}, {space:g} px)", apply)


def round_trip(models: Models) -> Treatment:
    """Through the autoencoder and back."""

    def apply(picture: Tensor, points: Tensor, _: Subject) -> Shown:
        size = (picture.shape[-2], picture.shape[-1])
        return models.stack.decode(models.stack.encode(picture), size).cpu(), points

    return Treatment("autoencoder", "Autoencoder round trip", apply)


def img2img(models: Models, strength: float) -> Treatment:
    """FLUX image-to-image: noised to σ = ``strength`` and denoised at the photo's own words (SDEdit)."""

    def apply(picture: Tensor, points: Tensor, subject: Subject) -> Shown:
        latent = models.stack.encode(picture)
        tokens = models.stack.geometry.tokens_of((latent.shape[2], latent.shape[3]))
        grid = [s for s in flux_schedule(50, tokens).tolist() if s < strength]
        field = models.stack.field(subject.source_prompt, 1.0)
        generator = torch.Generator().manual_seed(0)
        z = _noised(latent, strength, generator)
        for now, then in zip([strength, *grid[:-1]], grid, strict=True):
            z = z + (then - now) * field(z, now)
        return _decoded(models, z, picture), points

    return Treatment(f"img2img{strength:g}", f"FLUX image-to-image at {strength:g}", apply)


def diffpure(models: Models, strength: float = 0.1, steps: int = 10) -> Treatment:
    """Diffusion purification in the manner of DiffPure (Nie et al. 2022): back from noise with fresh noise each step."""

    def apply(picture: Tensor, points: Tensor, subject: Subject) -> Shown:
        latent = models.stack.encode(picture)
        field = models.stack.field(subject.source_prompt, 1.0)
        generator = torch.Generator().manual_seed(0)
        z = _noised(latent, strength, generator)
        for step in range(steps):
            now, then = strength * (1 - step / steps), strength * (1 - (step + 1) / steps)
            z = _noised(z - now * field(z, now), then, generator)
        return _decoded(models, z, picture), points

    return Treatment("diffpure", f"Purified in {steps} steps from {strength:g}", apply)


def _noised(latent: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    fresh = torch.randn(latent.shape, generator=generator).to(latent)
    return (1 - sigma) * latent + sigma * fresh


def _decoded(models: Models, latent: Tensor, like: Tensor) -> Tensor:
    return models.stack.decode(latent, (like.shape[-2], like.shape[-1])).cpu()


def treatments(models: Models | None) -> Sequence[Treatment]:
    """All of them; those that need a FLUX only where there is one."""
    jpegs = [_plain(jpeg(quality)) for quality in (95, 85, 75, 65, 50)]
    by_quality = {part.name: part for part in jpegs}
    half, soft = _plain(rescale(0.5)), _plain(blur(1.0))
    plain = [
        *jpegs,
        webp(80),
        _plain(rescale(0.75)),
        half,
        chain(
            "network",
            "10 % cropped off, then JPEG 75",
            cropped(0.1),
            by_quality["jpeg75"],
        ),
        soft,
        _plain(blur(2.0)),
        bilateral(),
        median(),
        _plain(noise(0.02)),
        _plain(noise(0.05)),
        chain("half+jpeg50", "Halved, then JPEG 50", half, by_quality["jpeg50"]),
    ]
    if models is None:
        return plain
    through = round_trip(models)
    return [
        *plain,
        through,
        *(img2img(models, strength) for strength in (0.05, 0.1, 0.2)),
        diffpure(models),
        chain("ae+jpeg75", "Autoencoder, then JPEG 75", through, by_quality["jpeg75"]),
    ]

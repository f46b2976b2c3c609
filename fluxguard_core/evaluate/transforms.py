"""What happens to a picture when it is shared: recompression, scaling, blur, noise, an autoencoder."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from ..errors import FluxGuardError
from ..pictures.files import to_pillow
from ..regions.morphology import gaussian_blur
from ..resampling import bicubic

Codec = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Transform:
    """A named change of a picture: apply([B,3,H,W] in [0,1]) -> the same shape and range.

    `name` is for files, `label` for people.
    """

    name: str
    label: str
    apply: Codec

    def __call__(self, image: Tensor) -> Tensor:
        """The changed pictures, clamped to [0,1], of the input's type and device."""
        with torch.no_grad():
            changed = self.apply(image.detach())
        if changed.shape != image.shape:
            raise FluxGuardError(
                f"The transform {self.name!r} turned {tuple(image.shape)} into "
                f"{tuple(changed.shape)}; it must keep the size."
            )
        return changed.clamp(0, 1).to(image)


def _through_jpeg(image: Tensor, quality: int) -> Tensor:
    decoded = []
    for picture in image:
        stream = io.BytesIO()
        to_pillow(picture).save(stream, format="JPEG", quality=quality)
        with Image.open(stream) as opened:
            data = bytearray(opened.convert("RGB").tobytes())
            width, height = opened.size
        pixels = torch.frombuffer(data, dtype=torch.uint8).view(height, width, 3)
        decoded.append(pixels.permute(2, 0, 1).float() / 255)
    return torch.stack(decoded)


def jpeg(quality: int) -> Transform:
    """JPEG through the real encoder and decoder (Pillow's, 4:2:0), quality 1..95."""
    if not 1 <= quality <= 95:
        raise FluxGuardError(f"JPEG quality must be 1..95; got {quality}.")
    return Transform(
        f"jpeg{quality}", f"JPEG {quality}", lambda image: _through_jpeg(image, quality)
    )


def rescale(factor: float = 0.5) -> Transform:
    """Scale by `factor` and back, bicubic and antialiased, rounded to 8 bits in between."""
    if not 0 < factor < 1:
        raise FluxGuardError(f"The scale must lie between 0 and 1; got {factor}.")

    def apply(image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        small = bicubic(image, (max(1, round(height * factor)), max(1, round(width * factor))))
        return bicubic((small.clamp(0, 1) * 255).round() / 255, (height, width))

    return Transform(f"resize{factor:g}", f"Resize {factor:g}x and back", apply)


def blur(sigma: float = 1.0) -> Transform:
    """Gaussian blur, sigma in pixels."""
    return Transform(
        f"blur{sigma:g}", f"Blur {sigma:g} px", lambda image: gaussian_blur(image, sigma)
    )


def noise(sigma: float = 0.02, seed: int = 0) -> Transform:
    """White Gaussian noise of standard deviation `sigma` (of 1), the same for the same seed."""

    def apply(image: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return image + sigma * torch.randn(image.shape, generator=generator).to(image)

    return Transform(f"noise{sigma:g}", f"Noise {100 * sigma:g} %", apply)


def autoencoder(encode: Codec, decode: Codec, label: str = "Autoencoder round trip") -> Transform:
    """One encode and decode: what passing through a latent editor does to a picture at least."""
    return Transform("autoencoder", label, lambda image: decode(encode(image)))


SHARING: tuple[Transform, ...] = (jpeg(75), jpeg(50), rescale(0.5), blur(1.0), noise(0.02))
"""The default set; an autoencoder round trip joins it where there is one."""

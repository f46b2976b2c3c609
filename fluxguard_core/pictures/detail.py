"""What an autoencoder cannot hold, kept: freckles, wrinkles and grain stay the photo's own."""

from __future__ import annotations

from torch import Tensor

from ..errors import FluxGuardError


def with_detail(decoded: Tensor, source: Tensor, round_trip: Tensor) -> Tensor:
    """The source with what the latent changed: source + (decoded - round_trip), in [0, 1].

    Where the latent is the source's own, the result is the source to rounding error, and a change is laid over
    the source's detail. Differentiable in ``decoded``.

    Args:
        decoded: the decoded result [B, 3, H, W].
        source: the picture that was encoded, [1 or B, 3, H, W] in [0, 1].
        round_trip: the source encoded and decoded, by the decoder that made ``decoded``.

    Raises:
        FluxGuardError: the pictures do not have one size.
    """
    sizes = {(p.shape[-2], p.shape[-1]) for p in (decoded, source, round_trip)}
    if len(sizes) > 1:
        told = ", ".join(f"{width} x {height}" for height, width in sorted(sizes))
        raise FluxGuardError(
            f"Expected the source, its round trip and the decoded result in one size, got {told} pixels.",
            "Give the source that was encoded, at the size it had then.",
        )
    photo, plain = source.to(decoded), round_trip.to(decoded)
    return (photo + (decoded - plain)).clamp(0, 1)

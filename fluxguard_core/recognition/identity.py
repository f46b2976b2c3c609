"""Whom the protected picture should resemble, or whom it should cease to resemble."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.alignment import align, whole_frame
from ..faces.face import FaceFinder, choose
from .encoder import FaceEncoder
from .ensemble import embed_fixed

Kind = Literal["untargeted", "synthetic", "photo"]

EXPLANATIONS: dict[Kind, str] = {
    "untargeted": "Moves the face away from the person in the picture, towards nobody.",
    "synthetic": "Moves the face towards an invented identity that belongs to nobody; the seed "
    "picks it, and pictures protected with one seed resemble each other.",
    "photo": "Moves the face towards the person in your photo(s), who will then be found instead; "
    "use it only for faces that are yours to use.",
}
"""One sentence for each choice, shown by the command line and the nodes."""


@dataclass(frozen=True, eq=False)
class Identity:
    """The goal of a protection; made by `untargeted`, `synthetic` or `photo`.

    Photos are [3,H,W], RGB in [0,1], of any size.
    """

    kind: Kind
    seed: int | None = None
    photos: tuple[Tensor, ...] = ()


def untargeted() -> Identity:
    """Away from the source, towards nobody."""
    return Identity("untargeted")


def synthetic(seed: int) -> Identity:
    """Towards an invented identity, the same for the same seed and recogniser."""
    return Identity("synthetic", seed=int(seed))


def photo(*images: Tensor) -> Identity:
    """Towards the mean of one or more photos [3,H,W]."""
    if not images:
        raise FluxGuardError("A photo identity needs at least one photo; got none.")
    for image in images:
        if image.ndim != 3 or image.shape[0] != 3:
            raise FluxGuardError(
                f"An identity photo must be [3, H, W], got {list(image.shape)}.",
                "Give each photo on its own, RGB in [0, 1].",
            )
    return Identity("photo", photos=tuple(images))


def reference_embedding(
    identity: Identity,
    encoder: FaceEncoder,
    source_face: Tensor,
    *,
    find_faces: FaceFinder | None = None,
) -> Tensor:
    """The unit vector [D] to move from (untargeted) or to (synthetic, photo).

    source_face: the person as the encoder sees them, [B,3,S,S] or [3,S,S]; several views are
    averaged. find_faces locates the face in identity photos; without it a photo is taken whole.
    A synthetic identity is kept apart from the source, and from the mean of the faces that the
    encoder was calibrated on.
    """
    faces = source_face if source_face.ndim == 4 else source_face[None]
    if identity.kind == "photo":
        return _photo_embedding(identity.photos, encoder, find_faces).to(faces.device)
    source = F.normalize(embed_fixed(encoder, faces).mean(0), dim=0)
    if identity.kind == "untargeted":
        return source
    return _synthetic_embedding(identity.seed or 0, encoder, source)


def _synthetic_embedding(seed: int, encoder: FaceEncoder, source: Tensor) -> Tensor:
    """A random direction of the sphere, orthogonal to the source and to the mean face."""
    digest = hashlib.sha256(f"{seed}/{encoder.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    vector = torch.randn(source.shape[0], generator=generator, dtype=torch.float64)
    avoid = [source] if encoder.mean_face is None else [source, encoder.mean_face]
    basis, _ = torch.linalg.qr(torch.stack([item.cpu().double() for item in avoid], 1))
    vector = vector - basis @ (basis.T @ vector)
    return F.normalize(vector, dim=0).float().to(source.device)


def _photo_embedding(
    photos: tuple[Tensor, ...], encoder: FaceEncoder, find_faces: FaceFinder | None
) -> Tensor:
    """Normalised mean of the photos' embeddings, each aligned where a finder is given."""
    vectors = []
    for image in photos:
        if find_faces is None:
            crop = whole_frame(image[None], encoder.crop)
        else:
            face = choose(find_faces(image), "largest")[0]
            if face.landmarks is None:
                raise FluxGuardError(
                    "The detector gave a box without landmarks for an identity photo; expected "
                    "five points.",
                    "Use a detector that finds landmarks.",
                )
            crop = align(image[None], face.landmarks[None], encoder.crop)
        vectors.append(embed_fixed(encoder, crop)[0])
    return F.normalize(torch.stack(vectors).mean(0), dim=0)

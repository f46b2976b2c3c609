"""Who clones a face from one photo, on the miniature: a recogniser's vector becomes a draft, and FLUX finishes it."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ..backends.flux import FluxStack
from ..errors import FluxGuardError
from ..faces.alignment import align
from ..recognition.encoder import FaceEncoder
from .asked import asked
from .captions import caption
from .faces import find_faces
from .models import GUIDANCE
from .portrait_spec import Nuisance, random_attributes
from .text import POOLED_WIDTH

ENCODERS = ("ir", "facenet")
"""What the two adapters read a face with."""
LATENT = (16, 16, 16)
VIEW = len(fields(Nuisance))
_STRENGTH = 0.3
_SAMPLING = 12


class CloneAdapter(nn.Module):
    """A face's unit vector [B, D], a caption's pooled vector [B, 128] and a view [B, 10] -> a draft's latent.

    A view is the fields of ``Nuisance``: pose, framing and light. Nothing but the vector tells who it is.
    """

    def __init__(self, width: int, hidden: int = 384) -> None:
        super().__init__()
        self.scale = width**0.5
        self.body = nn.Sequential(
            nn.Linear(width + POOLED_WIDTH + VIEW, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, LATENT[0] * LATENT[1] * LATENT[2]),
        )

    def forward(self, vectors: Tensor, pooled: Tensor, view: Tensor) -> Tensor:
        """Read and draft: [B, 16, 16, 16]."""
        drafted: Tensor = self.body(torch.cat([self.scale * vectors, pooled, view], 1))
        return drafted.unflatten(1, LATENT)


@dataclass(frozen=True, eq=False)
class Cloner:
    """An adapter at work on the miniature.

    Args:
        encoder: the recogniser that it was trained with.
    """

    stack: FluxStack
    adapter: CloneAdapter
    encoder: FaceEncoder

    @torch.no_grad()
    def pictures(self, photo: Tensor, count: int, seed: int = 0) -> Tensor:
        """Pictures of whom a photo [1, 3, H, W] shows, as the encoder reads it.

        Captions and noises depend on ``seed`` alone.

        Returns:
            [count, 3, 128, 128] in [0, 1].

        Raises:
            FluxGuardError: no face in the photo.
        """
        vector = face_vector(self.encoder, photo).expand(count, -1)
        rng = np.random.default_rng([8, seed])
        captions = [caption(random_attributes(rng)) for _ in range(count)]
        field = asked(self.stack, captions, GUIDANCE)
        draft = self.adapter(vector, field.prompt.pooled, view_of(Nuisance()).expand(count, -1))
        noise = torch.randn(draft.shape, generator=torch.Generator().manual_seed(20_000 + seed))
        z = (1 - _STRENGTH) * draft + _STRENGTH * noise
        steps = round(_SAMPLING * _STRENGTH)
        for now, after in pairwise(torch.linspace(_STRENGTH, 0, steps + 1).tolist()):
            z = z + (after - now) * field(z, now)
        return self.stack.decode(z.float()).float()


def view_of(nuisance: Nuisance) -> Tensor:
    """A portrait's view as numbers in [-1, 1], [1, 10]."""
    return torch.tensor([astuple(nuisance)])


def face_vector(encoder: FaceEncoder, photo: Tensor) -> Tensor:
    """The encoder's vector [1, D] of the face in a photo [1, 3, H, W]; FluxGuardError where there is none."""
    return encoder(align(photo, face_points(photo), encoder.crop))


def face_points(photo: Tensor) -> Tensor:
    """The five points [1, 5, 2] of the face in a photo [1, 3, H, W]; FluxGuardError where there is none."""
    faces = find_faces(photo[0])
    if not faces or faces[0].landmarks is None:
        raise FluxGuardError("Expected a face to clone; the detector finds none in this picture.")
    return faces[0].landmarks.reshape(1, 5, 2)


def adapter_path(folder: Path, encoder: str) -> Path:
    """The file of the adapter that reads with an encoder."""
    return folder / f"fluxguard-cloner-{encoder}.safetensors"


def save_adapter(adapter: CloneAdapter, path: Path) -> None:
    """Write the adapter as float16."""
    state = {k: v.detach().half().contiguous().cpu() for k, v in adapter.state_dict().items()}
    save_file(state, path, {"format": "pt", "licence": "Apache-2.0", "world": "drawn"})


def load_adapter(folder: Path, encoder: str) -> CloneAdapter:
    """What ``python -m training.mini train clone-adapter`` made for an encoder.

    Raises:
        FluxGuardError: it is not in the folder.
    """
    path = adapter_path(folder, encoder)
    if not path.is_file():
        raise FluxGuardError(
            f"Expected {path.name} in {folder}; it is not there.",
            "Train it into that folder first; docs/shields.md has the command.",
        )
    with safe_open(path, "pt") as file:
        state = {k: file.get_tensor(k).float() for k in file.keys()}  # noqa: SIM118
    hidden, width = state["body.0.weight"].shape
    adapter = CloneAdapter(width - POOLED_WIDTH - VIEW, hidden)
    adapter.load_state_dict(state)
    return adapter.eval().requires_grad_(False)

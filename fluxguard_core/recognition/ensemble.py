"""Several recognisers as one: those an optimisation may use and those kept for the verdict.

The optimisation path (`embed_attacked`, `combine`) reads `attacked` and nothing else; a held-out
network runs only in `similarities` and `embed_all`, which work without gradients.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import FluxGuardError
from ..faces.crops import Crop
from .encoder import FaceEncoder

Cut = Callable[[Crop], Tensor]
"""A recogniser's crop -> the faces cut so [B,3,size,size], RGB in [0,1]."""

_CACHED_PER_NETWORK = 64
_cache: WeakKeyDictionary[nn.Module, OrderedDict[str, Tensor]] = WeakKeyDictionary()


def once_per_crop(cut: Cut) -> Cut:
    """The same function, cutting each crop only once."""
    made: dict[Crop, Tensor] = {}

    def cached(crop: Crop) -> Tensor:
        if crop not in made:
            made[crop] = cut(crop)
        return made[crop]

    return cached


def embed_fixed(encoder: FaceEncoder, faces: Tensor) -> Tensor:
    """Embedding [B,D] of pictures that do not change; remembered by content for each network."""
    raw = faces.detach().float().cpu().contiguous()
    key = hashlib.sha256(raw.numpy().tobytes()).hexdigest()
    key += f"{tuple(raw.shape)}{encoder.mean}{encoder.std}{encoder.colour}"
    known = _cache.setdefault(encoder.network, OrderedDict())
    if key not in known:
        # Outside inference mode, or the vector could not take part in a loss later.
        with torch.inference_mode(False), torch.no_grad():
            known[key] = encoder(faces.detach().clone()).cpu()
        while len(known) > _CACHED_PER_NETWORK:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key].to(faces.device)


@dataclass(frozen=True, eq=False)
class Ensemble:
    """Recognisers to attack and recognisers that only ever judge.

    `weighting` says how their losses are joined: "equal" is the mean, "worst" a softmax that
    leans on the recogniser that is hardest to convince. Raises FluxGuardError for an empty
    ensemble, for two members of one name, and for a network on both sides.
    """

    attacked: tuple[FaceEncoder, ...]
    held_out: tuple[FaceEncoder, ...] = ()
    weighting: Literal["equal", "worst"] = "equal"

    def __post_init__(self) -> None:
        if not self.attacked:
            raise FluxGuardError("An ensemble needs at least one recogniser to attack; got none.")
        names = [encoder.name for encoder in self.members]
        if len(set(names)) != len(names):
            raise FluxGuardError(
                f"Recognisers need different names, got {', '.join(names)}; a recogniser cannot "
                "be attacked and held out at once."
            )
        attacked = {id(encoder.network) for encoder in self.attacked}
        for encoder in self.held_out:
            if id(encoder.network) in attacked:
                raise FluxGuardError(
                    f"{encoder.name} is held out, but its network is also attacked; the verdict "
                    "would not be independent.",
                    "Take it out of one of the two lists.",
                )

    @property
    def members(self) -> tuple[FaceEncoder, ...]:
        """All recognisers, attacked ones first."""
        return self.attacked + self.held_out

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All networks, attacked ones first, for a host that places them on its devices."""
        return tuple(encoder.network for encoder in self.members)

    def embed_attacked(self, cut: Cut, *, parts: int | None = None) -> tuple[Tensor, ...]:
        """Unit vectors [B,D] of each attacked recogniser, with gradients; equal crops cut once.

        Args:
            parts: recognisers one after the other, each on so many parts of its faces in turn; what a network
                keeps for its gradient is then made again when it is needed, and one part's at a time is held.
        """
        shared = once_per_crop(cut)
        if parts is None:
            return tuple(encoder(shared(encoder.crop)) for encoder in self.attacked)
        return tuple(_in_turn(item, shared(item.crop).chunk(parts)) for item in self.attacked)

    def embed_all(self, cut: Cut) -> dict[str, Tensor]:
        """Unit vectors [B,D] by name, of every recogniser, without gradients; remembered."""
        shared = once_per_crop(cut)
        with torch.no_grad():
            return {item.name: embed_fixed(item, shared(item.crop)) for item in self.members}

    def similarities(self, cut: Cut, references: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Cosine [B] by name to reference vectors ([D] or [B,D]) for the report, no gradients."""
        embedded = self.embed_all(cut)
        unknown = sorted(set(references) - set(embedded))
        if unknown:
            raise FluxGuardError(
                f"There is a reference for {unknown[0]}, but the recognisers are "
                f"{', '.join(embedded)}."
            )
        return {
            name: (embedded[name] * reference.to(embedded[name])).sum(-1)
            for name, reference in references.items()
        }

    def combine(self, losses: Tensor, *, temperature: float = 0.1) -> Tensor:
        """Join the attacked recognisers' losses [..., K] into [...] by the weighting.

        "worst" weighs by softmax(loss / temperature), taken without gradient so that the weights
        steer but are not themselves minimised.
        """
        if losses.shape[-1] != len(self.attacked):
            raise FluxGuardError(
                f"Expected {len(self.attacked)} losses, one per attacked recogniser, got "
                f"{losses.shape[-1]}."
            )
        if self.weighting == "equal":
            return losses.mean(-1)
        weights = torch.softmax(losses.detach() / temperature, -1)
        return (weights * losses).sum(-1)


def _in_turn(encoder: FaceEncoder, parts: Sequence[Tensor]) -> Tensor:
    seen = [
        checkpoint(encoder, part, use_reentrant=False, preserve_rng_state=False) for part in parts
    ]
    return torch.cat(seen)

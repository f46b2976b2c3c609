"""The identity term: away from the person shown, or towards another identity (Flux-Guard 3.4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from ..faces.face import FaceFinder
from ..recognition.ensemble import Ensemble, embed_fixed
from ..recognition.identity import Identity, reference_embedding
from .engine import Draw, Reading, Step
from .goals import Goal
from .gradients import differentiable, gradients
from .views import View


@dataclass(frozen=True, eq=False)
class IdentityTerm:
    """What the attacked recognisers still see of a person, over an ensemble and over views.

    Args:
        ensemble: only its attacked members are ever called.
        source: unit vectors [N, D] or [D] of the person shown, by recogniser; None leaves them out.
        target: unit vectors to move towards, by recogniser; None means untargeted.
        goal: how similar the person may stay, and must become to a target.
        one_batch: each recogniser sees all views as one batch; otherwise views and recognisers come one after the
            other and are looked at again for the gradient, so that no more than one of them is in memory.

    N = B, or faces · B where several faces of each picture are looked at, one face after the other.

    The loss is 1 - cos(target) where there is a target, plus max(0, cos(source) - limit)
    where there is a source, averaged over views and faces and joined over recognisers by the ensemble's
    weighting, the excess in the goal's unit. The goal is met past the limits, in every view, face and recogniser; where a
    recogniser has no threshold, a target is approached without a goal.
    """

    ensemble: Ensemble
    source: Mapping[str, Tensor] | None
    target: Mapping[str, Tensor] | None
    goal: Goal = field(default_factory=Goal)
    one_batch: bool = True
    name: str = "identity"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W].

        Figures: ``source NAME`` and ``target NAME``, similarities [N] by recogniser, means over views.
        """
        seen = self.ensemble.embed_attacked(
            lambda crop: torch.cat([view(picture, crop) for view in draw.views]),
            parts=None if self.one_batch else len(draw.views),
        )
        embedded = tuple(vectors.unflatten(0, (len(draw.views), -1)) for vectors in seen)
        source = self._similarities(embedded, self.source)
        target = self._similarities(embedded, self.target)
        loss = picture.new_zeros(())
        if target is not None:
            loss = loss + self.ensemble.combine((1 - target).mean(0).T)
        if source is not None:
            excess = (source - self._limits(source, -1)).clamp(min=0) * self._weights(source)
            loss = loss + self.ensemble.combine(excess.mean(0).T)
        loss = loss.reshape(-1, picture.shape[0]).mean(0)
        return Reading(loss, self._met(loss, source, target), self._figures(source, target))

    def _met(self, loss: Tensor, source: Tensor | None, target: Tensor | None) -> Tensor | None:
        if not all(encoder.thresholds for encoder in self.ensemble.attacked):
            return None
        done = torch.ones_like(loss, dtype=torch.bool)
        for similarity, sign in ((source, -1), (target, 1)):
            if similarity is not None:
                past = sign * (similarity - self._limits(similarity, sign)) >= 0
                done &= past.all(0).all(0).reshape(-1, len(done)).all(0)
        return done

    def _figures(self, source: Tensor | None, target: Tensor | None) -> dict[str, Tensor]:
        return {
            f"{of} {encoder.name}": similarity[:, number].mean(0)
            for of, similarity in (("source", source), ("target", target))
            if similarity is not None
            for number, encoder in enumerate(self.ensemble.attacked)
        }

    def _limits(self, like: Tensor, sign: int) -> Tensor:
        values = [self.goal.limit(encoder, sign) for encoder in self.ensemble.attacked]
        return like.new_tensor(values)[None, :, None]

    def _weights(self, like: Tensor) -> Tensor:
        """What makes an excess count the same for every recogniser."""
        values = [1 / self.goal.unit(encoder) for encoder in self.ensemble.attacked]
        return like.new_tensor(values)[None, :, None]

    def _similarities(
        self, embedded: Sequence[Tensor], references: Mapping[str, Tensor] | None
    ) -> Tensor | None:
        """[views, recognisers, N]."""
        if references is None:
            return None
        rows = [
            (vectors * references[encoder.name].to(vectors)).sum(-1)
            for vectors, encoder in zip(embedded, self.ensemble.attacked, strict=True)
        ]
        return torch.stack(rows, 1)


def similarities(step: Step, to: Literal["source", "target"]) -> dict[str, float]:
    """What a log entry says of the similarity to the person, or to the target, by recogniser."""
    figures = step.figures.get("identity", {})
    return {k.removeprefix(f"{to} "): v for k, v in figures.items() if k.startswith(f"{to} ")}


def identity_term(
    ensemble: Ensemble,
    identity: Identity,
    source: Tensor,
    view: View,
    *,
    push_away: bool = True,
    find_faces: FaceFinder | None = None,
    goal: Goal | None = None,
    one_batch: bool = True,
) -> IdentityTerm:
    """Embed the references of the identity term.

    Args:
        source: picture of the person [B, 3, H, W].
        view: how recognisers see it.
        push_away: also move away from the person shown where the identity is a target; the published loss
            only pulls, and never looks at the source.
        find_faces: locates the face in identity photos; None takes them whole.
        one_batch: all views at once, or in turn where memory is short.
    """
    ensemble = differentiable_ensemble(ensemble)
    vectors: dict[str, Tensor] = {}
    people: dict[str, Tensor] = {}
    with gradients(), torch.no_grad():
        source = source.detach().clone()
        for encoder in ensemble.attacked:
            faces = view(source, encoder.crop)
            if identity.kind != "untargeted":
                vectors[encoder.name] = torch.stack(
                    [
                        reference_embedding(identity, encoder, face[None], find_faces=find_faces)
                        for face in faces
                    ]
                )
            people[encoder.name] = embed_fixed(encoder, faces)
    away = identity.kind == "untargeted" or push_away
    source_vectors = people if away else None
    return IdentityTerm(ensemble, source_vectors, vectors or None, goal or Goal(), one_batch)


def differentiable_ensemble(ensemble: Ensemble) -> Ensemble:
    """The ensemble with attacked networks that gradients can pass through, copied where they could not."""
    attacked = tuple(replace(e, network=differentiable(e.network)) for e in ensemble.attacked)
    return replace(ensemble, attacked=attacked)

"""From a finished run to its report: measured on the pictures as they will be saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..backends.flux import decode_latent, encode_image
from ..evaluate.likeness import Likeness, likeness_of_faces
from ..evaluate.memory import peak_memory
from ..evaluate.quality import quality
from ..evaluate.report import Pictures, Report
from ..evaluate.similarity import Recognition, Shot, second_shot
from ..evaluate.surroundings import found_anew, measure_face, surroundings
from ..evaluate.transforms import SHARING, autoencoder
from ..faces.alignment import align, whole_frame
from ..faces.face import Face, anew
from ..pictures.face_crop import Patch
from ..pictures.geometry import crop_to, pad_to_multiple
from ..recognition.identity import Identity, reference_embedding
from .models import Models
from .portrait import Job, Outcome


@dataclass(frozen=True, eq=False)
class Finals:
    """Both results as they will be saved, as patches of the photo, and the protected faces in its pixels."""

    edited: Patch
    protected: Patch
    faces: tuple[Face, ...]


def make_report(
    models: Models,
    photo: Tensor,
    job: Job,
    outcome: Outcome,
    finals: Finals,
    *,
    seconds: Mapping[str, float],
    settings: Mapping[str, Any],
    second: Tensor | None = None,
    notes: tuple[str, ...] = (),
) -> tuple[Report, Pictures]:
    """Measure a run: recognisers on the face's surroundings in the photo, closeness at working size.

    Args:
        photo: [1, 3, H, W] in [0, 1].
        second: another photo of the same person [1, 3, H, W].
        settings: further settings to print; paths are cut to names.

    Returns:
        The numbers, and the working-size pictures that illustrate them.
    """
    another, left_out = (
        (None, "") if second is None else second_shot(second.cpu(), models.find_faces)
    )
    source, mask = job.picture.cpu(), (job.mask.cpu() > 0).float()
    edited, protected = outcome.edited.cpu(), outcome.protected.cpu()
    report = Report(
        recognisers=_recognised(models, job, photo, finals, another),
        edit=quality(edited, source, mask),
        protection=quality(protected, edited, torch.maximum(mask, outcome.region.cpu())),
        likeness=_likenesses(photo, finals),
        size=(photo.shape[-2], photo.shape[-1]),
        source_prompt=job.source_prompt,
        prompt=job.prompt,
        identity=describe_identity(job.identity),
        preset=job.preset.name,
        model=models.name,
        settings={
            **preset_settings(job),
            "guidance": models.guidance_of(job.preset),
            **({} if job.found is None else {"edit_region": job.found.told()}),
            **settings,
        },
        evaluations=outcome.evaluations,
        seconds=dict(seconds),
        peak_bytes=_peak_bytes(models.stack.device),
        device=models.stack.device.type,
        notes=notes
        + (("Stopped before the end: this is the best so far.",) * outcome.interrupted)
        + ((left_out,) if left_out else ()),
    )
    return report, Pictures(
        source, edited, protected, job.mask.cpu(), outcome.region.cpu(), job.found
    )


def _likenesses(photo: Tensor, finals: Finals) -> tuple[Likeness, ...]:
    """What the protection did to each face, beside the edit without it, in the photo's own pixels."""
    looks: list[Likeness] = []
    for face in finals.faces:
        left, top, *_ = box = surroundings(face, (photo.shape[-2], photo.shape[-1]))
        edited, protected = (p.within(photo, box) for p in (finals.edited, finals.protected))
        looks += likeness_of_faces(edited, protected, [face.moved(left, top).landmarks])
    return tuple(looks)


def describe_identity(identity: Identity) -> str:
    """The identity in a word; a synthetic one with its seed."""
    return f"synthetic {identity.seed}" if identity.kind == "synthetic" else identity.kind


def preset_settings(job: Job) -> dict[str, Any]:
    """The preset's settings by name, for the report."""
    preset = job.preset
    values = {
        key: value for key, value in preset.__dict__.items() if key not in ("refiner", "name")
    }
    refiner = {k: v for k, v in preset.refiner.__dict__.items() if k != "weight"}
    return {**values, **refiner, "adaptive_weight": dict(preset.refiner.weight.__dict__)}


def _peak_bytes(device: torch.device) -> int:
    """Peak bytes: of the accelerator where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return peak_memory()


def _recognised(
    models: Models, job: Job, photo: Tensor, finals: Finals, second: Shot | None
) -> tuple[Recognition, ...]:
    """What every recogniser says of every protected face; of several faces, named by number."""
    found: list[Recognition] = []
    transforms = (*SHARING, autoencoder(*_codec(models)))
    attacked = models.ensemble.attacked
    members = [(encoder, encoder in attacked) for encoder in models.ensemble.members]
    # Boxes typed for the whole photo say nothing about a part of it, and find nothing anew.
    finder = anew(models.find_faces)
    for number, face in enumerate(finals.faces):
        box = surroundings(face, (photo.shape[-2], photo.shape[-1]))
        left, top, right, bottom = box
        original = photo[..., top:bottom, left:right]
        known = face.moved(left, top)
        results = measure_face(
            members,
            (original, finals.edited.within(photo, box), finals.protected.within(photo, box)),
            known,
            finder,
            second=second,
            targets=_targets(models, job.identity, found_anew(original, known, finder)),
            transforms=transforms,
        )
        several = len(finals.faces) > 1
        found += (replace(r, name=f"{r.name}, face {number}") if several else r for r in results)
    return tuple(found)


def _targets(models: Models, identity: Identity, source: Shot) -> dict[str, Tensor] | None:
    if identity.kind == "untargeted":
        return None
    vectors = {}
    for encoder in models.ensemble.members:
        if source.landmarks is None:
            crop = whole_frame(source.batch(), encoder.crop)
        else:
            crop = align(source.batch(), source.landmarks[None], encoder.crop)
        vectors[encoder.name] = reference_embedding(
            identity, encoder, crop, find_faces=models.find_faces
        )
    return vectors


def _codec(models: Models) -> tuple[Any, Any]:
    vae, device = models.stack.vae, models.stack.device
    side = models.stack.geometry.pixels_per_token

    @torch.no_grad()
    def encode(picture: Tensor) -> tuple[Tensor, tuple[int, int]]:
        size = (picture.shape[-2], picture.shape[-1])
        return encode_image(vae, pad_to_multiple(picture, side).to(device)), size

    @torch.no_grad()
    def decode(coded: tuple[Tensor, tuple[int, int]]) -> Tensor:
        return crop_to(decode_latent(vae, coded[0]), coded[1]).cpu()

    return encode, decode

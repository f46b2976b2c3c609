"""From a finished run to its report: measured on the pictures as they will be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..backends.flux import decode_latent, encode_image
from ..evaluate.memory import peak_memory
from ..evaluate.quality import quality
from ..evaluate.report import Pictures, Report
from ..evaluate.similarity import Recognition, Shot, measure, second_shot
from ..evaluate.transforms import SHARING, autoencoder
from ..faces.alignment import align, whole_frame
from ..faces.face import Face, FaceFinder, nearest
from ..pictures.geometry import crop_to, pad_to_multiple
from ..recognition.identity import Identity, reference_embedding
from .photo import Job, Models, Outcome, edit_guidance


@dataclass(frozen=True, eq=False)
class Finals:
    """Pictures [1, 3, H, W] at the photo's own size, as they will be saved, and the protected faces."""

    original: Tensor
    edited: Tensor
    protected: Tensor
    face: Face
    others: tuple[Face, ...] = ()


def make_report(
    models: Models,
    job: Job,
    outcome: Outcome,
    finals: Finals,
    *,
    seconds: Mapping[str, float],
    settings: Mapping[str, Any],
    second: Tensor | None = None,
    notes: tuple[str, ...] = (),
) -> tuple[Report, Pictures]:
    """Measure a run.

    Args:
        second: another photo of the same person [1, 3, H, W].
        settings: further settings to print; paths are cut to names.

    Returns:
        The numbers, and the working-size pictures that illustrate them.
    """
    cpu = [picture.cpu() for picture in (finals.original, finals.edited, finals.protected)]
    another, left_out = (
        (None, "") if second is None else second_shot(second.cpu(), models.find_faces)
    )
    recognisers = _recognised(models, job, cpu, (finals.face, *finals.others), another)
    touched = torch.maximum(job.mask.cpu() > 0, outcome.region.cpu() > 0).float()
    edited, protected = outcome.edited.cpu(), outcome.protected.cpu()
    report = Report(
        recognisers=recognisers,
        edit=quality(edited, outcome.reconstruction.cpu(), (job.mask.cpu() > 0).float()),
        edit_against="the source through the autoencoder",
        protection=quality(protected, edited, touched),
        size=(cpu[0].shape[-2], cpu[0].shape[-1]),
        source_prompt=job.source_prompt,
        prompt=job.prompt,
        identity=describe_identity(job.identity),
        preset=job.preset.name,
        model=models.name,
        settings={
            **preset_settings(job),
            "guidance": edit_guidance(models, job.preset),
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
    pictures = Pictures(job.picture.cpu(), edited, protected, job.mask.cpu(), outcome.region.cpu())
    return report, pictures


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
    models: Models,
    job: Job,
    pictures: Sequence[Tensor],
    faces: Sequence[Face],
    second: Shot | None,
) -> tuple[Recognition, ...]:
    """What every recogniser says of every protected face; of several faces, named by number."""
    found: list[Recognition] = []
    transforms = (*SHARING, autoencoder(*_codec(models)))
    for number, face in enumerate(faces):
        shots = [_shot(models.find_faces, picture, face) for picture in pictures]
        results = measure(
            models.ensemble,
            *shots,
            second=second,
            targets=_targets(models, job.identity, shots[0]),
            transforms=transforms,
        )
        several = len(faces) > 1
        found += (replace(r, name=f"{r.name}, face {number}") if several else r for r in results)
    return tuple(found)


def _shot(find: FaceFinder, picture: Tensor, known: Face) -> Shot:
    """The picture with its landmarks found anew, as a stranger would meet it.

    A face that is no longer found is looked at where it was.
    """
    return Shot(picture, (nearest(find(picture[0]), known) or known).landmarks)


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

"""From a finished run to its report: measured on the pictures as they will be saved."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .diffusers_backend import decode_latent, encode_image
from .evaluate.quality import quality
from .evaluate.report import Pictures, Report
from .evaluate.similarity import Shot, measure
from .evaluate.transforms import SHARING, autoencoder
from .picture import crop_to, pad_to_multiple
from .portrait import Job, Models, Outcome, edit_guidance
from .recognition.alignment import align, whole_frame
from .recognition.faces import Face, FaceFinder
from .recognition.identity import Identity, reference_embedding


@dataclass(frozen=True, eq=False)
class Finals:
    """Pictures [1, 3, H, W] at the photo's own size, as they will be saved."""

    original: Tensor
    edited: Tensor
    protected: Tensor
    face: Face


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
    cpu = Finals(finals.original.cpu(), finals.edited.cpu(), finals.protected.cpu(), finals.face)
    shots = [
        _shot(models.find_faces, p, cpu.face) for p in (cpu.original, cpu.edited, cpu.protected)
    ]
    other = None if second is None else _shot(models.find_faces, second.cpu(), None)
    transforms = (*SHARING, autoencoder(*_codec(models)))
    recognisers = measure(
        models.ensemble,
        *shots,
        second=other,
        targets=_targets(models, job.identity, shots[0]),
        transforms=transforms,
    )
    touched = torch.maximum(job.mask.cpu() > 0, outcome.region.cpu() > 0).float()
    edited, protected = outcome.edited.cpu(), outcome.protected.cpu()
    report = Report(
        recognisers=recognisers,
        edit=quality(edited, outcome.reconstruction.cpu(), (job.mask.cpu() > 0).float()),
        protection=quality(protected, edited, touched),
        size=(cpu.original.shape[-2], cpu.original.shape[-1]),
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
        peak_bytes=peak_memory(models.stack.device),
        device=models.stack.device.type,
        notes=notes + (("Stopped before the end: this is the best so far.",) * outcome.interrupted),
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


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the accelerator where there is one, else of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _shot(find: FaceFinder, picture: Tensor, fallback: Face | None) -> Shot:
    """The picture with its landmarks found anew, as a stranger would meet it."""
    faces = find(picture[0])
    face = faces[0] if faces else fallback
    return Shot(picture, None if face is None else face.landmarks)


def _targets(models: Models, identity: Identity, source: Shot) -> dict[str, Tensor] | None:
    if identity.kind == "untargeted":
        return None
    vectors = {}
    for encoder in models.ensemble.members:
        if source.landmarks is None:
            crop = whole_frame(source.batch(), encoder.size)
        else:
            crop = align(source.batch(), source.landmarks[None], encoder.size)
        vectors[encoder.name] = reference_embedding(
            identity, encoder, crop, find_faces=models.find_faces
        )
    return vectors


def _codec(models: Models) -> tuple[Any, Any]:
    vae, device = models.stack.vae, models.stack.device

    @torch.no_grad()
    def encode(picture: Tensor) -> tuple[Tensor, tuple[int, int]]:
        size = (picture.shape[-2], picture.shape[-1])
        return encode_image(vae, pad_to_multiple(picture).to(device)), size

    @torch.no_grad()
    def decode(coded: tuple[Tensor, tuple[int, int]]) -> Tensor:
        return crop_to(decode_latent(vae, coded[0]), coded[1]).cpu()

    return encode, decode

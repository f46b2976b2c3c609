"""What a shield will cost, told before it starts: passes through networks, and memory, from sizes alone."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from ..defences.cloning import CloneShield
from ..defences.costs import ENCODER_BYTES_PER_PIXEL, Passes, edit_passes, training_passes
from ..defences.edits import EditShield
from ..defences.training import TrainingShield
from .cost import megabytes
from .shield_job import Job
from .sources import is_miniature


def told_edits(args: argparse.Namespace, shield: EditShield, job: Job) -> list[str]:
    """Lines on a shield against edits."""
    size = _size(job)
    return [
        f"pictures           {len(job.to_do)}",
        f"preset             {shield.name}: {_terms(shield)}, {shield.steps} steps",
        f"budget             {255 * shield.budget:.0f} of 255, {shield.smooth:.0%} of it on smooth places",
        *_passes(edit_passes(shield, size)),
        *_memory(args, min(size[0] * size[1], shield.tile**2), shield.needs_way_back),
    ]


def told_training(args: argparse.Namespace, shield: TrainingShield, job: Job) -> list[str]:
    """Lines on a shield against training."""
    size = _size(job)
    return [
        f"pictures           {len(job.to_do)}, shielded together",
        f"preset             {args.preset}: {shield.epochs} rounds",
        f"budget             {255 * shield.budget:.0f} of 255",
        *_passes(training_passes(shield, len(job.to_do))),
        *_memory(args, min(size[0] * size[1], shield.pixels), shield.backward),
    ]


def told_cloning(args: argparse.Namespace, shield: CloneShield, job: Job) -> list[str]:
    """Lines on a shield against cloning."""
    attacked = len(args.recogniser) or "the miniature's"
    return [
        f"pictures           {len(job.to_do)}",
        f"recognisers        {attacked}, each at most {shield.steps * (1 + shield.views)} times forward and back a face",
        f"budget             {255 * shield.budget:.0f} of 255 inside the face",
        f"until              every attacked one sees less than {shield.limit:g}",
        "memory             that of the recognisers, no FLUX is needed",
    ]


def _terms(shield: EditShield) -> str:
    parts: list[str] = [*shield.terms]
    parts += ["flat minima (FDM)"] if shield.flat else []
    parts += ["dynamic prompt (DPD)"] if shield.dynamic else []
    return ", ".join(parts)


def _size(job: Job) -> tuple[int, int]:
    sizes = [item.size for item in job.to_do if item.size is not None]
    return max(sizes, key=lambda size: size[0] * size[1], default=(512, 512))


def _passes(passes: Passes) -> list[str]:
    return [
        f"autoencoder        {passes.autoencoder} times forward and back a picture",
        f"transformer        {passes.forward} times forward, {passes.back} times forward and back a picture",
    ]


def _memory(args: argparse.Namespace, pixels: int, way_back: bool) -> list[str]:
    weights = sum(path.stat().st_size for path in _weights(args))
    total = weights + pixels * ENCODER_BYTES_PER_PIXEL
    extra = ", and what the transformer's way back keeps" if way_back else ""
    return [f"memory, estimated  {megabytes(total)}{extra}"]


def _weights(args: argparse.Namespace) -> Iterable[Path]:
    """The files that hold the weights."""
    if getattr(args, "autoencoder", None):
        return [Path(args.autoencoder)]
    if is_miniature(args):
        from ..mini.world import weights_path

        return [weights_path(part) for part in ("vae", "flux", "text")]
    if args.model:
        return Path(args.model).rglob("*.safetensors")
    return [Path(p) for p in (args.transformer, args.vae) if p and Path(p).is_file()]

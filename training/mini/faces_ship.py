"""From a trained face network to its shipped file: rounded, measured, written with a model card."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from fluxguard_core.mini.faces import classify_with, find_with, parse_with, weights_path
from fluxguard_core.mini.renderer import LABEL_NAMES
from fluxguard_core.recognition.encoder import FaceEncoder
from fluxguard_core.recognition.thresholds import list_thresholds

from .cache import PortraitCache
from .faces_quality import measure_attributes, measure_finder, measure_parser
from .faces_recognisers import RECIPES, verify
from .handover import write_card
from .training import TrainPlan

_LIMITS = (
    "It knows the renderer's portraits and pictures edited from them, nothing else: it is a "
    "stand-in for tests and demonstrations and says nothing about real faces."
)


@dataclass(frozen=True, eq=False)
class Trained:
    """A run that has ended.

    Args:
        samples: pictures that the network has seen, repetitions counted.
        seed: of initialisation and batches.
        held_out: portraits to measure on.
    """

    plan: TrainPlan
    samples: int
    seed: int
    held_out: PortraitCache


def round_to_half(network: nn.Module) -> None:
    """Round weights to float16, so that what is measured is what is shipped."""
    state = network.state_dict()
    rounded = {k: v.half().float() if v.is_floating_point() else v for k, v in state.items()}
    network.load_state_dict(rounded)
    network.eval().requires_grad_(False)


def write_weights(path: Path, network: nn.Module, metadata: dict[str, str]) -> Path:
    """Save float16 tensors with metadata (all strings), atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    part = path.with_suffix(".part")
    save_file(state, part, {"licence": "Apache-2.0", **metadata})
    part.chmod(0o644)
    part.replace(path)
    return path


def _data(run: Trained) -> str:
    shown, judged = run.plan.portraits, run.held_out.plan
    return (
        f"Portraits drawn by the miniature's own renderer: {shown.identities} invented people, {shown.shots} "
        f"pictures each, {shown.size}x{shown.size}; no photograph of anybody. Measured on "
        f"{judged.identities} people that no network was trained on."
    )


def _place(device: str) -> str:
    threads = torch.get_num_threads()
    return f"{threads} CPU thread{'s' if threads > 1 else ''}" if device == "cpu" else device


def _card(path: Path, title: str, run: Trained, quality: list[str]) -> None:
    """Write the model card beside the file, and say how both are shipped."""
    size = path.stat().st_size / 1e6
    text = [
        f"# {path.stem}",
        "",
        title,
        "",
        f"- File: {path.name}, float16 safetensors, {size:.2f} MB",
        f"- Data: {_data(run)}",
        f"- Training: {run.samples} samples, seed {run.seed}, AdamW with warm-up and cosine, "
        f"{_place(run.plan.device)}",
        *(f"- {line}" for line in quality),
        f"- Limits: {_LIMITS}",
        "- Licence: Apache-2.0",
    ]
    write_card(path, text, "faces")


def _origin(run: Trained) -> dict[str, str]:
    return {"samples": str(run.samples), "seed": str(run.seed)}


def finish_recogniser(name: str, network: nn.Module, run: Trained) -> Path:
    """Measure, write with thresholds in the metadata, describe."""
    recipe = RECIPES[name]
    result = verify(FaceEncoder(name, network, recipe.size), run.held_out)
    metadata = {
        "name": f"mini-{name}",
        "size": str(recipe.size),
        "world": "drawn",
        "thresholds": json.dumps(list_thresholds(result.thresholds)),
        "strangers": json.dumps(asdict(result.apart)),
        **_origin(run),
        "accept": json.dumps([round(v, 4) for v in result.accept]),
    }
    path = write_weights(run.plan.out / weights_path(name).name, network, metadata)
    loose, strict = result.thresholds
    quality = [
        f"Input: crop aligned to the ArcFace template, {recipe.size}x{recipe.size}, RGB, 2x - 1",
        f"Thresholds (cosine): {loose.value:.4f} at FAR 1e-2, {strict.value:.4f} at FAR 1e-3",
        f"True accept rate, across attributes, pose and light: {result.accept[0]:.4f} at FAR 1e-2 "
        f"(false accepts measured {result.false[0]:.4f}), {result.accept[1]:.4f} at FAR 1e-3 "
        f"(measured {result.false[1]:.5f}); thresholds and rates on different people",
        f"After blur, noise, JPEG or softening: {result.degraded:.4f} at FAR 1e-2",
        f"Mean cosine: {result.genuine:.3f} same person, {result.strangers:.3f} strangers; spread of the "
        f"strangers {result.apart.spread:.3f} ({result.apart.pairs} pairs)",
    ]
    title = f"Face recogniser of the miniature world, {type(network).__name__} family."
    _card(path, title, run, quality)
    return path


def finish_landmarks(network: nn.Module, run: Trained) -> Path:
    """Measure as a finder, write, describe."""
    result = measure_finder(partial(find_with, network), run.held_out)
    metadata = {**_origin(run), "quality": json.dumps(asdict(result))}
    path = write_weights(run.plan.out / weights_path("landmarks").name, network, metadata)
    quality = [
        f"Mean point error: {result.error:.2f} pixels of 128 (95 % of portraits below "
        f"{result.error95:.2f}), {result.degraded:.2f} after blur, noise or JPEG, "
        f"{result.warped:.2f} on turned, shifted and zoomed portraits",
        f"Faces found: {result.found:.3f} of portraits, {result.found_warped:.3f} of warped ones; "
        f"a face claimed in {result.false:.3f} of pictures without one",
    ]
    _card(path, "Face finder of the miniature world: five points and a score.", run, quality)
    return path


def finish_parser(network: nn.Module, run: Trained) -> Path:
    """Measure, write, describe."""
    mean, ious, accuracy = measure_parser(partial(parse_with, network), run.held_out)
    metadata = {**_origin(run), "miou": f"{mean:.4f}"}
    path = write_weights(run.plan.out / weights_path("parser").name, network, metadata)
    cells = [f"{n} {v:.2f}" for n, v in zip(LABEL_NAMES, ious, strict=True) if v is not None]
    quality = [
        f"Mean IoU over the classes that occur: {mean:.3f}; pixel accuracy {accuracy:.4f}",
        f"IoU by class: {', '.join(cells)}",
    ]
    title = "Face parser of the miniature world: the 19 CelebAMask-HQ classes."
    _card(path, title, run, quality)
    return path


def finish_attributes(network: nn.Module, run: Trained) -> Path:
    """Measure, write, describe."""
    classify = partial(classify_with, network)
    clean = measure_attributes(classify, run.held_out)
    worn = measure_attributes(classify, run.held_out, degraded=True)
    metadata = {**_origin(run), "accuracy": json.dumps(clean)}
    path = write_weights(run.plan.out / weights_path("attributes").name, network, metadata)
    cells = [f"{name} {value:.3f} ({worn[name]:.3f})" for name, value in clean.items()]
    quality = [
        f"Right answers (after blur, noise or JPEG): {', '.join(cells)}",
        f"Mean: {sum(clean.values()) / len(clean):.4f}",
    ]
    _card(path, "Attribute classifier of the miniature world.", run, quality)
    return path

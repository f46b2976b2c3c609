"""What a run will cost, from the files' headers alone."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ..backends.flux_keys import HEAD_DIM
from ..backends.geometry import FLUX
from ..errors import FluxGuardError
from ..flow import Layout, Storage, estimate_bytes
from ..flow.controls import paper_injection
from ..pipelines.portrait import planned_evaluations
from ..protect.presets import PhotoPreset, Preset
from .sources import DTYPES, is_miniature

# Activations of the full decoder that one differentiable decode holds, in bytes a pixel, reckoned from its
# widest level: six tensors of 256 channels at full size, in float32.
_DECODER_BYTES_PER_PIXEL = 4 * 256 * 6
_TEXT_TOKENS = 512
MINIATURE = 128


@dataclass(frozen=True)
class Cost:
    """Figures of one picture; bytes are estimates except the cache's."""

    working_size: tuple[int, int]
    evaluations: dict[str, int]
    decoder_passes: int
    cache_bytes: int
    weights_bytes: int
    memory_bytes: int


def cost_of(
    preset: Preset,
    size: tuple[int, int],
    layout: Layout,
    weights_bytes: int,
    *,
    dtype: torch.dtype = torch.bfloat16,
    storage: Storage | None = None,
) -> Cost:
    """What one picture of ``size`` = (height, width) takes."""
    height, width = FLUX.padded(*size)
    tokens = FLUX.tokens(height, width)
    # Room for the larger of the two published choices: the mask's coverage is not known yet.
    intervals = paper_injection(preset.intervals, 1.0)
    cache = estimate_bytes(
        (1, FLUX.channels, *FLUX.grid(height, width)),
        intervals=preset.intervals,
        solver=preset.solver,
        tokens=tokens + (_TEXT_TOKENS if preset.tokens == "all" else 0),
        width=layout.width,
        value_intervals=intervals if preset.injected is None else preset.injected,
        blocks=len(layout.structure),
        velocity_storage=Storage(),
        value_storage=storage or Storage(),
        dtype=dtype,
    )
    return Cost(
        working_size=(height, width),
        evaluations=planned_evaluations(preset),
        decoder_passes=preset.attacked * preset.refiner.descent.iterates,
        cache_bytes=cache,
        weights_bytes=weights_bytes,
        memory_bytes=weights_bytes + cache + height * width * _DECODER_BYTES_PER_PIXEL,
    )


def tell_cost(
    args: argparse.Namespace, preset: Preset, picture: tuple[int, int] | None, photos: int
) -> None:
    """Print what ``photos`` pictures take, the first of which has ``picture`` = (height, width) pixels."""
    limit = args.size or (MINIATURE if is_miniature(args) else 512)
    size = picture if picture is not None and max(picture) <= limit else (limit, limit)
    layout, weights = _facts(args)
    dtype = DTYPES[args.dtype or ("float32" if is_miniature(args) else "bfloat16")]
    storage = Storage(format=args.cache_format)
    cost = cost_of(preset, size, layout, weights, dtype=dtype, storage=storage)
    total = sum(cost.evaluations.values())
    print(f"pictures           {photos}")
    print(f"preset             {preset.name}: {preset.solver}, {preset.intervals} intervals")
    print(f"working size       {cost.working_size[1]} x {cost.working_size[0]} pixels")
    phases = ", ".join(f"{name} {count}" for name, count in cost.evaluations.items())
    print(f"evaluations        {total} a picture ({phases})")
    print(f"decoder passes     at most {cost.decoder_passes} a picture, forward and back")
    print(f"velocity and value cache  at most {megabytes(cost.cache_bytes)} a picture")
    print(f"weights            {megabytes(cost.weights_bytes)}")
    print(f"memory, estimated  {megabytes(cost.memory_bytes)}")


def tell_photo_cost(args: argparse.Namespace, preset: PhotoPreset, photos: int) -> None:
    """Print what ``photos`` pictures without an edit take."""
    space = "pixels and latent" if args.autoencoder else "pixels"
    print(f"pictures           {photos}, without an edit")
    print(f"preset             {preset.name}: {preset.steps} steps a face in {space}")
    print(f"recognisers        {', '.join(args.recogniser)}, {preset.views} views a step")
    print(f"only judging       {', '.join(args.hold_out) or 'none: give one with --hold-out'}")


def _facts(args: argparse.Namespace) -> tuple[Layout, int]:
    """Layout and bytes of the weights, without loading them."""
    if is_miniature(args):
        from ..mini.world import weights_folder, weights_path

        return _header_layout(weights_path("flux")), _folder_bytes(weights_folder())
    if args.model is not None:
        folder = Path(args.model)
        config = folder / "transformer" / "config.json"
        if not config.is_file():
            raise FluxGuardError(
                f"Expected a diffusers FLUX folder with transformer/config.json, got '{folder.name}'."
            )
        return _config_layout(json.loads(config.read_text(encoding="utf-8"))), _folder_bytes(folder)
    files = [Path(path) for path in (args.transformer, args.vae) if path]
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise FluxGuardError(f"There is no file {missing[0].name}. Check its name and folder.")
    return _header_layout(files[0]), sum(path.stat().st_size for path in files)


def _config_layout(config: dict[str, Any]) -> Layout:
    width = config["num_attention_heads"] * config.get("attention_head_dim", HEAD_DIM)
    singles = config["num_single_layers"]
    structure = FLUX.structure_blocks(singles)
    return Layout("flux", config["num_layers"], singles, width, structure=structure)


def _header_layout(path: Path) -> Layout:
    with safe_open(str(path), framework="pt") as file:
        keys = list(file.keys())
        embedder = next((key for key in keys if key.endswith("img_in.weight")), None)
        if embedder is None:
            raise FluxGuardError(f"{path.name} is not a FLUX.1 transformer. Choose another file.")
        width = file.get_slice(embedder).get_shape()[0]
    double = {
        key.split("double_blocks.")[1].split(".")[0] for key in keys if "double_blocks." in key
    }
    single = {
        key.split("single_blocks.")[1].split(".")[0] for key in keys if "single_blocks." in key
    }
    structure = FLUX.structure_blocks(len(single))
    return Layout("flux", len(double), len(single), width, structure=structure)


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def megabytes(count: int) -> str:
    """A size in bytes for people."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"

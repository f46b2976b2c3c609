"""A trajectory as one safetensors file, reusable for many prompts."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import FluxGuardError
from .field import Block, BlockKind, Layout
from .recipe import Recipe
from .solvers import solver_named
from .storage import Stored
from .trajectory import Trajectory, ValueKey

FORMAT = "fluxguard-trajectory-2"
_SCALE = ".scale"


def save_trajectory(trajectory: Trajectory, path: str | Path) -> None:
    """Write ``trajectory`` to ``path``; an interrupted write leaves no file there."""
    if trajectory.source.is_cuda:
        torch.cuda.synchronize()  # pinned copies may still be under way
    tensors = {
        "sigmas": trajectory.sigmas,
        "source": trajectory.source,
        "terminal": trajectory.terminal,
    }
    dtypes: dict[str, str] = {}

    def put(name: str, stored: Stored) -> None:
        tensors[name] = stored.data
        dtypes[name] = str(stored.dtype).removeprefix("torch.")
        if stored.scale is not None:
            tensors[name + _SCALE] = stored.scale.reshape(1)

    shared: dict[int, str] = {}  # FireFlow's handed-on velocities are written once
    velocity_names = []
    for i, stages in enumerate(trajectory.velocities):
        for s, stored in enumerate(stages):
            name = shared.setdefault(id(stored), f"velocity.{i}.{s}")
            velocity_names.append(name)
            put(name, stored)
    for (interval, stage, block), stored in trajectory.values.items():
        put(f"value.{interval}.{stage}.{block.kind}.{block.index}", stored)
    about = {
        "solver": trajectory.solver,
        "text_tokens": trajectory.text_tokens,
        "layout": asdict(trajectory.layout),
        "recipe": asdict(trajectory.recipe),
        "velocities": velocity_names,
        "dtypes": dtypes,
    }
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        cpu = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
        save_file(cpu, partial, metadata={"format": FORMAT, "about": json.dumps(about)})
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        raise FluxGuardError(
            f"Could not write the trajectory {path.name} ({error}).",
            "Check the folder and the free space.",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def load_trajectory(path: str | Path, device: str | torch.device = "cpu") -> Trajectory:
    """Read a trajectory; its records stay in ordinary memory, its latents go to ``device``.

    Raises:
        FluxGuardError: missing, truncated or foreign file.
    """
    name = Path(path).name
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise FluxGuardError(
                    f"{name} is not a FluxGuard trajectory (expected format {FORMAT}, got "
                    f"{metadata.get('format')}).",
                    "Choose a file that FluxGuard saved.",
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        return _assemble(json.loads(metadata["about"]), tensors, torch.device(device))
    except FileNotFoundError as error:
        raise FluxGuardError(
            f"There is no trajectory file {name}.", "Check its name and folder."
        ) from error
    except (SafetensorError, KeyError, ValueError, TypeError, OSError) as error:
        raise FluxGuardError(
            f"{name} is damaged or cut short ({error}).", "Run the inversion again."
        ) from error


def _assemble(about: Mapping, tensors: Mapping[str, Tensor], device: torch.device) -> Trajectory:
    def get(name: str) -> Stored:
        scale = tensors.get(name + _SCALE)
        dtype = getattr(torch, about["dtypes"][name])
        return Stored(tensors[name], None if scale is None else scale[0], dtype)

    stages = solver_named(about["solver"]).stages
    loaded = {name: get(name) for name in dict.fromkeys(about["velocities"])}
    flat = [loaded[name] for name in about["velocities"]]
    values: dict[ValueKey, Stored] = {}
    for key in tensors:
        if key.startswith("value.") and not key.endswith(_SCALE):
            _, interval, stage, kind, index = key.split(".")
            values[int(interval), int(stage), Block(_kind(kind), int(index))] = get(key)
    return Trajectory(
        sigmas=tensors["sigmas"],
        source=tensors["source"].to(device),
        terminal=tensors["terminal"].to(device),
        velocities=tuple(tuple(flat[i : i + stages]) for i in range(0, len(flat), stages)),
        values=MappingProxyType(values),
        text_tokens=int(about["text_tokens"]),
        solver=about["solver"],
        layout=_layout(about["layout"]),
        recipe=Recipe(**about["recipe"]),
    )


def _layout(about: Mapping) -> Layout:
    structure = tuple(Block(_kind(b["kind"]), int(b["index"])) for b in about.get("structure", ()))
    return Layout(**{**about, "structure": structure})


def _kind(name: str) -> BlockKind:
    if name == "single":
        return "single"
    if name == "double":
        return "double"
    raise ValueError(f"unknown block kind '{name}'")

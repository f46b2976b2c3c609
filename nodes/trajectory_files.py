"""An inversion as a file: invert once, edit on another day."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Trajectory, load_trajectory, save_trajectory
from . import folders, host
from .node import Node
from .wires import CATEGORY, TrajectoryWire

SUFFIX = ".trajectory.safetensors"
_MODELS = " [models]"
_SETTLED = 10.0  # seconds; some file systems count a folder's changes no finer than two seconds


def trajectory_files() -> list[str]:
    """Saved trajectories, the newest first, marked by where they lie: [output], [input] or [models]."""
    found: list[tuple[float, str]] = []
    for kind, folder in (
        ("output", folder_paths.get_output_directory()),
        ("input", folder_paths.get_input_directory()),
    ):
        for path in _below(folder):
            try:
                written = os.stat(path).st_mtime
            except OSError:  # deleted meanwhile, or a link to nothing
                continue
            found.append((-written, f"{Path(path).relative_to(folder).as_posix()} [{kind}]"))
    for name in folders.files_in(folders.TRAJECTORIES):
        kept = folders.file_in(folders.TRAJECTORIES, name)
        if kept is not None and _is_trajectory(name):
            found.append((-kept.stat().st_mtime, f"{Path(name).as_posix()}{_MODELS}"))
    return [name for _, name in sorted(found)]


def trajectory_file(name: str) -> Path | None:
    """Where a file of the list lies; None where it is there no more."""
    if name.endswith(_MODELS):
        return folders.file_in(folders.TRAJECTORIES, name.removesuffix(_MODELS))
    if not folder_paths.exists_annotated_filepath(name):
        return None
    return Path(folder_paths.get_annotated_filepath(name))


def _is_trajectory(name: str) -> bool:
    return name.lower().endswith(SUFFIX)


def _below(folder: str) -> Iterator[str]:
    """Trajectories in a folder and the folders in it, since the prefix of Save Trajectory may hold any folders.

    The schema is asked for often, and there may be thousands of pictures: a folder that has not changed is not
    read again.
    """
    try:
        changed = os.stat(folder).st_mtime_ns
        settled = time.time_ns() - changed > _SETTLED * 1e9
        files, deeper = (_entries if settled else _entries.__wrapped__)(folder, changed)
    except OSError:
        return
    yield from files
    for inner in deeper:
        yield from _below(inner)


@lru_cache(maxsize=4096)
def _entries(folder: str, changed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Paths of trajectories and of folders in a folder as it was when it ``changed``."""
    del changed
    with os.scandir(folder) as entries:
        seen = [(entry.path, entry.is_dir(follow_symlinks=False)) for entry in entries]
    files = tuple(path for path, is_folder in seen if not is_folder and _is_trajectory(path))
    return files, tuple(path for path, is_folder in seen if is_folder)


class SaveTrajectory(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_SaveTrajectory",
            display_name="Save Trajectory",
            category=CATEGORY,
            description="Writes an inversion to the output folder as safetensors.",
            is_output_node=True,
            inputs=[
                TrajectoryWire.Input("trajectory", tooltip="From RF Inversion."),
                io.String.Input(
                    "filename_prefix",
                    default="fluxguard/trajectory",
                    tooltip="Name in the output folder; may hold folders.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, trajectory: Trajectory, filename_prefix: str) -> io.NodeOutput:
        folder, name, counter, _, _ = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        path = Path(folder) / f"{name}_{counter:05}{SUFFIX}"
        while path.exists():
            counter += 1
            path = Path(folder) / f"{name}_{counter:05}{SUFFIX}"
        with host.ordinary_tensors():
            save_trajectory(trajectory, path)
        return io.NodeOutput(
            ui=ui.PreviewText(f"{path.name}, {path.stat().st_size / 2**20:.1f} MB")
        )


class LoadTrajectory(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_LoadTrajectory",
            display_name="Load Trajectory",
            category=CATEGORY,
            description="Reads an inversion that Save Trajectory wrote.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=trajectory_files(),
                    tooltip="A file in the output or input folder. Press R to refresh the list.",
                ),
            ],
            outputs=[
                TrajectoryWire.Output(
                    display_name="trajectory",
                    tooltip="For the edit nodes; it must meet the MODEL that made it.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str) -> bool | str:
        if trajectory_file(file) is None:
            return f"There is no trajectory {file}. Save one with Save Trajectory, then press R and choose it."
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str) -> Any:
        path = trajectory_file(file)
        stat = None if path is None else path.stat()
        return f"{file} {stat and (stat.st_size, stat.st_mtime_ns)}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = trajectory_file(file)
        if path is None:
            raise FluxGuardError(f"There is no trajectory {file}. Choose another one.")
        with host.ordinary_tensors():
            return io.NodeOutput(load_trajectory(path))

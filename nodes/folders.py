"""Model folders through the host's own helpers: its models folder, extra_model_paths.yaml, and folders in them.

The miniature's files appear in the stock loaders; our own roles have folders of their own, by their names in
a models folder (fluxguard/recognisers).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import folder_paths

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.mini.world import weights_folder
from ..fluxguard_core.weights import find, load_manifest, require, search_roots
from ..fluxguard_core.weights.where import RECOGNISERS

TRAJECTORIES = "fluxguard/trajectories"
ATTRIBUTES = "fluxguard/attributes"
CLOAKS = "fluxguard/cloaks"
_STOCK_FOLDERS = ("diffusion_models", "vae", "loras")
_SUFFIXES = {".safetensors", ".pth", ".pt", ".onnx"}


def register_folders() -> None:
    """Make the shipped fluxguard-mini-* files visible to the stock loaders, and our folders known to the host."""
    for name in _STOCK_FOLDERS:
        folder_paths.add_model_folder_path(name, str(weights_folder() / name))
    for name, suffixes in (
        (RECOGNISERS, _SUFFIXES),
        (TRAJECTORIES, {".safetensors"}),
        (ATTRIBUTES, _SUFFIXES - {".onnx"}),
        (CLOAKS, {".safetensors"}),
    ):
        ours = [root / name for root in model_roots()]
        found = dict.fromkeys(map(str, (*ours, *_host_folders(name))))
        folder_paths.folder_names_and_paths[name] = (list(found), suffixes)


def model_roots() -> tuple[Path, ...]:
    """Models folders in which weight files are looked for, the running host's included."""
    return search_roots((Path(folder_paths.models_dir),))


def installed(model_id: str) -> Path | None:
    """The file of a manifest entry, or None where it is not installed."""
    return find(load_manifest()[model_id], model_roots(), _named(model_id))


def required(model_id: str) -> Path:
    """The file of a manifest entry, or an error that says where to get it and where it goes."""
    return require(load_manifest()[model_id], model_roots(), _named(model_id))


def recogniser_choices() -> list[str]:
    """Recognisers of the manifest, then the user's own files in fluxguard/recognisers, however deep."""
    known = [
        entry.id
        for entry in load_manifest().entries
        if entry.role == "recogniser" and entry.package_path is None
    ]
    offered = {installed(name) for name in known}
    places = {name: file_in(RECOGNISERS, name) for name in files_in(RECOGNISERS)}
    own = [name for name, path in places.items() if path is not None and path not in offered]
    return [*known, *own]


def recogniser_file(choice: str) -> Path:
    """The file of a recogniser chosen in the list."""
    if any(choice == entry.id for entry in load_manifest().entries):
        return required(choice)
    path = file_in(RECOGNISERS, choice) if choice in files_in(RECOGNISERS) else None
    if path is None:
        raise FluxGuardError(
            f"There is no recogniser '{choice}'. Put its file into models/{RECOGNISERS}, reload the page, and choose "
            "it again."
        )
    return path


def files_in(folder: str) -> list[str]:
    """Files of a folder that the host knows by name, wherever it lies, with the folders they are in."""
    try:
        names = folder_paths.get_filename_list(folder)
    except OSError:  # a folder that the host remembers was deleted meanwhile
        folder_paths.filename_list_cache.pop(folder, None)
        names = folder_paths.get_filename_list(folder)
    return [name for name in names if not Path(name).name.startswith(".")]


def file_in(folder: str, name: str) -> Path | None:
    """Where a file of such a folder lies; None for a link to nothing and for what is not there."""
    path = folder_paths.get_full_path(folder, name)
    return None if path is None else Path(path)


def _named(model_id: str) -> dict[str, list[Path]]:
    entry = load_manifest()[model_id]
    return {name: _host_folders(name) for name in {entry.folder, RECOGNISERS}}


def _host_folders(name: str) -> list[Path]:
    """Where the host looks for a folder of this name: registered as it is, or as the first part of it."""
    whole = PurePosixPath(name)
    parts = (whole, *(parent for parent in whole.parents if parent.name))
    return [
        Path(folder) / whole.relative_to(part)
        for part in parts
        if str(part) in folder_paths.folder_names_and_paths
        for folder in folder_paths.get_folder_paths(str(part))
    ]

"""Model folders: the miniature's files appear in the stock loaders; our own roles have theirs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import folder_paths

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.mini.world import weights_folder
from ..fluxguard_core.weights import find, load_manifest, require, search_roots
from ..fluxguard_core.weights.where import RECOGNISERS

_STOCK_FOLDERS = ("diffusion_models", "vae", "loras")
_SUFFIXES = (".safetensors", ".pth", ".pt", ".onnx")


def register_folders() -> None:
    """Make the shipped fluxguard-mini-* files visible to Load Diffusion Model, Load VAE and Load LoRA."""
    for name in _STOCK_FOLDERS:
        folder_paths.add_model_folder_path(name, str(weights_folder() / name))


def model_roots() -> tuple[Path, ...]:
    """Where weight files are looked for, the running host's models folder included."""
    return search_roots((Path(folder_paths.models_dir),))


def installed(model_id: str) -> Path | None:
    """The file of a manifest entry, or None where it is not installed."""
    return find(load_manifest()[model_id], model_roots())


def required(model_id: str) -> Path:
    """The file of a manifest entry, or an error that says where to get it and where it goes."""
    return require(load_manifest()[model_id], model_roots())


def recogniser_choices() -> list[str]:
    """Recognisers of the manifest, then the user's own files in models/fluxguard/recognisers."""
    entries = load_manifest().entries
    known = [e for e in entries if e.role == "recogniser" and e.package_path is None]
    taken = {find(entry, model_roots()) for entry in known}
    return [*(entry.id for entry in known), *_own_files(taken)]


def recogniser_file(choice: str) -> Path:
    """The file of a recogniser chosen in the list."""
    for entry in load_manifest().entries:
        if choice == entry.id:
            return require(entry, model_roots())
    for root in model_roots():
        path = root / RECOGNISERS / choice
        if choice in _own_files(()) and path.is_file():
            return path
    raise FluxGuardError(
        f"There is no recogniser '{choice}'. Put its file into models/{RECOGNISERS}, reload the page, and choose "
        "it again."
    )


def _own_files(taken: Collection[Path | None]) -> list[str]:
    """Names of the files in models/fluxguard/recognisers, without those that the list has by id."""
    folders = [root / RECOGNISERS for root in model_roots()]
    found = {
        path.name
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if path.suffix in _SUFFIXES and path not in taken
    }
    return sorted(found)

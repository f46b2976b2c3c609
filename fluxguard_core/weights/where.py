"""Where weight files are looked for, and where a download goes.

Order: FLUXGUARD_MODELS (folders separated as in PATH), the models folders of the ComfyUI this pack
is installed in (or the one COMFYUI_PATH names), then the user's cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import ModelFileError
from .manifest import PACKAGE_ROOT, Entry

RECOGNISERS = "fluxguard/recognisers"
Folders = Mapping[str, Sequence[Path]]
_OTHER_NAMES = {"diffusion_models": "unet", "text_encoders": "clip"}


def cache_root() -> Path:
    """FluxGuard's folder in the user's cache (XDG_CACHE_HOME, else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fluxguard"


def converted_root() -> Path:
    """Where converted copies of ONNX recognisers are kept; deleting it only costs time."""
    return cache_root() / "converted"


def comfyui_models() -> Path | None:
    """ComfyUI's models folder: the one above custom_nodes/<this pack>, or COMFYUI_PATH/models."""
    named = os.environ.get("COMFYUI_PATH")
    if named:
        return Path(named).expanduser() / "models"
    for parent in PACKAGE_ROOT.parents:
        if parent.name == "custom_nodes" and (parent.parent / "models").is_dir():
            return parent.parent / "models"
    return None


def search_roots(host: Sequence[Path] = ()) -> tuple[Path, ...]:
    """Models folders in order of preference; `host` are those a running ComfyUI has registered."""
    named = os.environ.get("FLUXGUARD_MODELS", "")
    roots = [Path(part).expanduser() for part in named.split(os.pathsep) if part.strip()]
    roots.extend(host)
    comfyui = comfyui_models()
    if comfyui is not None:
        roots.append(comfyui)
    roots.append(cache_root() / "models")
    return tuple(dict.fromkeys(root.absolute() for root in roots))


def candidates(
    entry: Entry, roots: Sequence[Path] | None = None, named: Folders | None = None
) -> tuple[Path, ...]:
    """Every place `entry` may lie at, best first; any recogniser may also lie in RECOGNISERS."""
    return tuple(place for _, place in _places(entry, roots, named))


def _places(
    entry: Entry, roots: Sequence[Path] | None, named: Folders | None
) -> list[tuple[str, Path]]:
    """Places by the name of the folder that they lie in; what has no folder is named ""."""
    if entry.package_path is not None:
        return [("", PACKAGE_ROOT / entry.package_path)]
    top, _, rest = entry.folder.partition("/")
    folders = [entry.folder]
    if top in _OTHER_NAMES:
        folders.append("/".join(filter(None, (_OTHER_NAMES[top], rest))))
    if entry.role == "recogniser" and entry.folder != RECOGNISERS:
        folders.append(RECOGNISERS)
    places: list[tuple[str, Path]] = []
    for root in search_roots() if roots is None else roots:
        places.extend((folder, root / folder / entry.file) for folder in folders)
        if entry.source == "bring":
            places.append(("", root / entry.file))
    for folder in folders:
        places.extend((folder, other / entry.file) for other in (named or {}).get(folder, ()))
    return list(dict.fromkeys(places))


def find(
    entry: Entry, roots: Sequence[Path] | None = None, named: Folders | None = None
) -> Path | None:
    """The first place where the file of `entry` exists, or None.

    In RECOGNISERS a file of one name may be another model's (auraface and glintr100 share theirs);
    outside its own folder an entry takes only a file of its size.

    Args:
        named: folders outside the roots, by the name that they have in a models folder.
    """
    for folder, path in _places(entry, roots, named):
        shared = folder == RECOGNISERS != entry.folder
        if path.is_file() and not (shared and _of_another(entry, path)):
            return path
    return None


def _of_another(entry: Entry, path: Path) -> bool:
    return entry.size is not None and path.stat().st_size != entry.size


def require(
    entry: Entry, roots: Sequence[Path] | None = None, named: Folders | None = None
) -> Path:
    """As `find`; ModelFileError says where was looked and how to get the file."""
    path = find(entry, roots, named)
    if path is not None:
        return path
    places = candidates(entry, roots, named)
    for place in places:
        if partial_path(place).exists():
            raise ModelFileError(
                f"{entry.id} is only half downloaded ({partial_path(place)}).", entry.remedy
            )
        if entry.size is not None and place.is_file():
            raise ModelFileError(
                f"{place} has {place.stat().st_size:,} bytes instead of the {entry.size:,} of "
                f"{entry.id}: it is truncated, or another model.",
                entry.remedy,
            )
    looked = "\n  ".join(str(place) for place in places)
    raise ModelFileError(
        f"The file of {entry.id} ({entry.file}) was not found. Looked at:\n  {looked}\n",
        entry.remedy,
    )


def download_target(entry: Entry, root: Path | None = None) -> Path:
    """Where a download of `entry` is stored: under `root`, by default the first search root."""
    return (root if root is not None else search_roots()[0]) / entry.folder / entry.file


def partial_path(path: Path) -> Path:
    """The name of a file while it is being downloaded."""
    return path.with_name(path.name + ".part")

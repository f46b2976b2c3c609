"""Weight files to tensors, safely: safetensors, or PyTorch checkpoints read as plain tensors.

The kind of a file is told from its first bytes, never from its name. Nothing is unpickled beyond
what `weights_only=True` allows, so a hostile file can fail to load but cannot run code.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .download import file_sha256
from .errors import ModelFileError
from .kinds import STAND_INS, UNFINISHED, file_kind, what_it_is
from .manifest import Entry
from .safetensors_file import Contents, read_contents, read_safetensors
from .where import partial_path

_CONTAINERS = ("state_dict", "model_state_dict", "model", "params_ema", "params", "net")


def load_tensors(
    path: str | Path, *, expected: Entry | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name and text metadata of a weight file, on the CPU.

    With `expected`, size and sha256 are held against the manifest where they are public.
    ModelFileError names what is wrong (missing, half-downloaded, truncated, foreign, altered,
    unsafe) and what to do about it.
    """
    file = Path(path)
    check_file(file, expected)
    kind = file_kind(file)
    remedy = _remedy(file, expected)
    if kind == "safetensors":
        return read_safetensors(file, remedy)
    if kind in {"zip", "legacy checkpoint"}:
        return _checkpoint(file, kind, remedy)
    raise ModelFileError(f"{file} is {what_it_is(kind)}.", remedy)


def contents_of(path: str | Path) -> Contents:
    """Names, shapes and number formats in a weight file; of safetensors without reading the tensors.

    Raises:
        ModelFileError: as `load_tensors`.
    """
    file = Path(path)
    check_file(file, None)
    if file_kind(file) == "safetensors":
        return read_contents(file, _remedy(file, None))
    tensors, notes = load_tensors(file)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return Contents(shapes, {name: str(t.dtype) for name, t in tensors.items()}, notes)


def check_file(file: Path, expected: Entry | None) -> None:
    """ModelFileError unless `file` is there, not empty and, where known, of the right bytes."""
    remedy = _remedy(file, expected)
    if file.is_dir():
        raise ModelFileError(f"{file} is a folder, not a file.", "Give one of the files in it.")
    if not file.is_file():
        if partial_path(file).is_file():
            raise ModelFileError(f"{file} is only half downloaded.", remedy)
        raise ModelFileError(f"There is no file {file}.", remedy)
    if file.name.lower().endswith(UNFINISHED):
        raise ModelFileError(f"{file} is a half-finished download.", remedy)
    try:
        size = file.stat().st_size
        file.open("rb").close()
    except OSError as error:
        raise ModelFileError(
            f"{file} may not be read ({error.strerror or error}).", "Check its permissions."
        ) from error
    if size == 0:
        raise ModelFileError(f"{file} is empty.", remedy)
    if expected is None:
        return
    if expected.size is not None and size != expected.size and file_kind(file) not in STAND_INS:
        state = "truncated" if size < expected.size else "a different file"
        raise ModelFileError(
            f"{file} is {state}: {size:,} bytes instead of the {expected.size:,} of {expected.id}.",
            remedy,
        )
    if expected.sha256 is not None and size == expected.size:
        got = file_sha256(file)
        if got != expected.sha256:
            raise ModelFileError(
                f"{file} is altered or another version of {expected.id}: sha256 {got} instead of "
                f"{expected.sha256}.",
                remedy,
            )


def _remedy(file: Path, expected: Entry | None) -> str:
    if expected is None:
        return "Fetch or copy it again, completely."
    if expected.source == "download" and file.is_file():
        return f"Delete it and run ‹run models download {expected.id}›."
    return expected.remedy


def _checkpoint(file: Path, kind: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if kind == "zip":
        _check_archive(file, remedy)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if kind == "legacy checkpoint" and "truncated" in str(error):
            raise ModelFileError(f"{file} is truncated.", remedy) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown objects"
        raise ModelFileError(
            f"{file} holds Python objects besides tensors and was not opened, for such files can "
            f"run code ({reason[:200]}).",
            "Ask for a safetensors version, or convert it where you trust it.",
        ) from error
    except Exception as error:  # PyTorch's readers raise whatever damaged bytes lead them to
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelFileError(f"{file} is truncated or damaged: {reason}.", remedy) from error
    return _unwrap(file, content)


def _check_archive(file: Path, remedy: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise ModelFileError(
            f"{file} is truncated: the end of the archive is missing.", remedy
        ) from None
    if any(name.endswith("constants.pkl") for name in names):
        raise ModelFileError(
            f"{file} is a TorchScript program, not plain weights; FluxGuard does not run foreign "
            "programs.",
            "Use the checkpoint or safetensors version.",
        )
    if not any(name.endswith("data.pkl") for name in names):
        raise ModelFileError(
            f"{file} is an archive but not a PyTorch checkpoint (it holds {names[:3]}); if it "
            "contains the weights, unpack it first."
        )


def _unwrap(file: Path, content: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    if isinstance(content, dict):
        for name in _CONTAINERS:
            inner = content.get(name)
            if isinstance(inner, dict) and any(isinstance(v, Tensor) for v in inner.values()):
                notes = {k: v for k, v in content.items() if k != name}
                content = {**inner, **{k: v for k, v in notes.items() if _is_note(v)}}
                break
        tensors = {str(k): v.detach() for k, v in content.items() if isinstance(v, Tensor)}
        tensors = tensors or _side_by_side(content)
        if tensors:
            return tensors, {str(k): str(v) for k, v in content.items() if _is_note(v)}
    raise ModelFileError(
        f"{file} holds no tensors by name (a {type(content).__name__} at the top); expected a "
        "state dictionary.",
        "Use the checkpoint that the model's own loader reads.",
    )


def _side_by_side(content: dict[Any, Any]) -> dict[str, Tensor]:
    """Several networks in one file, as GANs are saved: their tensors under NETWORK.NAME."""
    networks = {k: v for k, v in content.items() if isinstance(v, dict)}
    return {
        f"{network}.{name}": tensor.detach()
        for network, inner in networks.items()
        for name, tensor in inner.items()
        if isinstance(tensor, Tensor)
    }


def _is_note(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))

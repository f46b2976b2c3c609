"""Weight files to tensors, safely: safetensors, or PyTorch checkpoints read as plain tensors.

The kind of a file is told from its first bytes, never from its name. Nothing is unpickled beyond
what `weights_only=True` allows, so a hostile file can fail to load but cannot run code.
"""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .download import file_sha256
from .errors import ModelFileError
from .manifest import Entry
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
        return _safetensors(file, remedy)
    if kind in {"zip", "legacy checkpoint"}:
        return _checkpoint(file, kind, remedy)
    foreign = {
        "lfs pointer": "a Git LFS pointer: the text that stands for the real file in a repository",
        "web page": "a web page: the download was answered by a login or error page",
        "onnx": "an ONNX graph; open it with recognition.onnx.load_onnx_encoder",
        "gguf": "a GGUF file; FluxGuard reads safetensors and PyTorch checkpoints",
        "unknown": "neither safetensors nor a PyTorch checkpoint",
    }
    raise ModelFileError(f"{file} is {foreign[kind]}. {remedy}")


def check_file(file: Path, expected: Entry | None) -> None:
    """ModelFileError unless `file` is there, not empty and, where known, of the right bytes."""
    remedy = _remedy(file, expected)
    if not file.is_file():
        if partial_path(file).is_file():
            raise ModelFileError(f"{file} is only half downloaded. {remedy}")
        raise ModelFileError(f"There is no file {file}. {remedy}")
    if file.name.endswith((".part", ".crdownload", ".download", ".aria2")):
        raise ModelFileError(f"{file} is a half-finished download. {remedy}")
    size = file.stat().st_size
    if size == 0:
        raise ModelFileError(f"{file} is empty. {remedy}")
    if expected is None:
        return
    if expected.size is not None and size != expected.size and file_kind(file) not in _NAMED:
        state = "truncated" if size < expected.size else "a different file"
        raise ModelFileError(
            f"{file} is {state}: {size:,} bytes instead of the {expected.size:,} of "
            f"{expected.id}. {remedy}"
        )
    if expected.sha256 is not None and size == expected.size:
        got = file_sha256(file)
        if got != expected.sha256:
            raise ModelFileError(
                f"{file} is altered or another version of {expected.id}: sha256 {got} instead of "
                f"{expected.sha256}. {remedy}"
            )


# These say more about what went wrong than their size does.
_NAMED = frozenset({"lfs pointer", "web page"})


def file_kind(file: Path) -> str:
    """What the first bytes say: safetensors, zip, legacy checkpoint, onnx, gguf, web page, ..."""
    with file.open("rb") as stream:
        head = stream.read(512)
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "lfs pointer"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "web page"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"GGUF"):
        return "gguf"
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "legacy checkpoint"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x08" and (file.suffix == ".onnx" or b"pytorch" in head or b"onnx" in head):
        return "onnx"
    return "unknown"


def _remedy(file: Path, expected: Entry | None) -> str:
    if expected is None:
        return "Fetch or copy it again, completely."
    if expected.source == "download" and file.is_file():
        return f"Delete it and run ‹run models download {expected.id}›."
    return expected.remedy


def _safetensors(file: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = stream.read(min(length, size)) if length <= size - 8 else b""
    if not header:
        raise ModelFileError(
            f"{file} is truncated: its header should take {length:,} bytes, the file has "
            f"{size:,}. {remedy}"
        )
    try:
        table: dict[str, Any] = json.loads(header)
        ends = [row["data_offsets"][1] for name, row in table.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        raise ModelFileError(
            f"{file} is not a safetensors file: unreadable header. {remedy}"
        ) from None
    needed = 8 + length + max(ends, default=0)
    if needed != size:
        state = "truncated" if needed > size else "damaged"
        raise ModelFileError(
            f"{file} is {state}: its tensors need {needed:,} bytes, the file has {size:,}. {remedy}"
        )
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            return tensors, dict(opened.metadata() or {})
    except SafetensorError as error:
        raise ModelFileError(
            f"{file} is not a sound safetensors file: {error}. {remedy}"
        ) from error


def _checkpoint(file: Path, kind: str, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    if kind == "zip":
        _check_archive(file, remedy)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if kind == "legacy checkpoint" and "truncated" in str(error):
            raise ModelFileError(f"{file} is truncated. {remedy}") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown objects"
        raise ModelFileError(
            f"{file} holds Python objects besides tensors and was not opened, for such files can "
            f"run code ({reason[:200]}). Ask for a safetensors version, or convert it where you "
            "trust it."
        ) from error
    except (EOFError, RuntimeError, ValueError, KeyError, OSError) as error:
        raise ModelFileError(
            f"{file} is truncated or damaged: {str(error).splitlines()[0][:200]}. {remedy}"
        ) from error
    return _unwrap(file, content)


def _check_archive(file: Path, remedy: str) -> None:
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        raise ModelFileError(
            f"{file} is truncated: the end of the archive is missing. {remedy}"
        ) from None
    if any(name.endswith("constants.pkl") for name in names):
        raise ModelFileError(
            f"{file} is a TorchScript program, not plain weights; FluxGuard does not run foreign "
            "programs. Use the checkpoint or safetensors version."
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
        if tensors:
            return tensors, {str(k): str(v) for k, v in content.items() if _is_note(v)}
    raise ModelFileError(
        f"{file} holds no tensors by name (a {type(content).__name__} at the top); expected a "
        "state dictionary. Use the checkpoint that the model's own loader reads."
    )


def _is_note(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool))

"""What a file is, told from its first bytes and never from its name; and that in words."""

from __future__ import annotations

import string
from pathlib import Path

# These stand in a model's place and say more about what went wrong than a size or a checksum does.
STAND_INS = frozenset({"lfs pointer", "web page", "text"})
UNFINISHED = (".part", ".crdownload", ".download", ".aria2", ".incomplete", ".tmp", ".!qb")
_WORDS = {
    "lfs pointer": "a Git LFS pointer: the text that stands for the real file in a repository",
    "web page": "a web page: the download was answered by a login or error page",
    "text": "a text, no model: a server's answer or a note that was stored under the model's name",
    "onnx": "an ONNX graph; open it with recognition.onnx.load_onnx_encoder",
    "gguf": "a GGUF file, quantised for other programs; FluxGuard reads safetensors and PyTorch checkpoints",
    "unknown": "neither safetensors nor a PyTorch checkpoint",
}
_PRINTABLE = frozenset(string.printable.encode())


def file_kind(file: Path) -> str:
    """What the first bytes say: safetensors, zip, legacy checkpoint, onnx, gguf, web page, ..."""
    with file.open("rb") as stream:
        return _kind(stream.read(512), file.suffix)


def _kind(head: bytes, suffix: str = "") -> str:
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "lfs pointer"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return "web page"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"GGUF"):
        return "gguf"
    if head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"}:
        return "legacy checkpoint"
    if len(head) > 8 and head[8:9] == b"{":
        return "safetensors"
    if head[:1] == b"\x08" and (suffix == ".onnx" or b"pytorch" in head or b"onnx" in head):
        return "onnx"
    return "text" if head and _PRINTABLE.issuperset(head) else "unknown"


def what_it_is(kind: str) -> str:
    """The rest of a sentence "NAME is ..." for a kind that holds no tensors."""
    return _WORDS.get(kind, f"a {kind} file")


def stand_in(file: Path) -> str | None:
    """What stands in a model's place here, in words, or None where it may be the model itself.

    Vocabularies, configurations and lists are texts by nature: they are told by page and pointer alone.
    """
    kind = file_kind(file)
    natural = kind == "text" and file.name.removesuffix(".part").endswith((".json", ".txt"))
    return what_it_is(kind) if kind in STAND_INS and not natural else None


def bytes_stand_in(head: bytes) -> str | None:
    """The same of the first bytes that a server sends."""
    kind = _kind(head[:512])
    return what_it_is(kind) if kind in STAND_INS else None

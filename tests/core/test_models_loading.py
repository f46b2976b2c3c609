"""Loading weights: sound files give their tensors, every bad one says what is wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.weights import Entry, ModelFileError
from fluxguard_core.weights.loading import load_tensors

TENSORS = {"a.weight": torch.arange(600.0).reshape(20, 30), "a.steps": torch.tensor(3)}


def entry_of(path: Path, **changes: Any) -> Entry:
    data = path.read_bytes()
    entry = Entry(
        id="w",
        role="recogniser",
        file=path.name,
        folder="fluxguard/recognisers",
        url="https://example.org/w",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        licence="MIT",
        licence_url=None,
        commercial_use=True,
        consent=False,
        used_by=("tests",),
    )
    return dataclasses.replace(entry, **changes)


def same(loaded: dict[str, Tensor]) -> None:
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(loaded[name], tensor)


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_file(TENSORS, path, metadata={"made": "here"})
    return path


def test_safetensors_with_metadata(sound: Path) -> None:
    tensors, metadata = load_tensors(sound, expected=entry_of(sound))
    same(tensors)
    assert metadata == {"made": "here"}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_checkpoints(tmp_path: Path, legacy: bool, wrapped: bool) -> None:
    path = tmp_path / "w.pth"
    content = {"epoch": 4, "state_dict": TENSORS} if wrapped else TENSORS
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    tensors, metadata = load_tensors(path, expected=entry_of(path))
    same(tensors)
    assert metadata == ({"epoch": "4"} if wrapped else {})


def test_the_name_does_not_decide(sound: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "w.pth"
    renamed.write_bytes(sound.read_bytes())
    same(load_tensors(renamed)[0])


def test_missing_and_half_downloaded(sound: Path) -> None:
    entry = entry_of(sound)
    sound.rename(sound.with_name("w.safetensors.part"))
    with pytest.raises(ModelFileError, match=r"half downloaded.*fluxguard models download w"):
        load_tensors(sound, expected=entry)
    with pytest.raises(ModelFileError, match="half-finished"):
        load_tensors(sound.with_name("w.safetensors.part"))
    sound.with_name("w.safetensors.part").unlink()
    with pytest.raises(ModelFileError, match=r"no file.*fluxguard models download w"):
        load_tensors(sound, expected=entry)
    with pytest.raises(ModelFileError, match="your own copy"):
        load_tensors(sound, expected=dataclasses.replace(entry, url=None))


def test_size_and_checksum_are_held_against_the_manifest(sound: Path) -> None:
    entry, data = entry_of(sound), sound.read_bytes()
    for changed, problem in {
        data[:-1]: "truncated: .* bytes instead of",
        data + b"x": "a different file",
        data[:-1] + b"x": "altered or another version.*Delete it and run",
        b"version https://git-lfs.github.com/spec/v1\noid": "Git LFS pointer",
        b"<!DOCTYPE html><html>sign in": "a web page",
        b"": "is empty",
    }.items():
        sound.write_bytes(changed)
        with pytest.raises(ModelFileError, match=problem):
            load_tensors(sound, expected=entry)


@pytest.mark.parametrize("keep", [9, 60, 2000])
def test_truncated_safetensors_without_a_manifest(sound: Path, keep: int) -> None:
    sound.write_bytes(sound.read_bytes()[:keep])
    with pytest.raises(ModelFileError, match=r"truncated.*completely"):
        load_tensors(sound)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("share", [0.1, 0.6, 0.95])
def test_truncated_checkpoints_without_a_manifest(
    tmp_path: Path, legacy: bool, share: float
) -> None:
    path = tmp_path / "w.pth"
    torch.save(TENSORS, path, _use_new_zipfile_serialization=not legacy)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelFileError, match="truncated"):
        load_tensors(path)


def test_damaged_safetensors_headers(sound: Path) -> None:
    data = sound.read_bytes()
    for changed in (
        data[:9] + b"\xff" + data[10:],
        data + b"tail",
        (4).to_bytes(8, "little") + b"{[]}",
    ):
        sound.write_bytes(changed)
        with pytest.raises(ModelFileError, match=r"damaged|unreadable header"):
            load_tensors(sound)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("plain", [False, True])
def test_code_in_a_checkpoint_does_not_run(tmp_path: Path, plain: bool) -> None:
    path, mark = tmp_path / "w.pth", tmp_path / "ran"
    if plain:
        path.write_bytes(pickle.dumps({"a": Hostile(mark)}, protocol=2))
    else:
        torch.save({"a": Hostile(mark)}, path)
    with pytest.raises(ModelFileError, match="run code"):
        load_tensors(path)
    assert not mark.exists()


def test_whole_pickled_modules_and_programs_are_refused(tmp_path: Path) -> None:
    module, program = tmp_path / "m.pth", tmp_path / "s.pt"
    torch.save(nn.Linear(2, 2), module)
    with pytest.raises(ModelFileError, match="objects besides tensors"):
        load_tensors(module)
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), program)
    with pytest.raises(ModelFileError, match="TorchScript"):
        load_tensors(program)


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    for data, problem in {
        b"GGUF\x03\x00": "GGUF",
        b"\x00\x01\x02 nothing known": "neither safetensors nor",
        b"hello": "a text, no model",
    }.items():
        path.write_bytes(data)
        with pytest.raises(ModelFileError, match=problem):
            load_tensors(path)
    torch.save([TENSORS["a.weight"]], path)
    with pytest.raises(ModelFileError, match="no tensors by name"):
        load_tensors(path)

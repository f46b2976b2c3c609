"""An AttGAN of one's own: CelebA's list is read, faces are cut once, training goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.main import main
from fluxguard_core.defences.attgan_data import LIST, gather_faces, read_list
from fluxguard_core.defences.attgan_files import load_attgan
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import write_png


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four portraits and a picture without a face, with CelebA's kind of list."""
    folder = tmp_path_factory.mktemp("faces")
    lines = ["6", "Smiling Eyeglasses Young"]
    for number in range(4):
        portrait = render(random_spec(100 + number), 64)
        write_png(folder / f"{number:06}.png", portrait.image[None])
        shown = portrait.spec.attributes
        values = [1 if v == "yes" else -1 for v in (shown.smile, shown.eyeglasses)]
        lines.append(f"{number:06}.png  {values[0]}  {values[1]} -1")
    write_png(folder / "000004.png", torch.zeros(1, 3, 64, 64))
    lines += ["000004.png 1 1 1", "not-here.png -1 -1 1"]
    (folder / LIST).write_text("\n".join(lines), encoding="utf-8")
    return folder


def test_the_list_is_read_as_celeba_writes_it(faces: Path) -> None:
    known = read_list(faces / LIST)
    assert known.names == ("Smiling", "Eyeglasses", "Young") and len(known.rows) == 6
    assert known.rows["not-here.png"] == (0, 0, 1)


def test_a_wrong_line_is_named(tmp_path: Path) -> None:
    (tmp_path / LIST).write_text("1\nSmiling Young\na.png 1\n", encoding="utf-8")
    with pytest.raises(FluxGuardError, match="line 3: expected a file and 2 values"):
        read_list(tmp_path / LIST)
    with pytest.raises(FluxGuardError, match="no readable list"):
        read_list(tmp_path / "none.txt")


def test_a_face_is_cut_once_and_labels_follow_the_faces(faces: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    def cut(path: Path) -> torch.Tensor | None:
        asked.append(path.name)
        return None if path.name == "000001.png" else torch.full((3, 32, 32), int(path.stem) / 10)

    store = tmp_path / "store.faces"
    for _ in range(2):
        found = gather_faces(faces, ("Young", "Smiling"), 32, cut, store)
    assert asked == [f"{n:06}.png" for n in range(5)] and found.left_out == 1
    assert [round(float(f.mean()) / 25.5) for f in found.faces] == [0, 2, 3, 4]
    assert found.labels[-1].tolist() == [1.0, 1.0] and found.labels[0, 0] == 0
    batch = found.draw(0, torch.Generator().manual_seed(0), 16)
    assert sorted(map(tuple, batch.labels.tolist())) == sorted(map(tuple, batch.wanted.tolist()))
    assert batch.answers is None and batch.pictures.shape == (16, 3, 32, 32)
    with pytest.raises(FluxGuardError, match="no attribute 'Bald'"):
        gather_faces(faces, ("Bald",), 32, cut, store)


def test_the_command_trains_and_goes_on(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "own.safetensors"
    given = ["attributes", "train", "--faces", str(faces), "-o", str(out), "--side", "64"]
    given += ["--width", "4", "--batch", "4", "--names", "Smiling,Eyeglasses", "--device", "cpu"]
    assert main([*given, "--steps", "6"]) == 0
    assert "4 faces (drawn); left out for want of a face: 1" in capsys.readouterr().out
    first = load_attgan(out)
    assert first.world == "drawn" and first.shape.attributes == ("Smiling", "Eyeglasses")
    assert main([*given, "--steps", "12"]) == 0
    second = load_attgan(out)
    pairs = zip(first.generator.parameters(), second.generator.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)
    assert main([*given[:-6], "--names", "Bald", "--steps", "6"]) == 2
    assert "no attribute 'Bald'" in capsys.readouterr().err
    assert main(["attributes", "train"]) == 2
    assert "--faces" in capsys.readouterr().err

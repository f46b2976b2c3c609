"""README's photo section: every command as it is printed, in a shell of a machine where its downloads have ended.

The files have the published names and layouts, but small networks and random weights.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from fluxguard_core.cli.main import build_parser, main
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.protect.perceptual import VGG19Features
from fluxguard_core.recognition.backbones.iresnet_evolve import IRBackbone
from fluxguard_core.weights import load_manifest
from fluxguard_core.weights.download import file_sha256
from fluxguard_core.weights.manifest import manifest_path
from fluxguard_core.weights.where import download_target

from ..host.landmarker import write_yunet
from .pipeline_folder import tiny_pipeline
from .test_recognition_onnx import iresnet, sface

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
POINTS = torch.tensor([[43.0, 58], [84, 58], [63, 76], [48, 87], [79, 87]])


def printed() -> list[list[str]]:
    """The section's commands as a shell splits them, in their order."""
    (section,) = re.findall(r"\n## Protect a photo\n(.*?)\n## ", README, re.S)
    blocks = re.findall(r"```\n(.*?)```", section, re.S)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def commands(kind: str) -> list[list[str]]:
    return [words[1:] for words in printed() if words[0] == "fluxguard" and words[1] == kind]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the commands are typed in; models lie in the user's models folder."""
    models = tmp_path / "models"
    monkeypatch.setenv("FLUXGUARD_MODELS", str(models))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = load_manifest()
    asked = {name for words in commands("models") for name in words[2:]}
    place = {name: download_target(manifest[name], models) for name in asked}
    for path in place.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    made = dict(place)
    torch.manual_seed(0)
    write_yunet(place.pop("yunet").parent, POINTS)
    iresnet(place.pop("auraface"))
    sface(place.pop("sface"))
    network = IRBackbone((3, 4, 14, 3), se=True, width=16)
    torch.save(network.state_dict(), place.pop("facexlib-irse50"))
    torch.save(VGG19Features().state_dict(), place.pop("vgg19"))
    assert not place, f"README downloads {sorted(place)}, which this test has no files for."
    known = manifest_of(made, tmp_path / "manifest.json")
    monkeypatch.setattr("fluxguard_core.weights.manifest.manifest_path", lambda: known)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(_bytes(smooth(128))).save("photo.jpg", quality=95)
    lips = torch.zeros(1, 1, 128, 128)
    lips[..., 80:96, 44:84] = 1
    write_png("lips.png", lips)
    Path("FLUX.1-dev").mkdir()
    tiny_pipeline(Path("FLUX.1-dev")).save_pretrained("FLUX.1-dev")
    yield tmp_path


def manifest_of(made: dict[str, Path], place: Path) -> Path:
    """The manifest as it would be if these were the published files: recognisers are known by their hash."""
    document = json.loads(manifest_path().read_text(encoding="utf-8"))
    for entry in document["files"]:
        if entry["id"] in made:
            path = made[entry["id"]]
            entry |= {"size": path.stat().st_size, "sha256": file_sha256(path)}
    place.write_text(json.dumps(document), encoding="utf-8")
    return place


def smooth(side: int) -> Tensor:
    small = torch.rand(1, 3, 10, 10, generator=torch.Generator().manual_seed(4))
    return torch.nn.functional.interpolate(small, (side, side), mode="bicubic").clamp(0, 1)


def _bytes(picture: Tensor):  # type: ignore[no-untyped-def]
    return (picture[0].permute(1, 2, 0) * 255).byte().numpy()


def test_the_section_installs_what_exists_and_downloads_what_is_known() -> None:
    """pip's words and the downloads are checked by name; nothing is fetched here."""
    kinds = [words[0] for words in printed()]
    assert set(kinds) == {"pip", "fluxguard"} and kinds.count("fluxguard") >= 4
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    for words in printed():
        if words[0] == "pip":
            (extras,) = re.findall(r"^fluxguard\[(.*)\]$", words[2])
            assert all(re.search(rf"^{name} = \[", project, re.M) for name in extras.split(","))
    for words in commands("models"):
        build_parser().parse_args(words)
        assert words[1] == "download" and all(load_manifest()[name].url for name in words[2:])


def test_the_commands_protect_as_they_are_printed(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_it_is, with_an_edit = commands("protect")
    assert main(as_it_is) == 0
    said = capsys.readouterr().out
    numbers = json.loads(Path("me.json").read_text(encoding="utf-8"))
    roles = {entry["name"]: entry["role"] for entry in numbers["recognisers"]}
    assert sorted(roles.values()) == ["attacked", "attacked", "held out"], roles
    assert "Likeness" in said or "HaarPSI" in said
    before, after = read_picture("photo.jpg").rgb, read_picture("me.png").rgb
    assert before.shape == after.shape and not torch.equal(before, after)
    assert Path("me-where.png").is_file()
    for path in machine.glob("me*"):
        path.unlink()
    assert main(with_an_edit) == 0
    numbers = json.loads(Path("me.json").read_text(encoding="utf-8"))
    assert sorted(entry["role"] for entry in numbers["recognisers"]) == ["attacked", "held out"]
    edited, after = (read_picture(name).rgb for name in ("me-unprotected.png", "me.png"))
    assert edited.shape == after.shape == before.shape and not torch.equal(edited, after)


def test_without_the_downloads_each_missing_file_is_named(
    machine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in commands("protect"):
        missing = download_target(load_manifest()["sface"], machine / "models")
        missing.unlink(missing_ok=True)
        code = main(words)
        told = capsys.readouterr().err
        assert code == 2 and "models download sface" in told, told

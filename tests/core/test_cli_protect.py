"""`fluxguard protect` end to end on a real FLUX folder layout with random weights, and every bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fluxguard_core.backends.taesd import narrow_autoencoder, padded_state
from fluxguard_core.cli.main import main
from fluxguard_core.faces.detectors import face_in_box
from fluxguard_core.pictures.face_crop import crop_face
from fluxguard_core.pictures.files import read_picture
from fluxguard_core.protect.perceptual import VGG19Features
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.identity import EXPLANATIONS

from .pipeline_folder import tiny_pipeline
from .test_diffusers_backend import lora
from .tiny import noise

BOX = "box:16,12,48,52"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A FLUX folder, two recognisers and VGG features, all with random weights."""
    folder = tmp_path_factory.mktemp("models")
    tiny_pipeline(folder).save_pretrained(folder / "flux")
    limits = json.dumps([{"far": 0.01, "value": 0.4, "source": "made up for tests"}])
    for seed in (1, 2):
        torch.manual_seed(seed)
        state = MobileFaceNet(width=16, depth=(1, 1, 1), dimension=64).state_dict()
        metadata = {"name": f"random{seed}", "thresholds": limits}
        save_file(state, folder / f"random{seed}.safetensors", metadata=metadata)
    torch.manual_seed(3)
    save_file(VGG19Features().state_dict(), folder / "vgg.safetensors")
    return folder


def draw(path: Path, size: tuple[int, int] = (64, 64), mode: str = "RGB", **save: object) -> Path:
    """A smooth random picture (width, height)."""
    small = noise(1, 3, 6, 6, seed=4).sigmoid()
    picture = torch.nn.functional.interpolate(small, size[::-1], mode="bicubic").clamp(0, 1)
    array = (picture[0].permute(1, 2, 0) * 255).byte().numpy()
    Image.fromarray(np.ascontiguousarray(array)).convert(mode).save(path, **save)  # type: ignore[arg-type]
    return path


def draw_mask(path: Path, size: tuple[int, int] = (64, 64), filled: bool = True) -> Path:
    mask = np.zeros(size[::-1], np.uint8)
    mask[size[1] // 3 : size[1] // 2, size[0] // 3 : 2 * size[0] // 3] = 255 * filled
    Image.fromarray(mask).save(path)
    return path


def arguments(files: Path, photo: Path, out: Path, **changes: str | None) -> list[str]:
    chosen: dict[str, str | None] = {
        "--model": str(files / "flux"),
        "--source-prompt": "a face",
        "--prompt": "a red face",
        "--mask": str(draw_mask(out.parent / "mask.png")),
        "--recogniser": str(files / "random1.safetensors"),
        "--hold-out": str(files / "random2.safetensors"),
        "--vgg": str(files / "vgg.safetensors"),
        "--detector": BOX,
        "--device": "cpu",
        "--intervals": "7",
        "-o": str(out),
    }
    chosen |= {f"--{key.replace('_', '-')}": value for key, value in changes.items()}
    pairs = [[key, value] for key, value in chosen.items() if value is not None]
    return ["protect", str(photo), "--quiet", *(part for pair in pairs for part in pair)]


@pytest.mark.parametrize("preset", ["paper", "default"])
def test_a_portrait_goes_in_and_three_files_come_out(
    files: Path, tmp_path: Path, preset: str
) -> None:
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    assert main(arguments(files, photo, out, preset=preset)) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    roles = {entry["name"]: entry["role"] for entry in report["recognisers"]}
    assert roles == {"random1": "attacked", "random2": "held out"}
    assert report["preset"] == preset and report["peak_bytes"] > 0 and report["seconds"]["run"] > 0
    # 7 intervals: 14 to invert; 3 shared, 4 in two branches
    assert report["evaluations"] == {"inversion": 14, "generation": 6 + 16}
    edited, protected = (
        read_picture(tmp_path / name).rgb for name in ("out-unprotected.png", "out.png")
    )
    assert edited.shape == protected.shape == (1, 3, 64, 64) and not torch.equal(edited, protected)


def test_a_second_photo_is_not_cut_by_the_first_ones_box(files: Path, tmp_path: Path) -> None:
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    second = str(draw(tmp_path / "other.png", (96, 80)))
    assert main(arguments(files, photo, out, second=second)) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert all(entry["second_protected"] is None for entry in report["recognisers"])
    assert any("second photo was not compared" in note for note in report["notes"])


def test_outputs_carry_nothing_of_the_source_file(files: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x8825] = "SecretCamera", {1: "N", 2: (48.0, 51.0, 30.0)}
    photo = draw(tmp_path / "secret-name.jpg", quality=95, exif=exif)
    out = tmp_path / "out.png"
    assert main([*arguments(files, photo, out), "--html"]) == 0
    for path in sorted(tmp_path.glob("out*")):
        data = path.read_bytes()
        assert b"SecretCamera" not in data and b"GPS" not in data
        assert str(tmp_path).encode() not in data and b"secret-name" not in data
    text = out.with_suffix(".json").read_text()
    assert "embedding" not in text.lower().replace("no embeddings", "")
    assert max(len(part) for part in json.loads(text).values() if isinstance(part, list)) < 50


def test_alpha_and_grey_are_kept_and_rotation_honoured(files: Path, tmp_path: Path) -> None:
    see_through = draw(tmp_path / "alpha.png", mode="RGBA")
    with Image.open(see_through) as opened:
        opened.putalpha(Image.linear_gradient("L").resize((64, 64)))
        opened.save(see_through)
    grey = draw(tmp_path / "grey.png", mode="L")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    lying = draw(tmp_path / "lying.jpg", size=(64, 48), quality=95, exif=exif)
    out = tmp_path / "out.png"
    assert main(arguments(files, see_through, out)) == 0
    with Image.open(out) as result, Image.open(see_through) as original:
        assert result.mode == "RGBA"
        assert result.getchannel("A").tobytes() == original.getchannel("A").tobytes()
    assert main(arguments(files, grey, out)) == 0
    with Image.open(out) as result:
        assert result.mode == "L"
    mask = str(draw_mask(tmp_path / "upright.png", (48, 64)))
    assert main(arguments(files, lying, out, mask=mask, detector="box:8,12,40,52")) == 0
    with Image.open(out) as result:
        assert result.size == (48, 64)


def test_a_large_photo_keeps_every_pixel_outside_the_square(files: Path, tmp_path: Path) -> None:
    photo, out = draw(tmp_path / "large.png", (200, 150)), tmp_path / "out.png"
    mask = draw_mask(tmp_path / "large-mask.png", (200, 150))
    box = (80.0, 40.0, 112.0, 80.0)
    detector = "box:" + ",".join(map(str, box))
    assert main(arguments(files, photo, out, mask=str(mask), detector=detector, size="64")) == 0
    before, after = read_picture(photo).rgb, read_picture(out).rgb
    crop = crop_face(before, face_in_box(box), 64)
    left, top, right, bottom = crop.box
    change = (after - before).abs().amax((0, 1))
    inside = change[top:bottom, left:right].clone()
    change[top:bottom, left:right] = 0
    assert change.max() == 0 and inside.max() > 0.02
    assert right - left < 200 and bottom - top < 150


def test_one_face_or_all_of_them(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photo, out = draw(tmp_path / "two.png", (128, 64)), tmp_path / "out.png"
    mask = str(draw_mask(tmp_path / "two-mask.png", (128, 64)))
    boxes = "box:16,12,48,52;84,16,108,46"
    names = {}
    for face in ("largest", "1", "all"):
        given = arguments(files, photo, out, mask=mask, detector=boxes, face=face, size="128")
        assert main(given) == 0
        entries = json.loads(out.with_suffix(".json").read_text())["recognisers"]
        names[face] = {entry["name"] for entry in entries}
        edited = read_picture(tmp_path / "out-unprotected.png").rgb
        moved = (read_picture(out).rgb - edited).abs().amax((0, 1))
        left, right = float(moved[24:44, 24:40].mean()), float(moved[24:40, 90:102].mean())
        # the decoder's normalisation carries a little of it to the other side
        assert {
            "largest": left > 3 * right,
            "1": right > 3 * left,
            "all": left < 3 * right < 9 * left,
        }[face]
    assert names["1"] == {"random1", "random2"}
    assert names["all"] == {f"random{i}, face {j}" for i in (1, 2) for j in (0, 1)}
    assert main(arguments(files, photo, out, mask=mask, detector=boxes, face="2")) == 2
    assert "numbered from 0" in capsys.readouterr().err
    assert main(arguments(files, photo, out, mask=mask, detector=boxes, face="all", size="64")) == 2
    assert "too far apart" in capsys.readouterr().err


def test_recognisers_are_told_apart_and_read_as_asked(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Two files of one layout, another channel order, and a threshold that is missing."""
    state = load_file(files / "random1.safetensors")
    limits = json.dumps([{"far": 0.01, "value": 0.4, "source": "made up for tests"}])
    for name in ("one", "other"):
        save_file(state, tmp_path / f"{name}.safetensors", metadata={"thresholds": limits})
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    one, other = (str(tmp_path / f"{name}.safetensors") for name in ("one", "other"))
    results = set()
    for colour in ("", ":bgr", ":both"):
        given = arguments(files, photo, out, recogniser=f"{one}{colour}", hold_out=other)
        assert main(given) == 0
        entries = json.loads(out.with_suffix(".json").read_text())["recognisers"]
        roles = {entry["name"]: entry["role"] for entry in entries}
        assert roles == {
            "mobilefacenet (one.safetensors)": "attacked",
            "mobilefacenet (other.safetensors)": "held out",
        }
        results.add(out.read_bytes())
    assert len(results) == 3
    save_file(state, one)
    assert main(arguments(files, photo, out, recogniser=one)) == 2
    assert "fluxguard calibrate" in capsys.readouterr().err
    assert main(arguments(files, photo, out, hold_out=one)) == 0
    entries = json.loads(out.with_suffix(".json").read_text())["recognisers"]
    assert [entry["threshold"] for entry in entries] == [0.4, None]


def test_help_explains_every_identity(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["protect", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert all(f"{kind}: {sentence}" in told for kind, sentence in EXPLANATIONS.items())


def test_a_folder_of_pictures(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder, out = tmp_path / "in", tmp_path / "done"
    folder.mkdir()
    draw(folder / "a.png")
    draw(folder / "b.png")
    (folder / "c.png").write_bytes(b"not a picture")
    mask = str(draw_mask(tmp_path / "mask.png"))
    assert main(arguments(files, folder, out, mask=mask, intervals="6")) == 1
    assert {path.name for path in out.iterdir()} == {
        f"{stem}{end}" for stem in "ab" for end in (".png", "-unprotected.png", ".json")
    }
    assert "c.png" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_picture(files: Path, tmp_path: Path) -> None:
    photo = draw(tmp_path / "me.png")
    results = []
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert main(arguments(files, photo, tmp_path / f"{name}.png", seed=seed)) == 0
        results.append((tmp_path / f"{name}.png").read_bytes())
    assert results[0] == results[1] != results[2]


def test_identities_loras_and_the_fast_preset(files: Path, tmp_path: Path) -> None:
    photo = draw(tmp_path / "me.png")
    save_file(
        padded_state(narrow_autoencoder((8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1))),
        tmp_path / "tiny.safetensors",
    )
    save_file(lora(), tmp_path / "style.safetensors")
    cases: dict[str, dict[str, str | None]] = {
        "untargeted": {},
        "synthetic 5": {"identity": "synthetic:5"},
        "photo": {"identity": f"photo:{photo}"},
        "fast": {"preset": "fast", "tiny_vae": str(tmp_path / "tiny.safetensors")},
        "lora": {"lora": f"{tmp_path / 'style.safetensors'}:0.8"},
    }
    pictures = set()
    for name, changes in cases.items():
        out = tmp_path / "out.png"
        assert main(arguments(files, photo, out, **changes)) == 0
        report = json.loads(out.with_suffix(".json").read_text())
        if name in ("untargeted", "synthetic 5", "photo"):
            assert report["identity"] == name
        if name == "fast":
            assert report["evaluations"] == {"inversion": 8, "generation": 4 + 8}
        pictures.add(out.read_bytes())
    assert len(pictures) == len(cases)


def test_a_dry_run_writes_nothing_and_tells_the_cost(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    given = [a for a in arguments(files, photo, out, intervals=None, preset="paper") if a != "7"]
    assert main([*given, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "108 a picture (inversion 50, generation 58)" in printed
    assert "cache" in printed and "MiB" in printed and "64 x 64" in printed
    assert not out.exists()


def test_without_a_mask_the_model_itself_is_asked_where_the_words_are(
    files: Path, tmp_path: Path
) -> None:
    """Random weights find nothing meaningful; that they are asked, and named, is what counts here."""
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    given = arguments(files, photo, out, mask=None, prompt="a face in a forest")
    assert main([*given, "--html"]) == 0
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["settings"]["edit_region"].startswith("background ")
    assert "by concept attention, sure 0." in report["settings"]["edit_region"]
    assert "by concept attention" in out.with_suffix(".html").read_text()


BAD: dict[str, tuple[dict[str, str | None], str]] = {
    "no prompt": ({"prompt": None}, "--prompt"),
    "no source prompt": ({"source_prompt": None}, "--source-prompt"),
    "no recogniser": ({"recogniser": None}, "--recogniser"),
    "identity": ({"identity": "nobody"}, "got 'nobody'"),
    "identity photo": ({"identity": "photo:missing.png"}, "missing.png"),
    "size": ({"size": "100"}, "got 100"),
    "intervals": ({"intervals": "3"}, "got 3"),
    "box": ({"detector": "box:1,2"}, "box:1,2"),
    "model": ({"model": "nowhere"}, "nowhere"),
    "vgg": ({"vgg": "nothing.pth"}, "nothing.pth"),
    "lora": ({"lora": "nothing.safetensors:0.5"}, "nothing.safetensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments_are_named(
    files: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    changes, expected = BAD[name]
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    assert main(arguments(files, photo, out, **changes)) == 2
    assert expected in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


def test_bad_pictures_and_masks_are_named(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    good, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    empty, broken = tmp_path / "empty.png", tmp_path / "broken.png"
    empty.write_bytes(b"")
    broken.write_bytes(good.read_bytes()[:200])
    other = draw_mask(tmp_path / "other.png", (32, 48))
    black = draw_mask(tmp_path / "black.png", filled=False)
    cases: list[tuple[Path, dict[str, str | None], str]] = [
        (empty, {}, "empty.png"),
        (broken, {}, "broken.png"),
        (tmp_path / "missing.png", {}, "missing.png"),
        (good, {"mask": str(other)}, "32"),
        (good, {"mask": str(black)}, "black.png"),
        (good, {"mask": str(empty)}, "empty.png"),
    ]
    for photo, changes, expected in cases:
        assert main(arguments(files, photo, out, **changes)) == 2
        assert expected in capsys.readouterr().err
    assert main([*arguments(files, good, tmp_path / "out.jpg")]) == 2
    assert not list(tmp_path.glob("out*"))


def test_nan_in_the_network_stops_the_run(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pipeline = tiny_pipeline(tmp_path)
    with torch.no_grad():
        pipeline.transformer.proj_out.bias.fill_(float("nan"))
    pipeline.save_pretrained(tmp_path / "nan")
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    assert main(arguments(files, photo, out, model=str(tmp_path / "nan"))) == 2
    assert "NaN or infinity at σ" in capsys.readouterr().err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_keeps_the_best_so_far(files: Path, tmp_path: Path) -> None:
    photo, out = draw(tmp_path / "me.png"), tmp_path / "out.png"
    given = [a for a in arguments(files, photo, out, intervals="60") if a != "--quiet"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fluxguard_core", *given],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    seen, patience = b"", time.monotonic() + 120
    while b"protection" not in seen and time.monotonic() < patience:
        seen += process.stderr.read() or b""
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert out.exists() and "Stopped before the end" in out.with_suffix(".json").read_text()

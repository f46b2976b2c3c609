"""Detector adapters, thresholds measured by the command, MediaPipe points."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.cli.calibrate import register
from fluxguard_core.cli.finding import parse_detector, parse_face
from fluxguard_core.cli.known_faces import pictures_of
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.faces.detectors import (
    _yunet_finder,
    face_from_points,
    face_in_box,
    five_points,
    insightface_detector,
    typed_box,
    yunet,
)
from fluxguard_core.pictures.files import read_picture
from fluxguard_core.recognition import align, whole_frame
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.loading import load_encoder
from fluxguard_core.recognition.thresholds import read_calibration


def test_a_typed_box_is_the_face() -> None:
    (face,) = typed_box((10, 20, 50, 70))(torch.zeros(3, 100, 100))
    assert face.box == (10, 20, 50, 70) and face.landmarks is not None
    x, y = face.landmarks.unbind(-1)
    assert bool(((x > 10) & (x < 50) & (y > 20) & (y < 70)).all())
    assert x[0] < x[2] < x[1] and y[0] < y[2] < y[3]
    assert align(torch.rand(1, 3, 100, 100), face.landmarks[None], 112).shape == (1, 3, 112, 112)


def test_useless_boxes_are_refused() -> None:
    with pytest.raises(FluxGuardError, match="right > left"):
        face_in_box((50, 20, 10, 70))
    with pytest.raises(FluxGuardError, match="outside the picture"):
        typed_box((200, 20, 250, 70))(torch.zeros(3, 100, 100))


def test_five_points_of_a_mesh() -> None:
    mesh = torch.zeros(2, 478, 3)
    mesh[:, 33, 0], mesh[:, 133, 0] = 10.0, 20.0
    mesh[:, 362, 0], mesh[:, 263, 0] = 30.0, 44.0
    mesh[:, 1, 1], mesh[:, 61, 0], mesh[:, 291, 0] = 7.0, 12.0, 38.0
    points = five_points(mesh)
    assert points.shape == (2, 5, 2)
    assert points[0, :, 0].tolist() == [15.0, 37.0, 0.0, 12.0, 38.0]
    assert points[0, 2, 1] == 7.0
    with pytest.raises(FluxGuardError, match="468 or 478"):
        five_points(torch.zeros(68, 2))


def test_box_around_points_contains_them() -> None:
    points = torch.tensor([[40.0, 50], [70, 50], [55, 65], [45, 80], [66, 80]])
    x0, y0, x1, y1 = face_from_points(points).box
    assert x0 < 40 and x1 > 70 and y0 < 50 and y1 > 80


class FakeRows:
    """A detector that answers with the mean colour it was shown as score."""

    def __init__(self, flips: bool) -> None:
        self.flips = flips
        self.seen: list[Tensor] = []

    def preprocess(self, image: Tensor) -> Tensor:
        return image.flip(1) if self.flips else image

    def __call__(self, image: Tensor) -> list[Tensor]:
        self.seen.append(self.preprocess(image))
        low, high = torch.arange(15.0), torch.arange(15.0) + 1
        low[14], high[14] = 0.3, 0.8
        return [torch.stack((low, high))]


@pytest.mark.parametrize("flips", [True, False])
def test_yunet_always_sees_bgr_in_0_255(flips: bool) -> None:
    detector = FakeRows(flips)
    image = torch.zeros(3, 8, 8)
    image[0] = 1.0
    faces = _yunet_finder(detector)(image)
    shown = detector.seen[-1][0]
    assert float(shown[2].mean()) == 255.0 and float(shown[:2].abs().max()) == 0.0
    assert [round(face.score, 3) for face in faces] == [0.8, 0.3]
    assert faces[0].box == (1.0, 2.0, 3.0, 4.0)
    assert faces[0].landmarks is not None and faces[0].landmarks[4].tolist() == [13.0, 14.0]


def test_yunet_loads_a_local_file(tmp_path: Path) -> None:
    detection = pytest.importorskip("kornia.contrib.face_detection")
    torch.manual_seed(0)
    path = tmp_path / "yunet.pth"
    torch.save(detection.YuNet("test", pretrained=False).state_dict(), path)
    faces = yunet(path, score=0.0)(torch.rand(3, 64, 96))
    assert len(faces) > 0
    assert all(len(face.box) == 4 and face.landmarks is not None for face in faces)
    wrong = tmp_path / "wrong.safetensors"
    save_file({"a": torch.zeros(4, 4)}, wrong)
    with pytest.raises(FluxGuardError, match="not YuNet"):
        yunet(wrong)


def test_insightface_needs_a_pack_on_disk(tmp_path: Path) -> None:
    pytest.importorskip("insightface")
    with pytest.raises(FluxGuardError, match=r"holds no \.onnx"):
        insightface_detector(tmp_path)


def test_detectors_and_faces_have_one_grammar() -> None:
    assert parse_detector("frame") is None
    found = parse_detector("box:8,8,40,40;50,8,90,48")
    assert found is not None and len(found(torch.zeros(3, 64, 96))) == 2
    miniature = parse_detector("miniature")
    assert miniature is not None and miniature(torch.full((3, 128, 128), 0.5)) == []
    for wrong in ("dlib", "insightface", "box", "box:", "insightface:"):
        with pytest.raises(FluxGuardError, match=r"yunet\[:FILE\].*got '"):
            parse_detector(wrong)
    with pytest.raises(FluxGuardError, match="box:1,2"):
        parse_detector("box:1,2")
    assert [parse_face(text) for text in ("largest", "all", "0", "12")] == ["largest", "all", 0, 12]
    for wrong in ("-1", "first", "", "²"):
        with pytest.raises(FluxGuardError, match="largest, all or a number"):
            parse_face(wrong)


def calibrate_arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    subparsers: Any = parser.add_subparsers()
    register(subparsers)
    return parser.parse_args(["calibrate", *words])


def test_calibrate_measures_and_keeps_thresholds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = tmp_path / "model.safetensors"
    network = MobileFaceNet(width=8, depth=(1, 1, 1), dimension=32, size=32)
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, model)
    faces = tmp_path / "faces"
    (faces / "anna").mkdir(parents=True)
    for index in range(48):
        pixels = (torch.rand(12, 12, 3) * 255).byte().numpy()
        folder = faces / "anna" if index < 2 else faces
        Image.fromarray(pixels).save(folder / f"{index}.png")
    assert len({person for _, person in pictures_of(faces)}) == 47
    given = ("--faces", str(faces), "--detector", "frame", "--colour", "bgr")
    args = calibrate_arguments(str(model), *given)
    assert args.run(args) == 0
    calibration = read_calibration(model)
    assert calibration is not None
    kept = calibration.thresholds
    assert [entry.far for entry in kept] == [1e-2]
    assert "48 pictures of 47 people" in kept[0].source
    encoder = load_encoder(model)
    assert encoder.threshold() == kept[0].value and encoder.colour == "bgr"
    assert load_encoder(model, colour="rgb").thresholds == ()
    views = torch.stack([read_picture(path).rgb[0] for path, _ in pictures_of(faces)])
    mean = encoder(whole_frame(views, 32)).mean(0)
    assert encoder.mean_face is not None
    torch.testing.assert_close(encoder.mean_face, mean / mean.norm(), atol=1e-4, rtol=0)
    printed = capsys.readouterr().out
    assert f"{kept[0].value:.4f}" in printed and "too few pairs" in printed


def test_calibrate_needs_pictures(tmp_path: Path) -> None:
    with pytest.raises(FluxGuardError, match="There is no photo"):
        pictures_of(tmp_path)
    with pytest.raises(FluxGuardError, match="does not exist"):
        pictures_of(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
        (b"\x08\x06" + bytes(3000), "could not be opened as an insightface pack"),
    ],
)
def test_a_pack_that_is_none_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    pytest.importorskip("insightface")
    (tmp_path / "pack" / "inner").mkdir(parents=True)
    (tmp_path / "pack" / "inner" / "det_10g.onnx").write_bytes(content)
    with pytest.raises(FluxGuardError, match=words):
        insightface_detector(tmp_path / "pack" / "inner")
    with pytest.raises(FluxGuardError, match="one folder deeper"):
        insightface_detector(tmp_path / "pack")

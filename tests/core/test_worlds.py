"""Drawn portraits and photos are told apart, and networks of one world never judge pictures of the other."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.faces import weights_path
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.mini.world_check import LIMIT, likeness_to_a_drawing, world_of
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.loading import load_encoder
from training.mini.styles import sepia_drawing

REAL = Path(os.environ.get("FLUXGUARD_REAL", "none"))
"""A folder with photos/NAME/*.jpg of real people, for local measuring."""


def resized(image: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(image[None], (height, width), mode="bicubic", antialias=True)[0].clamp(
        0, 1
    )


def jpeg(image: Tensor, quality: int = 60) -> Tensor:
    stream = io.BytesIO()
    pixels = (image.permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    array = np.asarray(Image.open(stream).convert("RGB")).copy()
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


def grey(image: Tensor) -> Tensor:
    return image.mean(0, keepdim=True).expand(3, -1, -1)


def blurred(image: Tensor) -> Tensor:
    height, width = image.shape[-2:]
    small = max(1, height // 3), max(1, width // 3)
    return resized(resized(image, *small), height, width)


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "JPEG": jpeg,
    "grey": grey,
    "half size": lambda x: resized(x, x.shape[-2] // 2, x.shape[-1] // 2),
    "blurred": blurred,
    "dark": lambda x: 0.25 * x,
    "low contrast": lambda x: 0.4 + 0.2 * x,
    "of a portrait's size": lambda x: resized(x, 128, 128),
}
DRAWN: dict[str, Callable[[Tensor], Tensor]] = {
    **CHANGES,
    "four times the size": lambda x: resized(x, 512, 512),
    "sepia": lambda x: sepia_drawing(x[None])[0],
}


def portraits(count: int) -> Iterator[Tensor]:
    return (render(random_spec(np.random.default_rng([88, i]))).image for i in range(count))


def photos() -> list[Path]:
    return sorted((REAL / "photos").glob("*/*.jpg"))


@pytest.mark.parametrize("change", DRAWN)
def test_portraits_are_drawn(change: str) -> None:
    count = int(os.environ.get("FLUXGUARD_PORTRAITS", "6"))
    likeness = [likeness_to_a_drawing(DRAWN[change](image)) for image in portraits(count)]
    right = sum(value >= LIMIT for value in likeness)
    print(f"{change}: {right} of {count} drawn; least {min(likeness):.2f} (limit {LIMIT})")
    assert right >= 0.99 * count


@pytest.mark.skipif(not photos(), reason="FLUXGUARD_REAL names no folder with photos of people")
@pytest.mark.parametrize("change", CHANGES)
def test_photos_are_photos(change: str) -> None:
    likeness = []
    for path in photos():
        image = read_picture(path).rgb[0]
        longest = max(image.shape[-2:])
        if longest > 512:
            image = resized(image, *(round(s * 512 / longest) for s in image.shape[-2:]))
        likeness.append(likeness_to_a_drawing(CHANGES[change](image)))
    right = sum(value < LIMIT for value in likeness)
    print(f"{change}: {right} of {len(likeness)} photos; most {max(likeness):.2f} (limit {LIMIT})")
    assert right >= 0.99 * len(likeness)


def test_a_picture_without_a_face_is_no_portrait() -> None:
    noise = torch.rand(3, 90, 140, generator=torch.Generator().manual_seed(0))
    assert (
        world_of(noise)
        == world_of(resized(noise, 9, 14))
        == world_of(torch.zeros(1, 3, 64, 64))
        == "photo"
    )
    with pytest.raises(FluxGuardError, match="Expected a picture"):
        world_of(torch.rand(2, 3, 8, 8))


def test_a_photo_is_kept_from_the_miniature(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the renderer did not draw is refused by name, with the ways on, before anything is made."""
    noise = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    photo = write_png(tmp_path / "photo.png", noise)
    words = ["--prompt", "a person with red lipstick", "-o", str(tmp_path / "out.png"), "--quiet"]
    assert main(["protect", str(photo), *words]) == 2
    told = capsys.readouterr().err
    assert "photo.png is a photo" in told and "--recogniser FILE" in told
    assert "models download auraface sface yunet" in told
    assert main(["report", str(photo), str(photo), "-o", str(tmp_path / "r.html")]) == 2
    assert "every verdict would mean nothing" in capsys.readouterr().err
    (tmp_path / "faces").mkdir()
    for index in range(3):
        write_png(tmp_path / f"faces/{index}.png", noise)
    model = tmp_path / "copy.safetensors"
    model.write_bytes(weights_path("mobileface").read_bytes())
    assert load_encoder(model).world == "drawn"  # wherever it lies and whatever it is called
    assert (
        main(["calibrate", str(model), "--faces", str(tmp_path / "faces"), "--detector", "frame"])
        == 2
    )
    assert "3 of 3 pictures" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy.safetensors", "faces", "photo.png"]


def test_a_recogniser_of_photos_is_not_calibrated_on_drawings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, image in enumerate(portraits(3)):
        (tmp_path / "faces").mkdir(exist_ok=True)
        write_png(tmp_path / f"faces/{index}.png", image)
    torch.manual_seed(0)
    network = MobileFaceNet(width=8, depth=(1, 1, 1), dimension=32, size=32)
    model = tmp_path / "m.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, model)
    given = ["calibrate", str(model), "--faces", str(tmp_path / "faces"), "--detector"]
    assert main([*given, "frame"]) == 2
    assert "drawings, and the recogniser knows photos only" in capsys.readouterr().err
    assert main([*given, "miniature"]) == 2
    assert "knows drawn portraits only" in capsys.readouterr().err

"""Reading and writing pictures: orientation, profiles, alpha, grey, metadata, and bad files."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from fluxguard_core.pictures.files import (
    Picture,
    PictureError,
    luma,
    read_mask,
    read_picture,
    to_pillow,
    write_atomic,
    write_png,
)


def colours(height: int = 6, width: int = 9) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def leftovers(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


def test_png_round_trip_is_exact(tmp_path: Path) -> None:
    pixels = colours()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.rgb.shape == (1, 3, 6, 9) and picture.size == (6, 9)
    assert picture.alpha is None and not picture.grey
    assert write_png(tmp_path / "b.png", picture) == tmp_path / "b.png"
    with Image.open(tmp_path / "b.png") as written:
        assert written.mode == "RGB" and np.array_equal(np.asarray(written), pixels)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_alpha_is_kept_apart_and_restored(tmp_path: Path, mode: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 9).astype(np.uint8), (6, 1))
    image = Image.fromarray(colours()).convert("L" if mode == "LA" else "RGB")
    image.putalpha(Image.fromarray(alpha))
    if mode == "PA":
        image = image.convert("P")
    image.save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.alpha is not None and picture.alpha.shape == (1, 1, 6, 9)
    assert picture.grey == (mode == "LA")
    if mode != "PA":
        assert np.array_equal((picture.alpha[0, 0] * 255).round().byte().numpy(), alpha)
    write_png(tmp_path / "b.png", picture)
    with Image.open(tmp_path / "b.png") as written:
        assert written.mode == ("LA" if mode == "LA" else "RGBA")
        restored = torch.from_numpy(np.array(written.getchannel("A")))
        assert torch.equal(restored, (picture.alpha[0, 0] * 255).round().byte())


def test_palette_transparency_becomes_alpha(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(54, dtype=np.uint8).reshape(6, 9)).convert("P")
    image.save(tmp_path / "a.gif", transparency=5)
    picture = read_picture(tmp_path / "a.gif")
    assert picture.alpha is not None and float(picture.alpha.min()) == 0


@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_stays_grey(tmp_path: Path, mode: str) -> None:
    Image.fromarray(colours()).convert(mode).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.grey and torch.equal(picture.rgb[:, 0], picture.rgb[:, 2])
    tinted = Picture(picture.rgb * torch.tensor([1.0, 0.9, 0.8]).view(1, 3, 1, 1), None, True)
    write_png(tmp_path / "b.png", tinted)
    with Image.open(tmp_path / "b.png") as written:
        assert written.mode == "L"
        expected = (luma(tinted.rgb)[0, 0] * 255).round().byte()
        assert torch.equal(torch.from_numpy(np.array(written)), expected)
    write_png(tmp_path / "c.png", picture)
    with Image.open(tmp_path / "c.png") as same, Image.open(tmp_path / "a.png") as first:
        assert np.array_equal(np.asarray(same), np.asarray(first.convert("L")))


def test_sixteen_bit_grey_keeps_its_depth(tmp_path: Path) -> None:
    values = np.array([[0, 1, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    picture = read_picture(tmp_path / "a.png")
    assert picture.grey
    assert np.allclose(picture.rgb[0, 1].numpy() * 65535, values, atol=0.01)


@pytest.mark.parametrize("orientation", [3, 6, 8, 5])
def test_exif_orientation_is_applied_and_metadata_dropped(tmp_path: Path, orientation: int) -> None:
    pixels = np.zeros((16, 32, 3), dtype=np.uint8)
    pixels[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = {
        3: np.rot90(pixels, 2),
        6: np.rot90(pixels, -1),
        8: np.rot90(pixels),
        5: pixels.transpose(1, 0, 2),
    }[orientation]
    picture = read_picture(tmp_path / "a.png")
    assert np.array_equal((picture.rgb[0] * 255).byte().permute(1, 2, 0).numpy(), expected)
    write_png(tmp_path / "b.png", picture)
    data = (tmp_path / "b.png").read_bytes()
    assert b"SecretCamera" in (tmp_path / "a.png").read_bytes()
    assert b"SecretCamera" not in data and b"eXIf" not in data
    with Image.open(tmp_path / "b.png") as written:
        assert not written.getexif() and written.info == {}


def test_text_chunks_are_dropped(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", "/home/somebody/portrait")
    Image.fromarray(colours()).save(tmp_path / "a.png", pnginfo=info)
    write_png(tmp_path / "b.png", read_picture(tmp_path / "a.png"))
    assert b"somebody" not in (tmp_path / "b.png").read_bytes()


def test_srgb_and_unusable_profiles_keep_the_pixels(tmp_path: Path) -> None:
    """sRGB's own profile changes nothing; one that does not fit or cannot be read is left out."""
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB", 5000)).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = colours()
    Image.fromarray(pixels).save(tmp_path / "same.png", icc_profile=srgb)
    same = read_picture(tmp_path / "same.png")
    assert np.abs((same.rgb[0] * 255).permute(1, 2, 0).numpy() - pixels).max() <= 1
    for name, profile in (("lab.png", lab), ("broken.png", b"not a profile")):
        Image.fromarray(pixels).save(tmp_path / name, icc_profile=profile)
        plain = read_picture(tmp_path / name)
        assert np.array_equal((plain.rgb[0] * 255).round().permute(1, 2, 0).numpy(), pixels)


def swapped_channels() -> bytes:
    """A matrix profile like sRGB's with red and blue exchanged: applying it must swap the channels."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    for index in range(count):
        entry = 132 + 12 * index
        tag = bytes(data[entry : entry + 4])
        if tag in (b"rXYZ", b"bXYZ"):
            data[entry : entry + 4] = b"bXYZ" if tag == b"rXYZ" else b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_foreign_profile_changes_the_pixels(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = 200, 60
    name = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(name, icc_profile=swapped_channels())
    red, green, blue = (read_picture(name).rgb[0].mean((1, 2)) * 255).tolist()
    assert blue == pytest.approx(200, abs=4) and green == pytest.approx(60, abs=4)
    assert red == pytest.approx(0, abs=4)


def test_cmyk_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    red, green, _ = read_picture(tmp_path / "a.jpg").rgb[0].mean((1, 2)).tolist()
    assert red > 0.9 and green < 0.1


def test_bad_files_have_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("hello")
    Image.fromarray(colours(64, 64)).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    Image.new("F", (4, 4)).save(tmp_path / "float.tiff")
    cases = {
        "none.png": "does not exist",
        "empty.png": "0 bytes",
        "text.png": "not a picture",
        "cut.png": "damaged",
        "float.tiff": "8 or 16 bits",
        "": "folder",
    }
    for name, message in cases.items():
        with pytest.raises(PictureError, match=message):
            read_picture(tmp_path / name)
    with pytest.raises(PictureError, match=r"64x64.*Scale it down"):
        read_picture(tmp_path / "whole.png", max_pixels=1000)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize(
    ("side", "message"), [(12_000, "12000x12000"), (30_000, "too many pixels")]
)
def test_a_huge_picture_is_refused_before_it_is_unpacked(
    tmp_path: Path, side: int, message: str
) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(bytes(100)))
    (tmp_path / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + header + data)
    with pytest.raises(PictureError, match=message):
        read_picture(tmp_path / "huge.png")


def test_nothing_is_left_when_writing_fails(tmp_path: Path) -> None:
    target = tmp_path / "a.png"
    write_png(target, torch.zeros(1, 3, 4, 4))
    before = target.read_bytes()
    for bad, message in (
        (torch.full((1, 3, 4, 4), float("nan")), "NaN"),
        (torch.zeros(2, 3, 4, 4), "one by one"),
        (Picture(torch.zeros(1, 3, 4, 4), torch.ones(1, 1, 5, 5)), "one size"),
    ):
        with pytest.raises(PictureError, match=message):
            write_png(target, bad)
    with pytest.raises(PictureError, match=r"\.png"):
        write_png(tmp_path / "a.jpg", torch.zeros(3, 4, 4))
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(PictureError, match="cannot be written"):
        write_png(tmp_path / "folder.png", torch.zeros(3, 4, 4))
    with pytest.raises(PictureError, match="cannot be written"):
        write_atomic(target / "below" / "x.json", "{}")
    assert target.read_bytes() == before
    assert leftovers(tmp_path) == [] and not (tmp_path / "a.jpg").exists()


def test_values_are_clamped_and_rounded() -> None:
    values = torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1)
    assert to_pillow(values).getpixel((0, 0)) == (0, 128, 255)


def test_masks(tmp_path: Path) -> None:
    pixels = np.zeros((6, 9), dtype=np.uint8)
    pixels[2:4, 3:5] = 255
    pixels[5, 8] = 128
    Image.fromarray(pixels).save(tmp_path / "m.png")
    mask = read_mask(tmp_path / "m.png", (6, 9))
    assert mask.shape == (1, 1, 6, 9)
    assert torch.allclose(mask[0, 0], torch.from_numpy(pixels.astype(np.float32) / 255), atol=1e-6)
    with pytest.raises(PictureError, match=r"9x6.*12x10"):
        read_mask(tmp_path / "m.png", (10, 12))
    Image.new("L", (9, 6)).save(tmp_path / "black.png")
    with pytest.raises(PictureError, match="empty"):
        read_mask(tmp_path / "black.png", (6, 9))
    painted = Image.new("RGBA", (9, 6), (255, 255, 255, 0))
    painted.putpixel((1, 1), (255, 255, 255, 255))
    painted.save(tmp_path / "painted.png")
    mask = read_mask(tmp_path / "painted.png", (6, 9))
    assert float(mask.sum()) == pytest.approx(1, abs=1e-5)
    assert float(mask[0, 0, 1, 1]) == pytest.approx(1, abs=1e-6)


def test_deep_grey_is_read_by_its_own_white(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    cases: dict[str, tuple[np.ndarray, str]] = {
        "a.png": (grey * 257, "full depth"),
        "b.tif": (grey * 257, "full depth"),
        "c.tif": (grey.astype(np.int32), "255 was read as white"),
        "d.tif": (grey.astype(np.int32) * 257, "65,535 was read as white"),
        "e.tif": (grey.astype(np.int32) * 8_421_504, "2,147,483,647 was read as white"),
    }
    for name, (values, note) in cases.items():
        Image.fromarray(values).save(tmp_path / name)
        picture = read_picture(tmp_path / name)
        assert picture.grey and any(note in told for told in picture.notes), name
        assert np.allclose(picture.rgb[0, 0].numpy() * 255, grey, atol=0.01), name
    Image.fromarray(grey.astype(np.int32) - 5).save(tmp_path / "f.tif")
    with pytest.raises(PictureError, match="below zero"):
        read_picture(tmp_path / "f.tif")


def test_transparency_of_deep_grey_becomes_alpha(tmp_path: Path) -> None:
    values = np.full((6, 9), 40_000, dtype=np.uint16)
    values[2, 3] = 3
    Image.fromarray(values).save(tmp_path / "a.png", transparency=3)
    picture = read_picture(tmp_path / "a.png")
    assert picture.alpha is not None
    assert float(picture.alpha[0, 0, 2, 3]) == 0 and float(picture.alpha.sum()) == 53


def test_every_conversion_is_told(tmp_path: Path) -> None:
    image = Image.fromarray(colours(16, 16))
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "profile.png", icc_profile=swapped_channels())
    image.save(tmp_path / "broken.png", icc_profile=b"not a profile")
    image.convert("CMYK").save(tmp_path / "cmyk.tif")
    image.save(tmp_path / "film.webp", save_all=True, append_images=[image.rotate(90)])
    notes = {path.stem: read_picture(path).notes for path in tmp_path.iterdir()}
    assert notes.pop("plain") == ()
    for name, words in {
        "broken": "left out, as browsers do",
        "cmyk": "CMYK without a profile",
        "film": "several pictures; the first",
        "profile": "to sRGB",
    }.items():
        assert any(words in note for note in notes[name]), (name, notes[name])


@pytest.mark.parametrize("kind", ["xmp", "workflow", "icc", "checksum"])
def test_notes_in_a_png_never_damage_its_picture(tmp_path: Path, kind: str) -> None:
    pixels, path = colours(16, 16), tmp_path / "a.png"
    info, more = PngImagePlugin.PngInfo(), {}
    if kind == "xmp":
        info.add_itxt("XML:com.adobe.xmp", "<x>" + "history " * 200_000 + "</x>", zip=True)
    elif kind == "icc":
        more["icc_profile"] = bytes(2_000_000)
    else:
        info.add_text("workflow", "node " * (300_000 if kind == "workflow" else 3), zip=True)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(path, pnginfo=info, exif=exif, **more)
    if kind == "checksum":
        data = path.read_bytes()
        path.write_bytes(data.replace(b"workflow", b"workflaw"))
    picture = read_picture(path)
    expected = np.rot90(pixels, 2)
    assert np.array_equal((picture.rgb[0] * 255).round().permute(1, 2, 0).numpy(), expected)


def test_a_large_profile_beside_large_notes_is_applied(tmp_path: Path) -> None:
    """Pillow alone refuses the text; the profile in the same file still turns the colours."""
    info = PngImagePlugin.PngInfo()
    info.add_text("workflow", "node " * 300_000, zip=True)
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png", pnginfo=info, icc_profile=swapped_channels())
    red, _, blue = (read_picture(tmp_path / "a.png").rgb[0].mean((1, 2)) * 255).tolist()
    assert blue == pytest.approx(200, abs=4) and red == pytest.approx(0, abs=4)


def entry(tag: int, kind: int, count: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag, kind, count) + value


def exif_block(*entries: bytes) -> bytes:
    head = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries))
    return head + b"".join(entries) + bytes(4)


ROTATED = entry(0x0112, 3, 1, struct.pack("<HH", 6, 0))


@pytest.mark.parametrize(
    ("exif", "size"),
    [
        (exif_block(ROTATED, entry(0x8769, 4, 1, struct.pack("<I", 7_000_000))), (9, 6)),
        (exif_block(ROTATED, entry(0x8769, 9, 1, struct.pack("<i", -1))), (9, 6)),
        (exif_block(ROTATED, entry(0x8825, 2, 4, b"abc\0")), (9, 6)),
        (b"Exif\0\0" + exif_block(ROTATED), (9, 6)),
        (exif_block(entry(0x0112, 3, 2, struct.pack("<HH", 6, 6))), (9, 6)),
        (exif_block(entry(0x0112, 3, 1, struct.pack("<HH", 255, 0))), (6, 9)),
        (b"Exif\0\0II*\0\x08\0\0\0\x05\0", (6, 9)),
        (b"Exif\0\0garbage garbage", (6, 9)),
    ],
)
def test_broken_exif_leaves_the_picture_and_its_orientation(
    tmp_path: Path, exif: bytes, size: tuple[int, int]
) -> None:
    Image.fromarray(colours(6, 9)).save(tmp_path / "a.jpg", exif=exif)
    assert read_picture(tmp_path / "a.jpg").size == size

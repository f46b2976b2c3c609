"""The photos of a folder: what is taken, what is passed over in words, and what is never looked at."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from fluxguard_core.pictures.errors import PictureError
from fluxguard_core.pictures.files import read_picture
from fluxguard_core.pictures.folder import photos_in
from fluxguard_core.pictures.formats import format_of, readable_formats, readable_suffixes


def draw(path: Path, format: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (200, 90, 60)).save(path, format=format)
    return path


def names(folder: Path, paths: tuple[Path, ...]) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_every_readable_format_is_a_photo_and_is_read(tmp_path: Path) -> None:
    formats = {
        "a.jpg": "JPEG",
        "b.jfif": "JPEG",
        "c.webp": "WEBP",
        "d.tiff": "TIFF",
        "e.bmp": "BMP",
    }
    formats |= {
        "f.gif": "GIF",
        "g.JPG": "JPEG",
        "h.jp2": "JPEG2000",
        "i.mpo": "MPO",
        "j.png": "PNG",
    }
    if "AVIF" in readable_formats():
        formats["k.avif"] = "AVIF"
    for name, format in formats.items():
        draw(tmp_path / name, format)
    photos = photos_in(tmp_path)
    assert names(tmp_path, photos.taken) == sorted(formats, key=str.casefold)
    assert photos.passed_over == ()
    assert all(read_picture(path).size == (16, 16) for path in photos.taken)


def test_what_cannot_be_read_is_passed_over_in_words(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    (tmp_path / "raw.NEF").write_bytes(b"II*\0" + bytes(400))
    (tmp_path / "film.mov").write_bytes(b"\0\0\0\x14ftypqt  ")
    (tmp_path / "notes.txt").write_text("hello")
    draw(tmp_path / "sub/b.jpg")
    photos = photos_in(tmp_path)
    told = photos.told()
    assert names(tmp_path, photos.taken) == ["a.jpg"]
    assert [line.split(":")[0] for line in told] == ["film.mov", "raw.NEF", "sub"]
    assert "raw file" in told[1] and "‹give recursive›" in told[2]
    assert [entry.path.name for entry in photos.passed_over if not entry.shows] == ["notes.txt"]
    with pytest.raises(PictureError, match="developed first"):
        read_picture(tmp_path / "raw.NEF")


def test_heic_is_read_or_its_package_is_named(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(500))
    photos = photos_in(tmp_path)
    if "HEIF" in readable_formats():
        assert names(tmp_path, photos.taken) == ["a.jpg", "b.heic"]
        return
    assert "‹install pillow-heif›" in photos.told()[0]
    with pytest.raises(PictureError, match="pillow-heif"):
        read_picture(tmp_path / "b.heic")


def test_the_first_bytes_decide_where_the_suffix_does_not(tmp_path: Path) -> None:
    for name in ("renamed.heic", "photo", "photo.jpg_large"):
        draw(tmp_path / name, "JPEG")
    photos = photos_in(tmp_path)
    assert names(tmp_path, photos.taken) == ["photo", "photo.jpg_large", "renamed.heic"]
    assert all(read_picture(path).size == (16, 16) for path in photos.taken)


def test_hidden_files_and_companions_are_left_out(tmp_path: Path) -> None:
    draw(tmp_path / "a.jpg")
    (tmp_path / "._a.jpg").write_bytes(bytes.fromhex("0005160700020000") + bytes(90))
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    draw(tmp_path / ".cache/b.jpg")
    draw(tmp_path / "__MACOSX/c.jpg")
    assert photos_in(tmp_path, recursive=True).passed_over == ()
    assert names(tmp_path, photos_in(tmp_path, recursive=True).taken) == ["a.jpg"]


def test_folders_are_walked_once_and_never_in_circles(tmp_path: Path) -> None:
    draw(tmp_path / "b.jpg")
    draw(tmp_path / "Ann/one.jpg")
    draw(tmp_path / "Ann/folder.jpg/two.png")
    (tmp_path / "Ann/back").symlink_to(tmp_path)
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    photos = photos_in(tmp_path, recursive=True)
    assert names(tmp_path, photos.taken) == ["Ann/folder.jpg/two.png", "Ann/one.jpg", "b.jpg"]
    assert sorted(entry.path.name for entry in photos.passed_over) == ["gone.jpg", "pipe.jpg"]


def test_a_folder_without_photos_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"no photo.*\.png"):
        photos_in(tmp_path)
    (tmp_path / "a.cr3").write_bytes(b"x")
    with pytest.raises(PictureError, match=r"no photo.*a\.cr3: A camera's raw file"):
        photos_in(tmp_path)
    with pytest.raises(PictureError, match="does not exist"):
        photos_in(tmp_path / "none")
    with pytest.raises(PictureError, match="a file, not a folder"):
        photos_in(tmp_path / "a.cr3")


def test_formats_that_run_programs_are_never_opened(tmp_path: Path) -> None:
    assert not {"EPS", "WMF", "FITS", "GRIB", "HDF5", "BUFR"} & set(readable_formats())
    assert not {".eps", ".ps", ".fits", ".h5"} & set(readable_suffixes())
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(PictureError, match="not a picture in a known format"):
        read_picture(tmp_path / "a.png")


def test_signatures() -> None:
    assert format_of(b"\x89PNG\r\n\x1a\n....") == "PNG"
    assert format_of(b"RIFF\0\0\0\0WEBP") == "WEBP"
    assert format_of(b"\0\0\0\x1cftypavif") == "AVIF"
    assert format_of(b"\0\0\0\x1cftypisom") is None

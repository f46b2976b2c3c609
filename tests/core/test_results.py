"""Results are whole or not there, written before anything is measured, found again, and never mistaken."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxguard_core.cli import sources
from fluxguard_core.cli.main import main
from fluxguard_core.evaluate.html import PRIVATE
from fluxguard_core.mini.models import miniature
from fluxguard_core.mini.portrait_spec import identity, random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.pipelines import photo as pipeline
from fluxguard_core.pipelines.models import Models

QUICK = (
    *("--quiet", "--intervals", "3", "--attack-last", "1", "--optimiser-steps", "1"),
    *("--prompt", "a person with red lipstick"),
)


@pytest.fixture(scope="module")
def models() -> Models:
    return miniature()


@pytest.fixture
def loaded(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """The miniature, loaded once for all the runs here."""
    monkeypatch.setattr(sources, "load_models", lambda args: models)


def portraits(folder: Path, count: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        drawn = render(random_spec(7_000_000 + seed, identity(7_000_000 + seed)))
        write_png(folder / f"p{seed}.png", drawn.image[None])
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


@pytest.mark.usefixtures("loaded")
def test_a_measurement_that_fails_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = portraits(tmp_path / "in", 1), tmp_path / "out.png"

    def no_memory(*given: object, **more: object) -> None:
        assert out.is_file() and out.with_suffix(".json").is_file()  # before it is measured
        raise MemoryError

    monkeypatch.setattr(pipeline, "make_report", no_memory)
    assert main(["protect", str(folder / "p0.png"), "-o", str(out), *QUICK]) == 0
    assert "not measured: MemoryError" in capsys.readouterr().out
    assert read_picture(out).size == (128, 128)
    assert json.loads(out.with_suffix(".json").read_text())["unmeasured"] == "MemoryError"


@pytest.mark.usefixtures("loaded")
def test_a_folder_goes_on_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = portraits(tmp_path / "in", 2), tmp_path / "out"
    given = ["protect", str(folder), "-o", str(out), *QUICK]
    assert main(given) == 0
    assert names(out) == {
        f"p{i}{end}" for i in range(2) for end in (".png", "-unprotected.png", ".json")
    }
    made = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert main(given) == 0
    assert capsys.readouterr().out.count("done already") == 2
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == made
    (out / "p0.png").write_bytes((out / "p0.png").read_bytes()[:-20])  # no longer whole
    write_png(folder / "p1.png", read_picture(folder / "p0.png").rgb)  # another photo of that name
    assert main(given) == 0
    assert all((out / f"p{i}.png").stat().st_mtime_ns != made[out / f"p{i}.png"] for i in range(2))
    made = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main([*given, "--seed", "1"]) == 0  # other settings
    assert (out / "p0.png").stat().st_mtime_ns != made[out / "p0.png"]
    before = (out / "p0.png").stat().st_mtime_ns
    assert main([*given, "--seed", "1", "--again"]) == 0
    assert (out / "p0.png").stat().st_mtime_ns != before


@pytest.mark.usefixtures("loaded")
def test_what_shows_an_earlier_result_goes_with_it(tmp_path: Path) -> None:
    folder, out = portraits(tmp_path / "in", 1), tmp_path / "out"
    given = ["protect", str(folder), "-o", str(out), *QUICK]
    assert main([*given, "--html"]) == 0
    assert names(out) == {"p0.png", "p0-unprotected.png", "p0.json", "p0.html"}
    (out / "p0-where.png").write_bytes(b"mine")  # no result of that run
    edited = (out / "p0-unprotected.png").read_bytes()
    assert main([*given, "--prompt", "a person wearing a red hat"]) == 0
    assert names(out) == {"p0.png", "p0-unprotected.png", "p0-where.png", "p0.json"}
    assert (out / "p0-unprotected.png").read_bytes() != edited
    assert (out / "p0-where.png").read_bytes() == b"mine"


@pytest.mark.usefixtures("loaded")
def test_one_pictures_trouble_ends_no_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, out = portraits(tmp_path / "in", 2), tmp_path / "out"
    (folder / "a.png").write_bytes(b"no picture")
    write_png(folder / "b.png", torch.full((1, 3, 128, 128), 0.5))
    if sys.platform != "win32":
        os.rename(os.fsencode(folder / "p1.png"), os.fsencode(folder) + b"/\xff\xfe.png")
    assert main(["protect", str(folder), "-o", str(out), *QUICK]) == 1
    told = capsys.readouterr()
    assert "a.png" in told.err and "b.png: No face" in told.err
    weak = told.out.count("Not protected: every recogniser")
    counted = f"{2 - weak} protected, " + (f"{weak} worked on, but every " if weak else "2 of 4")
    assert counted in told.err and "2 of 4 pictures could not be protected." in told.err
    assert len([name for name in names(out) if name.endswith(".json")]) == 2

    real = pipeline.protect_portrait

    def strange(*given: object, **more: object) -> object:
        raise ZeroDivisionError("something that nobody thought of")

    monkeypatch.setattr(pipeline, "protect_portrait", strange)
    assert main(["protect", str(folder), "-o", str(tmp_path / "other"), *QUICK]) == 1
    assert "ZeroDivisionError: something that nobody" in capsys.readouterr().err
    monkeypatch.setattr(pipeline, "protect_portrait", real)


def whole(out: Path) -> None:
    """Every file that has a name of its own is whole, and no picture lies there without its numbers."""
    for path in out.iterdir() if out.exists() else ():
        if path.name.endswith(".tmp"):
            continue
        if path.suffix == ".json":
            assert "result" in json.loads(path.read_text())
        else:
            with Image.open(path) as image:
                assert np.asarray(image).shape == (128, 128, 3)
            assert Path(str(path).replace("-unprotected", "")).with_suffix(".json").exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.usefixtures("loaded")
def test_a_killed_run_leaves_whole_files_or_none(tmp_path: Path) -> None:
    folder, out = portraits(tmp_path / "in", 1), tmp_path / "out"
    given = ["protect", str(folder), "-o", str(out), *QUICK]

    def run(seconds: float | None) -> float:
        started = time.perf_counter()
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os._exit(main([*given, "--again"] if seconds is not None else given))
        if seconds is not None:
            time.sleep(seconds)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert seconds is not None or os.waitstatus_to_exitcode(status) == 0
        return time.perf_counter() - started

    length, moments = run(None), random.Random(5)
    for _ in range(30):
        run(moments.uniform(0, length))
        whole(out)
    run(None)
    whole(out)
    assert names(out) == {
        f"p0{end}" for end in (".png", "-unprotected.png", ".json")
    }  # what the killed runs were writing is gone


def faces_in(folder: Path, face: np.ndarray) -> list[str]:
    """Files anywhere in a folder in which the face is seen: as a picture, within a page, or as its raw pixels."""

    def seen(data: bytes) -> bool:
        try:
            with Image.open(BytesIO(data)) as image:
                close = np.abs(np.asarray(image.convert("RGB").resize((128, 128)), int) - face)
            return bool(close[40:100, 30:98].mean() < 6)
        except OSError:
            inside = re.findall(rb"base64,([A-Za-z0-9+/=]+)", data)
            return face.astype(np.uint8)[64].tobytes() in data or any(
                seen(base64.b64decode(part)) for part in inside
            )

    files = (path for path in folder.rglob("*") if path.is_file())
    return [path.name for path in files if seen(path.read_bytes())]


@pytest.mark.usefixtures("loaded")
def test_nothing_is_left_but_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    for folder in (temporary, work):
        folder.mkdir()
    for name in ("TMPDIR", "TEMP", "TMP", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.chdir(work)
    photos, out = portraits(tmp_path / "secret-place", 2), tmp_path / "out"
    (photos / "z.png").write_bytes(b"no picture")
    assert main(["protect", str(photos), "-o", str(out), "--html", *QUICK]) == 1
    assert not [path for path in (*temporary.rglob("*"), *work.rglob("*")) if path.is_file()]
    ends = (".png", "-unprotected.png", ".json", ".html")
    assert names(out) == {f"p{i}{end}" for i in range(2) for end in ends}
    face = np.asarray(Image.open(photos / "p0.png").convert("RGB"), int)
    held = set(faces_in(out, face))
    assert "p0.html" in held  # a page for the owner, which says so
    assert held <= {"p0-unprotected.png", "p0.png", "p0.html"}
    assert PRIVATE in (out / "p0.html").read_text(encoding="utf-8")
    for path in out.iterdir():
        data = path.read_bytes()
        assert b"secret-place" not in data and str(tmp_path).encode() not in data
        if path.suffix == ".json":
            values = json.loads(data)
            assert max(len(part) for part in values.values() if isinstance(part, list)) < 50
            assert "embedding" not in data.decode().lower().replace("no embeddings", "")
    told = capfd.readouterr()
    assert "Traceback" not in told.err and "secret-place/p0" not in told.out

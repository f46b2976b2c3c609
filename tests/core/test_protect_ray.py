"""A folder on two workers of a local Ray cluster, of which one is killed: every picture once, the bad one told."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fluxguard_core.cli.main import main
from fluxguard_core.cli.protect_ray import Throughput
from fluxguard_core.mini.people import HELD_OUT_WORLD, spec_of
from fluxguard_core.mini.portrait_spec import with_attributes
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import write_png

ROOT = Path(__file__).parents[2]
QUICK = ["--prompt", "a person wearing red lipstick", "--intervals", "2", "--attack-last", "1"]


def workers(group: int) -> list[int]:
    """Processes of a session that run Ray's actors for the pictures."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "cmdline").read_bytes()
            if b"ray::" in name and b"MapBatches" in name and os.getsid(int(entry.name)) == group:
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return sorted(found)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the workers in /proc")
def test_a_killed_workers_pictures_are_done_by_others(tmp_path: Path) -> None:
    pytest.importorskip("ray.data")
    photos, out = tmp_path / "photos", tmp_path / "out"
    for person in range(4):
        portrait = render(with_attributes(spec_of(HELD_OUT_WORLD, person, 0), lipstick="none"))
        (photos / "sub").mkdir(parents=True, exist_ok=True)
        write_png(photos / f"{person}.png", portrait.image[None])
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n and nothing more")
    command = [
        *(sys.executable, "-m", "fluxguard_core", "protect", str(photos), "-o", str(out)),
        *(*QUICK, "--optimiser-steps", "1", "--ray"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    two = sorted(os.sched_getaffinity(0))[:2]
    if len(two) < 2:
        pytest.skip("one processor is no two workers")
    log = tmp_path / "log.txt"
    with log.open("w") as stream:
        running = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, two),
        )
        killed = None
        while running.poll() is None:
            if killed is None and list(out.glob("*.json")):
                alive = workers(running.pid)
                if alive:
                    killed = alive[0]
                    os.kill(killed, signal.SIGKILL)
            time.sleep(0.1)
    told = log.read_text()
    assert killed is not None, told
    assert running.returncode == 1, told
    assert "1 of 5 pictures could not be protected" in told and "bad.png: " in told
    for person in range(4):
        state = json.loads((out / f"{person}.json").read_text())["result"]
        assert state["state"] == "finished"
        assert len(re.findall(rf"{person}\.png: ", told)) == 1
    assert len(list(out.rglob("*.png"))) == 8 and not list(out.rglob("*.tmp"))
    assert re.search(r"5 pictures on 2 workers in \d+ s: [\d.]+ a minute, [\d.]+ times", told)
    in_vain = told.count("Not protected: every recogniser")
    assert (
        in_vain
        and f", {in_vain} worked on, but every recogniser still matches, 1 passed over" in told
    )
    # What is there is not made again, with Ray or without.
    assert main([*command[3:-1], "--dry-run"]) == 0


def test_throughput_is_told_against_one_process() -> None:
    told = Throughput(pictures=30, workers=4, seconds=60.0, busy=180.0).told()
    assert "30.0 a minute" in told and "3.00 times" in told


def test_without_ray_it_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    portrait = render(spec_of(HELD_OUT_WORLD, 0, 0))
    (tmp_path / "in").mkdir()
    write_png(tmp_path / "in" / "a.png", portrait.image[None])
    code = main(["protect", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *QUICK, "--ray"])
    assert code == 2 and "ray[data]" in capsys.readouterr().err

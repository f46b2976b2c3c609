"""A cloak is trained on a folder, and applied to a portrait in one pass, within its bound."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.main import main
from fluxguard_core.defences.attgan import AttGANShape
from fluxguard_core.defences.attgan_files import save_attgan
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun
from fluxguard_core.defences.cloak import EYES, Cloak, CloakGenerator, load_cloak, save_cloak
from fluxguard_core.defences.cloak_faces import eyes_in, recognise_in_frame, working_side
from fluxguard_core.mini.faces import load_ensemble
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.protect.engine import Draw
from fluxguard_core.protect.photo_views import PhotoViews
from fluxguard_core.protect.strangers import stranger_term


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portraits")
    for number in range(3):
        write_png(folder / f"{number}.png", render(random_spec(700 + number)).image[None])
    return folder


def test_a_cloak_against_deepfakes_and_recognition(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = AttGANShape(("Smiling", "Eyeglasses"), 64, 4, head=8)
    run = AttGANRun.fresh(shape, AttGANPlan(1))
    gan = tmp_path / "gan.safetensors"
    save_attgan(gan, run.generator, run.critic, shape, {"world": "drawn"})
    out = tmp_path / "cloak.safetensors"
    given = ["cloak", "train", "--faces", str(faces), "-o", str(out), "--attgan", str(gan)]
    given += ["--side", "64", "--batch", "2", "--device", "cpu", "--recogniser", "mini"]
    assert main([*given, "--steps", "2"]) == 0
    assert "3 faces (drawn)" in capsys.readouterr().out
    assert main([*given, "--steps", "4"]) == 0
    assert "after 4 steps" in capsys.readouterr().out
    cloak = load_cloak(out)
    assert cloak.against == ("gan.safetensors", "mini-ir", "mini-irse", "mini-facenet")
    assert out.stat().st_size < 5_000_000
    made = tmp_path / "made.png"
    apply = ["cloak", "apply", str(faces / "0.png"), "-o", str(made), "--cloak", str(out)]
    assert main([*apply, "--recogniser", "mini"]) == 0
    said = capsys.readouterr().out
    assert "mini-vit (held out)" in said and "what it does to others was not measured" in said
    found = re.search(r"at most (\d+) of 255", said)
    assert found is not None and int(found[1]) <= 6
    before, after = read_picture(faces / "0.png").rgb, read_picture(made).rgb
    assert not torch.equal(before, after)
    assert float((before - after).abs().max()) * 255 < 6.01
    other, mask = (faces / "1.png").read_bytes(), tmp_path / "mask.png"
    write_png(mask, torch.ones(1, 1, *before.shape[-2:]))
    for place in (faces / "1.png", mask):  # another photo, and a file that is read
        assert main([*apply[:3], "-o", str(place), *apply[5:], "--mask", str(mask)]) == 2
        told = capsys.readouterr().err
        assert "no result of FluxGuard" in told or "take the place of" in told
    assert (faces / "1.png").read_bytes() == other
    assert main([*apply, "--refine", "2"]) == 2
    assert "no recogniser to refine" in capsys.readouterr().err
    assert main([*apply, "--refine", "2", "--recogniser", "mini"]) == 0
    assert "Refined in 2 steps" in capsys.readouterr().out
    refined = read_picture(made).rgb
    assert not torch.equal(refined, after) and not torch.equal(refined, before)
    assert main([*given, "--ask-only", "--steps", "5"]) == 0
    assert "pictures asked of the models" in capsys.readouterr().out


def test_worlds_and_wrong_files_are_refused(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = save_cloak(tmp_path / "photo.safetensors", Cloak(CloakGenerator(8), world="photo"))
    given = ["cloak", "apply", str(faces / "0.png"), "-o", str(tmp_path / "x.png"), "--cloak"]
    assert main([*given, str(photo)]) == 2
    assert "drawn portrait" in capsys.readouterr().err
    write_png(tmp_path / "noise.png", torch.rand(1, 3, 64, 64))
    drawn = save_cloak(tmp_path / "drawn.safetensors", Cloak(CloakGenerator(8), world="drawn"))
    assert main([given[0], given[1], str(tmp_path / "noise.png"), *given[3:], str(drawn)]) == 2
    assert "Nothing was done" in capsys.readouterr().err
    train = ["cloak", "train", "--faces", str(faces), "-o", str(tmp_path / "n.safetensors")]
    assert main([*train, "--side", "64", "--steps", "1", "--device", "cpu"]) == 2
    assert "nothing to train" in capsys.readouterr().err


def test_the_face_is_seen_as_large_as_in_training() -> None:
    points = torch.tensor([[100.0, 100.0], [214.0, 100.0], [0, 0], [0, 0], [0, 0]])
    assert working_side((800, 600), points, eyes_in(256)) == pytest.approx(403, abs=3)
    assert working_side((800, 600), points, eyes_in(128)) == pytest.approx(202, abs=3)
    assert working_side((300, 200), points / 10, EYES) == 300
    assert eyes_in(256) == pytest.approx(EYES, abs=0.1)


def test_one_pass_takes_a_fraction_of_the_optimisers_steps(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """512 x 512 on one thread: the generator beside gradients of three recognisers, 55 of which an optimiser needs.

    Both are timed in one run, the cloak three times, the gradient twice; processor time, so that other work on the
    machine does not count.
    """
    torch.set_num_threads(1)
    picture = torch.rand(1, 3, 512, 512)
    cloak = Cloak(CloakGenerator().eval())
    cloak(picture)
    begun = time.process_time()
    for _ in range(3):
        cloak(picture)
    once = (time.process_time() - begun) / 3
    ensemble = load_ensemble(held_out=["mobileface"])
    points = torch.tensor(
        [[[180.0, 230.0], [330.0, 230.0], [256.0, 300.0], [200.0, 360.0], [315.0, 360.0]]]
    )
    views = PhotoViews(points, 2)
    term = stranger_term(ensemble, picture, views.plain)
    generator = torch.Generator().manual_seed(0)
    begun = time.process_time()
    for _ in range(2):
        x = picture.clone().requires_grad_(True)
        term(x, Draw(views(generator), generator)).loss.sum().backward()
    step = (time.process_time() - begun) / 2
    with capsys.disabled():
        print(f"\ncloak {1000 * once:.0f} ms, 55 steps {1000 * 55 * step:.0f} ms")
    assert once < 55 * step / 10


def test_the_recognisers_term_sends_gradient() -> None:
    faces = torch.stack([render(random_spec(5)).image, render(random_spec(6)).image])
    alike = recognise_in_frame(load_ensemble())
    assert float(alike(faces, faces).min()) > 0.999
    moved = (faces + 0.02 * torch.rand_like(faces)).requires_grad_(True)
    alike(moved, faces).sum().backward()
    assert moved.grad is not None and float(moved.grad.abs().max()) > 0

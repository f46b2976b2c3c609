"""`fluxguard shield`: the plan first, photos out with their numbers, folders that resume, worlds kept apart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.backends.taesd import narrow_autoencoder, padded_state
from fluxguard_core.cli import shield_edits as edits_command
from fluxguard_core.cli.main import main
from fluxguard_core.defences.costs import edit_passes, training_passes
from fluxguard_core.defences.edits import EDIT_SHIELDS, shield_edits
from fluxguard_core.defences.surrogates import surrogate
from fluxguard_core.defences.training import TRAINING_SHIELDS, shield_training
from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render
from fluxguard_core.mini.world import weights_path
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet

from .tiny import noise, tiny_stack


def portrait(path: Path, seed: int) -> Path:
    write_png(path, render(random_spec(seed)).image[None])
    return path


def photo(path: Path, size: tuple[int, int] = (96, 72)) -> Path:
    """Nothing that looks drawn."""
    small = noise(1, 3, 12, 12, seed=4).sigmoid()
    write_png(path, torch.nn.functional.interpolate(small, size, mode="bicubic").clamp(0, 1))
    return path


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("vae") / "tiny.safetensors"
    state = padded_state(narrow_autoencoder((4, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1)))
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    return path


def numbers(path: Path) -> dict[str, object]:
    return dict(json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))


def within(before: Path, after: Path, budget: int) -> Tensor:
    """The change, checked against the budget and the grid."""
    change = 255 * (read_picture(after).rgb - read_picture(before).rgb)
    assert change.abs().max() <= budget + 1e-3 and torch.allclose(change, change.round(), atol=1e-3)
    return change


def test_a_folder_of_drawn_portraits_is_shielded_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for seed in (7, 8):
        portrait(source / f"{seed}.png", seed)
    given = ["shield", "edits", str(source), "-o", str(out), "--quiet", "--steps", "4"]
    assert main([*given, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    assert "latent, flat minima (FDM), 4 steps" in plan and "8 times forward and back" in plan
    assert "memory, estimated" in plan and not out.exists()
    assert main(given) == 0
    assert "2 shielded" in capsys.readouterr().out
    for seed in (7, 8):
        change = within(source / f"{seed}.png", out / f"{seed}.png", 8)
        assert change.abs().max() > 4
        told = numbers(out / f"{seed}.png")
        assert told["preset"] == "fast" and told["budget_of_255"] == 8
        assert told["change"]["likeness"]["haarpsi"] > 0.8  # type: ignore[index]
        assert told["after_rounding"]["latent"]["distance"] > 0  # type: ignore[index]
    stamp = (out / "7.png").stat().st_mtime_ns
    assert main(given) == 0
    assert capsys.readouterr().out.count("done already") == 2
    portrait(source / "8.png", 9)  # another photo under the same name
    assert main(given) == 0
    assert "1 shielded, 1 done already" in capsys.readouterr().out
    assert (out / "7.png").stat().st_mtime_ns == stamp


def test_a_stopped_result_is_kept_and_made_anew_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = iter([False, False, True])

    @contextmanager
    def stopping() -> Iterator[object]:
        yield lambda: next(asked, False)

    monkeypatch.setattr(edits_command, "stopping", stopping)
    source, out = portrait(tmp_path / "me.png", 7), tmp_path / "out.png"
    given = ["shield", "edits", str(source), "-o", str(out), "--quiet", "--steps", "6"]
    assert main(given) == 130
    assert "stopped early" in capsys.readouterr().out
    assert numbers(out)["result"]["state"] == "stopped"  # type: ignore[index]
    assert within(source, out, 8).abs().max() > 0
    assert main(given) == 0
    assert numbers(out)["result"]["state"] == "finished"  # type: ignore[index]


def test_the_miniature_never_shields_a_photo_but_an_autoencoder_does(
    tmp_path: Path, autoencoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = photo(tmp_path / "me.png"), tmp_path / "out.png"
    for kind in ("edits", "training", "cloning"):
        assert main(["shield", kind, str(source), "-o", str(out), "--detector", "frame"]) == 2
        assert "drawn portrait" in capsys.readouterr().err and not out.exists()
    drawn = ["shield", "edits", str(source), "-o", str(out), "--autoencoder"]
    assert main([*drawn, str(weights_path("vae")), "--detector", "frame"]) == 2
    assert "drawn portrait" in capsys.readouterr().err and not out.exists()
    given = ["shield", "edits", str(source), "-o", str(out), "--quiet", "--steps", "6"]
    given += ["--autoencoder", str(autoencoder), "--budget", "12", "--even", "--detector", "frame"]
    assert main(given) == 0
    assert within(source, out, 12).abs().max() > 8
    assert numbers(out)["asked"] == "the model given"
    assert main([*given, "--preset", "balanced"]) == 2
    assert "only an autoencoder was given" in capsys.readouterr().err


def test_grey_and_see_through_photos_stay_so(tmp_path: Path, autoencoder: Path) -> None:
    source, out = tmp_path / "me.png", tmp_path / "out.png"
    Image.open(photo(source)).convert("LA").save(source)
    with Image.open(source) as image:
        image.putalpha(Image.new("L", image.size, 90))
        image.save(source)
    given = ["shield", "edits", str(source), "-o", str(out), "--quiet", "--steps", "4"]
    assert main([*given, "--autoencoder", str(autoencoder), "--detector", "frame"]) == 0
    with Image.open(out) as image:
        assert image.mode == "LA" and image.getchannel("A").getextrema() == (90, 90)
    assert within(source, out, 9).abs().max() > 2  # the mean of three channels may round up


def test_a_face_is_shielded_against_cloning_and_every_recogniser_says_what_it_sees(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = portrait(tmp_path / "me.png", 7), tmp_path / "out.png"
    given = ["shield", "cloning", str(source), "-o", str(out), "--quiet", "--steps", "5"]
    assert main(given) == 0
    said = capsys.readouterr().out
    assert "mini-ir (attacked)" in said and "mini-mobileface (held out)" in said
    rows = {row["name"]: row for row in numbers(out)["recognisers"]}  # type: ignore[attr-defined]
    assert all(row["similarity"] < 0.99 for row in rows.values() if row["attacked"])
    within(source, out, 11)
    # On top of an earlier shield the sum is told.
    again = tmp_path / "again.png"
    assert main(["shield", "cloning", str(out), "-o", str(again), "--quiet", "--steps", "2"]) == 0
    assert "with the shield before it, at most" in capsys.readouterr().out
    assert 11 < numbers(again)["together_of_255"] <= 22  # type: ignore[operator]


def test_recognisers_of_photos_do_not_judge_a_drawing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(1)
    state = MobileFaceNet(width=16, depth=(1, 1, 1), dimension=64).state_dict()
    limits = json.dumps([{"far": 0.01, "value": 0.4, "source": "made up for tests"}])
    save_file(state, tmp_path / "a.safetensors", metadata={"name": "a", "thresholds": limits})
    source = portrait(tmp_path / "me.png", 7)
    given = ["shield", "cloning", str(source), "-o", str(tmp_path / "out.png"), "--quiet"]
    given += ["--recogniser", str(tmp_path / "a.safetensors"), "--detector", "miniature"]
    code = main(given)
    assert code == 2 and "knows only photos" in capsys.readouterr().err


def test_photos_of_one_person_are_shielded_together_against_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for seed in (7, 8):
        portrait(source / f"{seed}.png", seed)
    given = ["shield", "training", str(source), "-o", str(out), "--quiet", "--epochs", "1"]
    assert main([*given, "--dry-run"]) == 0
    assert "2, shielded together" in capsys.readouterr().out
    assert main(given) == 0
    for seed in (7, 8):
        within(source / f"{seed}.png", out / f"{seed}.png", 7)
        told = numbers(out / f"{seed}.png")
        assert told["photos_together"] == 2 and "trainer" in told["after_rounding"]  # type: ignore[operator]
    capsys.readouterr()
    assert main(given) == 0 and capsys.readouterr().out.count("done already") == 2
    portrait(source / "8.png", 9)
    whole = (source / "8.png").read_bytes()
    (source / "9.png").write_bytes(whole[:2000])  # seen only when it is decoded
    (source / "page.png").write_text("<!doctype html>")
    assert main(given) == 1
    told = capsys.readouterr()
    assert "9.png is damaged" in told.err and "page.png is not a picture" in told.err
    assert "2 shielded, 2 of 4 could not be shielded." in told.err
    assert numbers(out / "8.png")["photos_together"] == 2


def test_bad_numbers_are_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = portrait(tmp_path / "me.png", 7)
    for kind, option in (("edits", "--budget"), ("cloning", "--steps"), ("training", "--epochs")):
        given = ["shield", kind, str(source), "-o", str(tmp_path / "out.png"), option, "0"]
        assert main(given) == 2
        assert option in capsys.readouterr().err
    assert main(["shield", "edits", str(source), "-o", str(source)]) == 2
    assert "which is read" in capsys.readouterr().err


@pytest.mark.parametrize("name", EDIT_SHIELDS)
def test_passes_are_counted_before_they_are_run(name: str) -> None:
    """What is told of an edit shield's cost is what its networks then do."""
    stack, counts = tiny_stack(), {"encoder": 0, "forward": 0, "back": 0}
    shield = replace(EDIT_SHIELDS[name], steps=5, every=2)
    clean = (noise(1, 3, 64, 64, seed=5).sigmoid() * 255).round() / 255

    def encoded(*_: object) -> None:
        counts["encoder"] += torch.is_grad_enabled()

    def answered(module: object, given: object, answer: tuple[Tensor, ...]) -> None:
        counts["back" if answer[0].requires_grad else "forward"] += 1

    hooks = [
        stack.vae.encoder.register_forward_hook(encoded),
        stack.transformer.register_forward_hook(answered),
    ]
    frozen = [
        (p, p.requires_grad) for p in (*stack.transformer.parameters(), *stack.vae.parameters())
    ]
    try:
        for parameter, _ in frozen:
            parameter.requires_grad_(False)
        shield_edits(clean, surrogate(stack, "red hair"), shield)
    finally:
        for hook in hooks:
            hook.remove()
        for parameter, wanted in frozen:
            parameter.requires_grad_(wanted)
    passes = edit_passes(shield, (64, 64))
    assert counts["encoder"] == passes.autoencoder + (hardenings(shield) if shield.dynamic else 0)
    assert (counts["back"], counts["forward"] - settled(shield)) == (passes.back, passes.forward)


def hardenings(shield: object) -> int:
    from fluxguard_core.defences.edits import EditShield

    assert isinstance(shield, EditShield)
    return (shield.steps - 1) // shield.every * shield.hardening


def settled(shield: object) -> int:
    """Forward passes of the look at the rounded picture, which is not part of the descent."""
    from fluxguard_core.defences.edits import EditShield

    assert isinstance(shield, EditShield)
    each = {"score": 1, "trajectory": 3, "redraw": 2, "kontext edit": 2, "kontext attention": 1}
    return sum(each.get(name, 0) for name in shield.terms)


def test_a_trainings_passes_are_its_steps() -> None:
    shield = replace(TRAINING_SHIELDS["light"], epochs=2)
    picture = (noise(1, 3, 64, 64, seed=5).sigmoid() * 255).round() / 255
    done = shield_training([picture], surrogate(tiny_stack(), "a person"), shield)
    passes = training_passes(shield, 1)
    assert len(done[0].log) == passes.autoencoder == shield.steps and passes.back == 0

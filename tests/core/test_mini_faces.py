"""The miniature's face networks: shipped files on fresh people, training loop, data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.faces import (
    ATTACKABLE,
    HELD_OUT,
    WEIGHTS,
    classify_attributes,
    find_faces,
    load_ensemble,
    load_recogniser,
    parse_face,
    weights_path,
)
from fluxguard_core.mini.portrait_spec import (
    CHOICES,
    PortraitSpec,
    identity,
    random_attributes,
    random_nuisance,
)
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.recognition import align
from training.mini.faces_data import (
    Portraits,
    block_quantise,
    degrade,
    jitter,
    random_affine,
    warp,
    warp_points,
    without_faces,
)
from training.mini.faces_fit import FitPlan, fit, step_generator

PEOPLE, SHOTS = 6, 2


def fresh_specs() -> list[PortraitSpec]:
    """People of a seed that neither training nor the measurements use."""
    return [
        PortraitSpec(
            identity(9_000_000 + person),
            random_attributes(9_100_000 + 10 * person + shot),
            random_nuisance(9_200_000 + 10 * person + shot),
        )
        for person in range(PEOPLE)
        for shot in range(SHOTS)
    ]


@pytest.fixture(scope="module")
def portraits() -> Portraits:
    specs = fresh_specs()
    images, labels, landmarks = render_batch(specs, 128)
    codes = [[CHOICES[n].index(getattr(s.attributes, n)) for n in CHOICES] for s in specs]
    people = torch.arange(PEOPLE).repeat_interleave(SHOTS)
    return Portraits(images, labels.long(), landmarks, torch.tensor(codes), people)


@pytest.mark.parametrize("name", ATTACKABLE + HELD_OUT)
def test_recognisers_tell_fresh_people_apart(name: str, portraits: Portraits) -> None:
    encoder = load_recogniser(name)
    vectors = encoder(align(portraits.images, portraits.landmarks, encoder.size))
    cosines = vectors @ vectors.T
    same = portraits.people[:, None] == portraits.people[None]
    upper = torch.ones_like(same).triu(1)
    assert 0.1 < encoder.threshold(1e-2) < encoder.threshold(1e-3) < 0.95
    accepted = (cosines > encoder.threshold(1e-2)).float()
    assert float(accepted[same & upper].mean()) >= 0.8
    assert float(accepted[~same & upper].mean()) <= 0.1


def test_the_shipped_files_state_their_quality() -> None:
    for name in ATTACKABLE + HELD_OUT:
        with safe_open(str(weights_path(name)), framework="pt") as file:
            metadata = file.metadata()
        assert metadata["licence"] == "Apache-2.0"
        assert json.loads(metadata["accept"])[0] >= 0.95
        assert weights_path(name).with_suffix(".md").is_file()
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 12e6


def test_recognisers_send_gradient_to_the_picture(portraits: Portraits) -> None:
    image = portraits.images[:1].clone().requires_grad_(True)
    encoder = load_recogniser("ir")
    encoder(align(image, portraits.landmarks[:1], encoder.size))[0, 0].backward()
    assert image.grad is not None and bool(torch.isfinite(image.grad).all())
    inside = portraits.labels[:1] == 10
    assert float((image.grad.abs().sum(1) > 0)[inside].float().mean()) == 1.0


def test_the_ensemble_never_attacks_the_vit() -> None:
    ensemble = load_ensemble()
    assert [e.name for e in ensemble.attacked] == [f"mini-{name}" for name in ATTACKABLE]
    assert [e.name for e in ensemble.held_out] == ["mini-vit"]
    held = load_ensemble(["mobileface"], weighting="worst")
    assert [e.name for e in held.held_out] == ["mini-mobileface", "mini-vit"]
    assert len(held.attacked) == 3 and held.weighting == "worst"
    with pytest.raises(FluxGuardError, match="it has ir, irse"):
        load_ensemble(["arcface"])


def test_faces_are_found_where_they_are(portraits: Portraits) -> None:
    for image, points in zip(portraits.images[:6], portraits.landmarks[:6], strict=True):
        (face,) = find_faces(image)
        assert face.landmarks is not None and face.score > 0.5
        assert float((face.landmarks - points).norm(dim=1).mean()) < 2.0
        x0, y0, x1, y1 = face.box
        inside = (points >= torch.tensor([x0, y0])) & (points <= torch.tensor([x1, y1]))
        assert bool(inside.all())


def test_faces_are_found_in_larger_and_oblong_pictures(portraits: Portraits) -> None:
    large = nn.functional.interpolate(portraits.images[:1], (288, 288), mode="bicubic")[0]
    canvas = torch.full((3, 288, 360), 0.5)
    canvas[:, :, 36:324] = large.clamp(0, 1)
    (face,) = find_faces(canvas)
    expected = (portraits.landmarks[0] + 0.5) * 288 / 128 - 0.5 + torch.tensor([36.0, 0.0])
    assert face.landmarks is not None
    assert float((face.landmarks - expected).norm(dim=1).mean()) < 4.0


def test_no_face_in_pictures_without_one(portraits: Portraits) -> None:
    generator = torch.Generator().manual_seed(0)
    for image in without_faces(portraits, generator):
        assert find_faces(image) == []
    for picture in (torch.zeros(3, 128, 128), torch.ones(3, 96, 160), torch.rand(3, 128, 128)):
        assert find_faces(picture) == []


def test_labels_of_fresh_portraits(portraits: Portraits) -> None:
    parsed = torch.stack([parse_face(image) for image in portraits.images[:6]]).long()
    assert float((parsed == portraits.labels[:6]).float().mean()) > 0.9
    big = nn.functional.interpolate(portraits.images[:1], (192, 256), mode="bilinear")[0]
    assert parse_face(big).shape == (192, 256) and parse_face(big).dtype == torch.uint8


def test_attributes_of_fresh_portraits(portraits: Portraits) -> None:
    answers = classify_attributes(portraits.images)
    names = list(CHOICES)
    right = [
        CHOICES[name][portraits.attributes[row, index]] == answer[name]
        for row, answer in enumerate(answers)
        for index, name in enumerate(names)
        if not (name == "hair_colour" and answer["hair_style"] == "bald")
    ]
    assert set(answers[0]) == set(CHOICES)
    assert sum(right) / len(right) > 0.93


def test_altered_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fluxguard_core.mini import faces

    content = bytearray(weights_path("mobileface").read_bytes())
    content[-1] ^= 1
    (tmp_path / weights_path("mobileface").name).write_bytes(content)
    monkeypatch.setattr(faces, "WEIGHTS", tmp_path)
    load_recogniser.cache_clear()
    with pytest.raises(FluxGuardError, match="sha256"):
        load_recogniser("mobileface")
    with pytest.raises(FluxGuardError, match="no file"):
        load_recogniser("ir")


def test_unknown_recognisers_are_named() -> None:
    with pytest.raises(FluxGuardError, match="no recogniser"):
        load_recogniser("resnet")


def test_warped_points_follow_the_picture() -> None:
    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 20, 40] = 1.0
    image = nn.functional.avg_pool2d(image, 5, 1, 2)
    generator = torch.Generator().manual_seed(4)
    back = random_affine(1, 64, generator, scale=(0.9, 1.1), turn=15.0)
    moved = warp(image, back)[0, 0]
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    centre = torch.stack(((moved * x).sum(), (moved * y).sum())) / moved.sum()
    expected = warp_points(torch.tensor([[[40.0, 20.0]]]), back)[0, 0]
    torch.testing.assert_close(centre, expected, atol=0.3, rtol=0)


def test_quantised_blocks_resemble_the_picture(portraits: Portraits) -> None:
    image = portraits.images[:1]
    fine = block_quantise(image, torch.full((1, 1, 1, 1), 0.01))
    coarse = block_quantise(image, torch.full((1, 1, 1, 1), 1.0))
    assert float((fine - image).abs().max()) < 0.02
    assert 0.003 < float((coarse - image).abs().mean()) < 0.05


def test_degradation_is_determined_by_its_seed(portraits: Portraits) -> None:
    one, two = (degrade(portraits.images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and not torch.equal(one, portraits.images)
    assert float(one.min()) >= 0 and float(one.max()) <= 1
    points = jitter(portraits.landmarks, torch.Generator().manual_seed(3))
    assert 0.2 < float((points - portraits.landmarks).abs().mean()) < 2.0


class Line(nn.Module):
    """y = a x + b, a tiny thing to fit."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, 1))
        self.bias = nn.Parameter(torch.zeros(1))

    def draw(self, step: int, generator: torch.Generator) -> Tensor:
        x = torch.rand(8, 1, generator=generator)
        return (x @ self.weight + self.bias - 2 * x + 1).square().mean()


def test_training_continues_exactly_from_a_checkpoint(tmp_path: Path) -> None:
    lines: list[str] = []
    whole, broken = Line(), Line()
    fit(whole, whole.draw, FitPlan(60, 8, 0.1), tmp_path / "whole.safetensors", lines.append)

    def interrupted(step: int, generator: torch.Generator) -> Tensor:
        if step == 30:
            raise KeyboardInterrupt
        return broken.draw(step, generator)

    place = tmp_path / "broken.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(broken, interrupted, FitPlan(60, 8, 0.1), place, lines.append)
    assert place.is_file()
    resumed = Line()
    samples = fit(resumed, resumed.draw, FitPlan(60, 8, 0.1), place, lines.append)
    assert samples == 480
    torch.testing.assert_close(resumed.weight, whole.weight)
    assert float((whole.weight - 2).abs()) < 0.5
    assert not torch.equal(
        torch.rand(2, generator=step_generator(0, 1)), torch.rand(2, generator=step_generator(0, 2))
    )

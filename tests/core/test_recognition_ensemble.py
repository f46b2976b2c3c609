"""Encoders, ensembles, identities, thresholds and face choice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.faces.crops import Crop
from fluxguard_core.faces.face import around, nearest
from fluxguard_core.recognition import (
    Ensemble,
    Face,
    FaceEncoder,
    Threshold,
    choose,
    photo,
    reference_embedding,
    synthetic,
    untargeted,
)
from fluxguard_core.recognition.ensemble import embed_fixed
from fluxguard_core.recognition.identity import EXPLANATIONS
from fluxguard_core.recognition.thresholds import (
    PUBLISHED,
    Calibration,
    accept_rate,
    calibrate,
    calibrated,
    read_calibration,
    save_calibration,
    stranger_cosines,
    threshold_at,
    thresholds_path,
)


class Counting(nn.Module):
    """A small linear recogniser that counts its forward passes."""

    def __init__(self, size: int, seed: int, dimension: int = 16) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(3 * size * size, dimension, generator=generator))
        self.runs = 0

    def forward(self, faces: Tensor) -> Tensor:
        self.runs += 1
        return faces.flatten(1) @ self.weight


def encoder(name: str, size: int = 8, seed: int = 0, **options: object) -> FaceEncoder:
    return FaceEncoder(name, Counting(size, seed), size, **options)  # type: ignore[arg-type]


def faces(size: int = 8, count: int = 1, seed: int = 9) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def runs(item: FaceEncoder) -> int:
    assert isinstance(item.network, Counting)
    return item.network.runs


def test_embeddings_are_unit_vectors_of_the_normalised_picture() -> None:
    item = encoder("a", mean=0.25, std=0.2)
    x = faces(count=3)
    assert isinstance(item.network, Counting)
    expected = ((x - 0.25) / 0.2).flatten(1) @ item.network.weight
    torch.testing.assert_close(item(x), nn.functional.normalize(expected))


def test_colour_order() -> None:
    x = faces(count=2)
    rgb, bgr, both = (encoder("a", colour=colour) for colour in ("rgb", "bgr", "both"))
    torch.testing.assert_close(bgr(x), rgb(x.flip(1)))
    torch.testing.assert_close(both(x), nn.functional.normalize(rgb(x) + bgr(x)))


def test_networks_are_frozen_and_in_eval_mode() -> None:
    item = encoder("a")
    assert not item.network.training
    assert not any(p.requires_grad for p in item.network.parameters())
    x = faces().requires_grad_(True)
    item(x)[0, 0].backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_wrong_input_size_is_explained() -> None:
    with pytest.raises(FluxGuardError, match=r"\[B, 3, 8, 8\]"):
        encoder("a")(faces(12))


def test_threshold_lookup() -> None:
    item = encoder("a", thresholds=(Threshold(1e-2, 0.4, "here"),))
    assert item.threshold() == 0.4
    with pytest.raises(FluxGuardError, match="fluxguard calibrate"):
        item.threshold(1e-4)


def test_published_thresholds_rise_with_strictness() -> None:
    assert PUBLISHED["ir152"][1].value == 0.166788
    for entries in PUBLISHED.values():
        values = [entry.value for entry in entries]
        assert values == sorted(values)
        assert all(entry.source for entry in entries)


def test_optimisation_never_runs_held_out_networks() -> None:
    attacked, kept = encoder("a", seed=1), encoder("b", seed=2)
    ensemble = Ensemble((attacked,), (kept,))
    image = faces().requires_grad_(True)
    optimizer = torch.optim.Adam([image], lr=0.05)
    source = reference_embedding(untargeted(), attacked, image.detach())
    for _ in range(5):
        (embedded,) = ensemble.embed_attacked(lambda size: image)
        loss = ensemble.combine((embedded @ source)[:, None]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert runs(kept) == 0
    assert runs(attacked) == 6
    references = {"a": source, "b": reference_embedding(untargeted(), kept, faces())}
    report = ensemble.similarities(lambda size: image, references)
    assert runs(kept) == 2
    assert set(report) == {"a", "b"}
    assert not any(value.requires_grad for value in report.values())
    assert float(report["a"]) < 0.9


def test_one_crop_for_each_size() -> None:
    ensemble = Ensemble((encoder("a"), encoder("b", seed=1), encoder("c", size=10)))
    asked: list[Crop] = []

    def cut(crop: Crop) -> Tensor:
        asked.append(crop)
        return faces(crop.size)

    assert [tuple(v.shape) for v in ensemble.embed_attacked(cut)] == [(1, 16)] * 3
    assert asked == [Crop(8), Crop(10)]


def test_weighting() -> None:
    members = (encoder("a"), encoder("b", seed=1))
    losses = torch.tensor([[0.1, 0.9]])
    torch.testing.assert_close(Ensemble(members).combine(losses), torch.tensor([0.5]))
    worst = Ensemble(members, weighting="worst").combine(losses, temperature=0.05)
    assert 0.89 < float(worst) <= 0.9
    with pytest.raises(FluxGuardError, match="one per attacked"):
        Ensemble(members).combine(torch.zeros(1, 3))


def test_conflicting_members_are_refused() -> None:
    item = encoder("a")
    with pytest.raises(FluxGuardError, match="at least one"):
        Ensemble(())
    with pytest.raises(FluxGuardError, match="different names"):
        Ensemble((item,), (item,))
    with pytest.raises(FluxGuardError, match="not be independent"):
        Ensemble((item,), (FaceEncoder("other", item.network, 8),))


def test_fixed_pictures_are_embedded_once() -> None:
    item = encoder("a")
    first, second = embed_fixed(item, faces()), embed_fixed(item, faces())
    assert runs(item) == 1
    torch.testing.assert_close(first, second)
    embed_fixed(item, faces(seed=10))
    assert runs(item) == 2


def test_embeddings_cached_in_inference_mode_serve_a_gradient() -> None:
    item = encoder("a")
    with torch.inference_mode():
        reference = embed_fixed(item, faces(seed=77))
    image = faces().requires_grad_(True)
    (item(image) @ reference[0]).sum().backward()
    assert image.grad is not None and float(image.grad.abs().sum()) > 0
    with torch.inference_mode():
        kept = embed_fixed(item, faces(seed=77))
    torch.testing.assert_close(kept, reference)


def test_references_of_unknown_recognisers_are_refused() -> None:
    with pytest.raises(FluxGuardError, match="reference for b"):
        Ensemble((encoder("a"),)).similarities(lambda size: faces(), {"b": torch.ones(16)})


def test_synthetic_identity_is_far_from_the_source_and_repeatable() -> None:
    mean_face = nn.functional.normalize(torch.ones(16), dim=0)
    item, face = encoder("a", mean_face=mean_face), faces()
    vector = reference_embedding(synthetic(7), item, face)
    assert abs(float(vector.norm()) - 1) < 1e-6
    assert abs(float(vector @ item(face)[0])) < 1e-6
    assert abs(float(vector @ mean_face)) < 1e-6
    again = reference_embedding(synthetic(7), item, face)
    assert torch.equal(vector, again)
    others = [
        reference_embedding(synthetic(8), item, face),
        reference_embedding(synthetic(7), encoder("b"), face),
    ]
    assert all(abs(float(vector @ other)) < 0.9 for other in others)


def test_photo_identity_is_the_mean_of_its_photos() -> None:
    item = encoder("a")
    one, two = faces(8, seed=1)[0], faces(8, seed=2)[0]
    expected = nn.functional.normalize((item(one[None]) + item(two[None]))[0], dim=0)
    given = reference_embedding(photo(one, two), item, faces())
    torch.testing.assert_close(given, expected)


def test_photo_identity_is_aligned_when_a_finder_is_given() -> None:
    item = encoder("a", size=28)
    image = faces(64)[0]
    points = torch.tensor([[20.0, 25], [40, 25], [30, 35], [23, 45], [37, 45]])

    def find(picture: Tensor) -> list[Face]:
        return [Face((10, 10, 50, 50), points, 0.9)]

    from fluxguard_core.recognition import align

    expected = item(align(image[None], points[None], 28))[0]
    given = reference_embedding(photo(image), item, faces(28), find_faces=find)
    torch.testing.assert_close(given, expected)
    with pytest.raises(FluxGuardError, match="No face"):
        reference_embedding(photo(image), item, faces(28), find_faces=lambda picture: [])


def test_identity_photos_are_checked() -> None:
    assert set(EXPLANATIONS) == {"untargeted", "synthetic", "photo"}
    with pytest.raises(FluxGuardError, match="at least one photo"):
        photo()
    with pytest.raises(FluxGuardError, match=r"\[3, H, W\]"):
        photo(torch.zeros(1, 3, 8, 8))


def test_choice_among_faces() -> None:
    small, large = Face((0, 0, 5, 5), None, 0.9), Face((0, 0, 9, 9), None, 0.5)
    assert choose([small, large], "largest") == [large]
    assert choose([small, large], "all") == [small, large]
    assert choose([small, large], 0) == [small]
    with pytest.raises(FluxGuardError, match="has 2"):
        choose([small, large], 2)
    with pytest.raises(FluxGuardError, match="No face"):
        choose([], "all")


def test_a_face_is_met_again_by_its_place() -> None:
    points = torch.tensor([[3.0, 3], [7, 3], [5, 5], [3, 7], [7, 7]])
    left, right = Face((0, 0, 10, 10), points, 0.5), Face((40, 0, 50, 10), points + 40, 0.9)
    moved = Face((1, 1, 11, 11), points + 1, 0.4)
    assert nearest([right, moved], left) is moved
    assert nearest([right], left) is None and nearest([], left) is None
    assert nearest([Face((41, 0, 51, 10), None, 0.9), left], Face((40, 0, 50, 10), None, 1)) != left
    assert around([left]) is left
    assert around([left, right]).box == (0, 0, 50, 10)


def test_calibrated_threshold_keeps_the_false_accept_rate() -> None:
    generator = torch.Generator().manual_seed(0)
    strangers = nn.functional.normalize(torch.randn(150, 32, generator=generator))
    thresholds = calibrate(strangers, "noise")
    assert [entry.far for entry in thresholds] == [1e-2, 1e-3]
    cosines = stranger_cosines(strangers)
    assert len(cosines) == 150 * 149 // 2
    for entry in thresholds:
        rate = accept_rate(cosines, entry.value)
        assert entry.far - 2 / len(cosines) <= rate <= entry.far
    assert threshold_at(torch.tensor([0.1, 0.2, 0.3, 0.4]), 0.25) == pytest.approx(0.3)


def test_pairs_of_one_person_do_not_count_as_strangers() -> None:
    vectors = nn.functional.normalize(torch.randn(4, 8), dim=1)
    assert len(stranger_cosines(vectors, ["x", "x", "y", "z"])) == 5


def test_too_few_strangers_are_refused() -> None:
    with pytest.raises(FluxGuardError, match="pairs of strangers"):
        calibrate(nn.functional.normalize(torch.randn(10, 8), dim=1), "few")


def test_a_calibration_lies_beside_the_model(tmp_path: Path) -> None:
    model, plain = tmp_path / "model.safetensors", encoder("a")
    assert read_calibration(model) is None and calibrated(plain, model, chosen=None) is plain
    thresholds = (Threshold(1e-2, 0.31, "40 pictures"),)
    mean_face = nn.functional.normalize(torch.arange(16.0), dim=0)
    save_calibration(model, Calibration(thresholds, "bgr", mean_face))
    for chosen in (None, "bgr"):
        own = calibrated(plain, model, chosen=chosen)  # type: ignore[arg-type]
        assert (own.thresholds, own.colour) == (thresholds, "bgr")
        torch.testing.assert_close(own.mean_face, mean_face)
    # thresholds hold for the channel order they were measured with, and for no other
    assert calibrated(plain, model, chosen="both") is plain
    for broken in ("[]", '{"thresholds": [], "colour": "cmyk", "mean_face": [1.0]}'):
        thresholds_path(model).write_text(broken)
        with pytest.raises(FluxGuardError, match="not a calibration file"):
            read_calibration(model)

"""What recognisers say, measured on small networks whose answers are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.similarity import (
    Recognition,
    Shot,
    cosine,
    crop,
    embed,
    linkability,
    measure,
)
from fluxguard_core.evaluate.transforms import SHARING, Transform, blur
from fluxguard_core.mini.portrait_spec import random_spec, with_attributes
from fluxguard_core.mini.renderer import Portrait, render
from fluxguard_core.recognition import Ensemble, FaceEncoder, Threshold


class Mosaic(nn.Module):
    """The face on a coarse grid, mean removed: a recogniser that needs no training."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(cells)

    def forward(self, faces: Tensor) -> Tensor:
        values = self.pool(faces).flatten(1)
        return values - values.mean(1, keepdim=True)


def encoder(name: str, cells: int = 8, threshold: float | None = 0.8) -> FaceEncoder:
    known = () if threshold is None else (Threshold(1e-2, threshold, "this test"),)
    return FaceEncoder(name, Mosaic(cells), 112, thresholds=known)


@pytest.fixture(scope="module")
def portraits() -> tuple[Portrait, Portrait, Portrait]:
    spec = random_spec(11)
    edit = with_attributes(spec, lipstick="red" if spec.attributes.lipstick != "red" else "dark")
    return render(spec), render(edit), render(random_spec(12))


def shot(portrait: Portrait) -> Shot:
    return Shot(portrait.image, portrait.landmarks)


def test_measure_marks_roles_and_keeps_the_baseline(portraits: tuple[Portrait, ...]) -> None:
    source, edit, stranger = portraits
    ensemble = Ensemble((encoder("a"), encoder("b", 12)), (encoder("c", 16),))
    results = measure(ensemble, shot(source), shot(edit), shot(stranger))
    assert [r.name for r in results] == ["a", "b", "c"]
    assert [r.role for r in results] == ["attacked"] * 2 + ["held out"]
    for result, member in zip(results, ensemble.members, strict=True):
        expected = cosine(embed(member, shot(source)), embed(member, shot(edit)))
        assert result.edited == pytest.approx(expected, abs=0.01)
        assert result.edited > 0.95 > result.protected
        assert result.second_edited is None and result.target_protected is None
        assert result.threshold == 0.8 and result.source == "this test" and result.far == 1e-2
        assert [r.name for r in result.robustness] == [t.name for t in SHARING]
        assert all(abs(r.edited - result.edited) < 0.1 for r in result.robustness)


def test_second_photo_and_target(portraits: tuple[Portrait, ...]) -> None:
    source, edit, stranger = portraits
    one = encoder("a")
    target = embed(one, shot(stranger))
    (result,) = measure(
        Ensemble((one,)),
        shot(source),
        shot(edit),
        shot(stranger),
        second=shot(edit),
        targets={"a": target},
        transforms=(),
    )
    assert result.second_edited == pytest.approx(1, abs=1e-3)
    assert result.target_protected == pytest.approx(1, abs=1e-3)
    assert result.target_edited == pytest.approx(result.protected, abs=0.1)
    assert result.robustness == ()


def test_pictures_are_measured_as_they_will_be_saved(portraits: tuple[Portrait, ...]) -> None:
    """A change below half a grey level is gone once the file is written, so it must not count."""
    source = portraits[0]
    saved = (source.image * 255).round() / 255
    hidden = Shot(saved + 0.45 / 255 * torch.randn_like(saved).sign(), source.landmarks)
    (result,) = measure(
        Ensemble((encoder("a"),)),
        Shot(saved, source.landmarks),
        Shot(saved, source.landmarks),
        hidden,
        transforms=(),
    )
    assert result.protected == pytest.approx(result.edited, abs=1e-6)


def test_a_transform_runs_once_for_all_recognisers(portraits: tuple[Portrait, ...]) -> None:
    calls: list[int] = []

    def counted(image: Tensor) -> Tensor:
        calls.append(1)
        return blur(1.0).apply(image)

    ensemble = Ensemble((encoder("a"), encoder("b", 12)), (encoder("c", 16),))
    picture = shot(portraits[0])
    measure(ensemble, picture, picture, picture, transforms=(Transform("x", "X", counted),))
    assert len(calls) == 2


def test_match_and_withheld() -> None:
    known = Recognition("a", True, 0.9, 0.3, threshold=0.5)
    assert known.matches(0.5) is False and known.matches(0.51) is True
    assert known.withheld is True
    assert Recognition("a", True, 0.4, 0.3, threshold=0.5).withheld is False
    assert Recognition("a", True, 0.9, 0.3).withheld is None


def test_crop_views(portraits: tuple[Portrait, ...]) -> None:
    source = portraits[0]
    aligned, whole = crop(shot(source), 112), crop(Shot(source.image), 112)
    assert aligned.shape == whole.shape == (1, 3, 112, 112)
    assert float((aligned - whole).abs().mean()) > 0.02


def test_linkability(portraits: tuple[Portrait, ...]) -> None:
    one = encoder("a")
    same = linkability(one, [shot(portraits[0]), shot(portraits[1])])
    assert same > linkability(one, [shot(p) for p in portraits])
    with pytest.raises(FluxGuardError, match="At least two"):
        linkability(one, [shot(portraits[0])])


def test_bad_input(portraits: tuple[Portrait, ...]) -> None:
    with pytest.raises(FluxGuardError, match="one by one"):
        embed(encoder("a"), Shot(torch.zeros(2, 3, 32, 32)))
    with pytest.raises(FluxGuardError, match="NaN"):
        cosine(torch.tensor([float("nan"), 1.0]), torch.ones(2))
    unknown = measure(
        Ensemble((encoder("a", threshold=None),)),
        shot(portraits[0]),
        shot(portraits[1]),
        shot(portraits[2]),
        transforms=(),
    )[0]
    assert unknown.threshold is None and unknown.matches(unknown.edited) is None

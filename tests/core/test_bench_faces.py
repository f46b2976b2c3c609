"""The frontier: cells are made once, judges are never attacked, and the sums are right."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.frontier import against, page, row_of, table, unprotected
from fluxguard_core.evaluate.likeness import face_view, measured
from fluxguard_core.pictures.files import write_png
from fluxguard_core.pipelines.face_bench import (
    BASELINES,
    Bench,
    Cell,
    leave_one_out,
    read_cells,
    run_cells,
    scaled_budget,
)
from fluxguard_core.pipelines.face_set import (
    chosen_pairs,
    embed_set,
    known_by,
    read_face_set,
    working_crop,
)
from fluxguard_core.protect.visibility import VisibilityBudget

from .tiny import landmarks, noise, tiny_encoder


def face_folder(folder: Path, people: int = 16, photos: int = 2, size: int = 120) -> Path:
    """Folders of coloured noise, with the points of a face in the middle."""
    points = {}
    for person in range(people):
        for number in range(photos):
            name = f"p{person:02}/{number}.png"
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            coarse = noise(1, 3, 8, 8, seed=person) + 0.3 * noise(1, 3, 8, 8, seed=99 + number)
            picture = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
            write_png(folder / name, (0.5 + 0.15 * picture).clamp(0, 1))
            five = landmarks(size)[0] * (1 - 0.1 * number)
            points[name] = {"points": five.tolist()}
    place = folder / "points.json"
    place.write_text(json.dumps(points), encoding="utf-8")
    return place


def cell(photo: str, cosine: float, **given: object) -> Cell:
    base = Cell(
        method="default", strength=1.0, photo=photo, judge="judge",
        cosines=[cosine], matches=[cosine > 0.5], clean_cosines=[0.9], clean_matches=[True],
        shared={"jpeg75": cosine + 0.1}, shared_clean={"jpeg75": 0.9}, way=0.5,
        psnr=40.0, haarpsi=0.95, shift=5.0, skin=2.0, spot=3.0, seconds=1.0,
    )  # fmt: skip
    return replace(base, **given)  # type: ignore[arg-type]


def test_the_set_is_read_calibrated_and_cut(tmp_path: Path) -> None:
    photos = read_face_set(tmp_path, face_folder(tmp_path, photos=3))
    assert len(photos) == 48 and photos[0].person == "p00"
    encoder = replace(tiny_encoder(11), thresholds=())
    vectors = embed_set(encoder, photos)
    known = known_by(encoder, vectors, photos)
    assert known.strangers is not None and known.strangers.pairs == 16 * 15 // 2 * 9
    assert known.strangers.mean < known.threshold() < 1
    assert known.mean_face is not None and float(known.mean_face.norm()) == pytest.approx(1)
    pairs = chosen_pairs(photos)
    assert len(pairs) == 16 and all(p.eyes > others[0].eyes for p, others in pairs)
    crop, points = working_crop(pairs[0][0])
    assert crop.shape == (1, 3, 256, 256) and float((points[1] - points[0])[0]) > 55
    with pytest.raises(FluxGuardError, match="five points"):
        (tmp_path / "bad.json").write_text('{"p00/0.png": {"points": [[1, 2]]}}')
        read_face_set(tmp_path, tmp_path / "bad.json")


def test_cells_are_made_once_and_baselines_fill_the_same_budget(tmp_path: Path) -> None:
    photos = read_face_set(tmp_path, face_folder(tmp_path, people=15))
    encoders = []
    embeddings: dict[str, dict[str, Tensor]] = {}
    for seed in (11, 12):
        vectors = embed_set(tiny_encoder(seed), photos)
        encoders.append(known_by(tiny_encoder(seed), vectors, photos))
        embeddings[f"tiny{seed}"] = {p.name: v for p, v in zip(photos, vectors, strict=True)}
    bench = Bench(encoders, embeddings)
    made: list[Cell] = []
    given = (
        bench,
        chosen_pairs(photos)[:1],
        [(name, 1.0) for name in BASELINES],
        leave_one_out(encoders, []),
        tmp_path / "cells.jsonl",
        made.append,
    )
    cells = run_cells(*given)
    assert len(cells) == len(made) == 8
    budget = VisibilityBudget()
    for one in cells:
        if one.method != "blur":
            reached = (
                one.psnr < budget.psnr + 0.5,
                one.haarpsi < budget.haarpsi + 0.005,
                one.shift > 0.9 * budget.shift,
                one.skin > 0.9 * budget.skin,
            )
            assert any(reached), one
        assert one.haarpsi > budget.haarpsi - 0.003 and one.skin < 1.1 * budget.skin
    again = run_cells(*given)
    assert len(made) == 8 and {c.key for c in again} == {c.key for c in cells}
    assert read_cells(tmp_path / "cells.jsonl") == cells


def test_folds_leave_each_out_once() -> None:
    a, b, c, judge = (tiny_encoder(s) for s in (11, 12, 13, 14))
    folds = leave_one_out([a, b, c], [judge])
    assert [[e.name for e in attacked] for attacked, _ in folds] == [
        ["tiny12", "tiny13"], ["tiny11", "tiny13"], ["tiny11", "tiny12"],
    ]  # fmt: skip
    assert all(judges[-1] is judge and judges[0] not in attacked for attacked, judges in folds)
    assert leave_one_out([a], [judge]) == [([a], [judge])]
    with pytest.raises(FluxGuardError, match="two"):
        leave_one_out([a], [])


def test_a_stronger_budget_is_that_much_more_change(tmp_path: Path) -> None:
    photos = read_face_set(tmp_path, face_folder(tmp_path, people=1))
    crop, points = working_crop(photos[0])
    view = face_view(crop, points)
    change = 1 / 255 * noise(*view.photo.shape)
    one, two = (measured(view, view.photo + x * change) for x in (1, 2))
    doubled = scaled_budget(VisibilityBudget(one.psnr, 0.93, one.shift, one.skin), 2)
    assert two.psnr == pytest.approx(doubled.psnr, abs=1e-3)
    assert two.shift == pytest.approx(doubled.shift, rel=1e-3)
    assert two.skin == pytest.approx(doubled.skin, rel=1e-3)
    assert doubled.haarpsi == pytest.approx(0.86)


def test_sums_and_pairs() -> None:
    ours = [cell("a", 0.3), cell("b", 0.6), cell("c", 0.4)]
    theirs = [replace(c, method="pgd", cosines=[c.cosines[0] + 0.2]) for c in ours]
    plain = [asdict(c) for c in [*ours, *theirs]]
    row = row_of("default", 1.0, plain[:3])
    assert row.match.value == pytest.approx(1 / 3) and row.match.low < 1 / 3 < row.match.high
    assert row.kept["jpeg75"] == pytest.approx((0.5 + 0.2 + 0.4) / (0.6 + 0.3 + 0.5))
    (result,) = against(plain, "default", ["pgd"], 1.0)
    assert result.cosine.difference.value == pytest.approx(-0.2) and result.leads
    assert unprotected(plain).value == 1
    text, html = table([row], unprotected(plain)), page([row], unprotected(plain), [result], "T")
    assert "0.33" in text and "<svg" in html and "leads" in html


def test_the_command_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = face_folder(tmp_path, people=1)
    given = ["--faces", str(tmp_path / "none"), "--points", str(place), "--recogniser", "x.onnx"]
    code = main(["bench", "faces", *given, "-o", str(tmp_path / "out")])
    assert code == 2 and "lies in" in capsys.readouterr().err

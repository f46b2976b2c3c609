"""The four protocols on small networks: judges never attacked, closeness matched, nothing done twice, sums right."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.evidence import Figure, counted, estimates, figures, leads
from fluxguard_core.evaluate.evidence_page import csv_text, markdown, page
from fluxguard_core.evaluate.quality import psnr, ssim
from fluxguard_core.faces.face import Face
from fluxguard_core.pipelines.evidence.bench import Arm, Bench, Case, Gallery, Made, folds_of
from fluxguard_core.pipelines.evidence.log import Log, key, read_log
from fluxguard_core.pipelines.evidence.match import closeness, matched
from fluxguard_core.pipelines.evidence.photos import (
    listed_photos,
    photo_bench,
    read_identities,
    target_pairs,
)
from fluxguard_core.pipelines.evidence.pixel_arms import crowd_of, rivals, unprotected
from fluxguard_core.pipelines.evidence.protocols import PROTOCOLS
from fluxguard_core.pipelines.evidence.robust import taught_on
from fluxguard_core.pipelines.evidence.runner import Run, run_protocol
from fluxguard_core.pipelines.evidence.treatments import cropped, treatments, webp

from .test_bench_faces import face_folder
from .tiny import landmarks, noise, tiny_encoder


def listed(path: Path) -> Face:
    size = 120
    five = landmarks(size)[0] * (1 - 0.1 * int(path.stem))
    return Face((0, 0, size, size), five, 1.0)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("faces")
    face_folder(folder, people=28)
    photos = listed_photos(folder, listed, None)
    return photo_bench(photos, [tiny_encoder(11), tiny_encoder(12)], [tiny_encoder(13)], people=4)


def made_by(case: Case) -> Made:
    base = case.base()
    return Made((base + 0.02 * noise(*base.shape, seed=7)).clamp(0, 1), base, 1.5)


def run_of(bench: Bench, folder: Path) -> Run:
    arms = [unprotected(), Arm("default", "ours", made_by), *rivals(crowd_of(bench))]
    known = {arm.name: arm for arm in arms if arm.name not in ("blur", "mi-di-ti")}
    return Run(bench, known, Log(folder / "evidence.jsonl", {"a": 1}), lambda text: None)


def test_turns_leave_every_recogniser_out_and_judges_are_never_attacked(bench: Bench) -> None:
    assert [[e.name for e in fold.attacked] for fold in bench.folds] == [["tiny12"], ["tiny11"]]
    assert all(fold.held_out[-1].name == "tiny13" for fold in bench.folds)
    cases = bench.cases()
    assert [case.fold.name for case in cases] == ["without tiny11", "without tiny12"] * 2
    every = replace(bench, turns="all").cases()
    assert len(every) == 8 and len({(c.subject.name, c.fold.name) for c in every}) == 8
    names = {e.name for c in cases for e in c.fold.ensemble.members}
    assert names == {"tiny11", "tiny12"}
    with pytest.raises(FluxGuardError, match="two"):
        folds_of([tiny_encoder(11)], [])


def test_the_gallery_holds_no_treated_portrait_and_calibrates_here(bench: Bench) -> None:
    people = {subject.person for subject in bench.subjects}
    assert not people & {target.person for target in bench.targets}
    assert all(len(bench.gallery.of(person, "tiny11")) == 1 for person in people)
    for encoder in bench.always:
        assert "this gallery" in encoder.thresholds[0].source
    with pytest.raises(FluxGuardError, match="no photo"):
        bench.gallery.of("nobody", "tiny11")


def test_a_search_counts_people_and_not_photos() -> None:
    rows = torch.eye(3)[[0, 0, 1, 2]]
    gallery = Gallery(("b", "b", "a", "c"), {"j": rows}, lambda encoder: rows)
    probe = torch.tensor([0.9, 0.4, 0.1])
    assert [gallery.rank(probe, who, "j") for who in ("b", "a", "c")] == [0, 1, 2]


def test_one_log_serves_all_protocols_and_nothing_is_done_twice(
    bench: Bench, tmp_path: Path
) -> None:
    run, calls = run_of(bench, tmp_path), []
    counting = Arm(
        "default", "ours", lambda case: (calls.append(case.subject.name), made_by(case))[1]
    )
    run = replace(run, arms={**run.arms, "default": counting})
    run_protocol(run, PROTOCOLS["verify"], ["default", "tip"])
    for name in ("identify", "robust"):
        run_protocol(run, PROTOCOLS[name], ["default"])
    assert len(calls) == 4
    header, lines = read_log(tmp_path / "evidence.jsonl")
    assert header["a"] == 1 and len([k for k in lines if k.startswith("made|")]) == 12
    with (tmp_path / "evidence.jsonl").open("a") as stream:
        stream.write('{"key":"verify|cut')
    again = Run(bench, run.arms, Log(tmp_path / "evidence.jsonl", {"a": 1}), lambda text: None)
    before = dict(again.log.lines)
    run_protocol(again, PROTOCOLS["verify"], ["default", "tip"])
    assert len(calls) == 4 and before == again.log.lines == lines
    with pytest.raises(FluxGuardError, match="other a"):
        Log(tmp_path / "evidence.jsonl", {"a": 2})
    with pytest.raises(FluxGuardError, match="treatments out of"):
        run_protocol(again, PROTOCOLS["verify"], ["nothing"])
    found = figures(lines)
    assert counted(found) == {"portraits": 4, "people": 4}
    measures = {f.measure for f in found}
    assert {"match", "cos", "rank1", "rank5.target", "match@jpeg50", "match@adaptive"} <= measures
    summed, compared = estimates(found), leads(found, "default", ["cos"])
    pooled = [e for e in summed if (e.arm, e.measure, e.judge) == ("tip", "cos", "all")]
    assert {e.column for e in pooled} == {"own", "ssim", "psnr", "likeness"}
    assert all(e.count == 8 and e.people == 4 for e in pooled)
    assert {c.arm for c in compared} == {"unprotected", "tip"}
    text = page(
        "T", summed, compared, arms={"tip": "TIP <b>"}, treatments={}, columns={}, notes=["n"]
    )
    assert "TIP &lt;b&gt;" in text and "<svg" in text and "<script" not in text
    assert len(csv_text(summed).splitlines()) == len(summed) + 1


def test_people_and_treatments_may_be_added_and_nothing_may_change(tmp_path: Path) -> None:
    path = tmp_path / "evidence.jsonl"
    first = {"arms": {"default": "ours"}, "settings": {"default": "a1"}, "gallery": 200}
    Log(path, first).add("made|default", {"seconds": 1.0})
    more = {**first, "arms": {"default": "ours", "pgd": "PGD"}, "settings": {"pgd": "b2"}}
    grown = Log(path, more)
    assert "made|default" in grown and grown.header["settings"] == {"default": "a1", "pgd": "b2"}
    with pytest.raises(FluxGuardError, match="other settings"):
        Log(path, {**first, "settings": {"default": "a2"}})
    packed = tmp_path / "evidence.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert read_log(packed) == read_log(path) == (grown.header, dict(grown.lines))


def test_unprotected_comes_first_and_does_not_change(bench: Bench, tmp_path: Path) -> None:
    run = run_of(bench, tmp_path)
    run_protocol(run, PROTOCOLS["verify"], ["noise"])
    judged = [k for k in run.log.lines if k.startswith("verify|")]
    assert judged[0].startswith("verify|unprotected|")
    rows = run.log.get(judged[0])["rows"]
    assert rows["look||ssim|own"] == 1 and rows["look||psnr|own"] == 100


@pytest.mark.parametrize("column", ["ssim", "psnr", "likeness"])
def test_changes_are_matched_to_ours(bench: Bench, column: str) -> None:
    case = bench.cases()[0]
    base, points = case.base(), case.subject.points
    ours = Made((base + 0.01 * noise(*base.shape, seed=1)).clamp(0, 1), base)
    loud = Made((base + 0.04 * noise(*base.shape, seed=2)).clamp(0, 1), base)
    picture = matched(loud, ours, points, column)  # type: ignore[arg-type]
    assert torch.equal(picture, (picture * 255).round() / 255)
    if column == "ssim":
        assert ssim(picture, base) == pytest.approx(ssim(ours.picture, base), abs=0.01)
    elif column == "psnr":
        assert psnr(picture, base) == pytest.approx(psnr(ours.picture, base), abs=0.3)
    else:
        look, bound = closeness(picture, base, points), closeness(ours.picture, base, points)
        assert look.haarpsi >= bound.haarpsi and look.shift <= bound.shift
    assert torch.equal(matched(loud, ours, points, "own"), loud.picture)


def test_treatments_move_the_points_with_the_picture(bench: Bench) -> None:
    subject = bench.subjects[0]
    dots = torch.zeros(1, 3, 128, 128)
    dots[..., 40, 60] = 1
    cut, points = cropped(0.1)(dots, torch.tensor([[60.0, 40.0]]), subject)
    brightest = int(cut[0, 0].argmax())
    x, y = points[0].tolist()
    assert abs(brightest % 128 - x) < 1 and abs(brightest // 128 - y) < 1
    names = [t.name for t in treatments(None)]
    assert len(set(names)) == len(names) and {"jpeg95", "jpeg50", "network", "median3"} <= {*names}
    for treatment in (*treatments(None), webp(80)):
        changed, _ = treatment(subject.photo, subject.points, subject)
        assert changed.shape == subject.photo.shape and not torch.equal(changed, subject.photo)


def test_a_taught_recogniser_knows_what_it_was_taught(bench: Bench, tmp_path: Path) -> None:
    """The adaptive opponent: its cosines to the people of treated portraits rise, and the one it is made from stays."""
    run, cases = run_of(bench, tmp_path), bench.cases()
    encoder = bench.always[0]
    before = [p.clone() for p in encoder.network.parameters()]
    pupil, gallery, limit = taught_on(run, "noise", cases, encoder)
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.network.parameters(), strict=True))
    assert gallery.shape == bench.gallery.vectors[encoder.name].shape and -1 < limit < 1

    def own(judge: object) -> float:
        from fluxguard_core.pipelines.evidence.bench import embedding

        return sum(
            float(
                embedding(judge, run.made("noise", c).picture, c.subject.points)  # type: ignore[arg-type]
                @ bench.gallery.of(c.subject.person, encoder.name)[0]
            )
            for c in cases
        )

    assert own(pupil) > own(encoder)


def test_sums_of_made_up_figures() -> None:
    def figure(arm: str, person: int, value: float, measure: str = "match") -> Figure:
        return Figure(
            "verify", arm, str(person), "t", str(person), "j", "held out", measure, "own", value
        )

    found = [figure("default", p, float(p < 1)) for p in range(10)]
    found += [figure("pgd", p, float(p < 6)) for p in range(10)]
    (ours,) = [e for e in estimates(found) if (e.arm, e.judge) == ("default", "all")]
    assert ours.interval.value == 0.1 and ours.interval.low > 0
    (lead,) = leads(found, "default", ["match"])
    assert lead.interval.value == pytest.approx(-0.5) and lead.verdict == "ours leads"
    (behind,) = leads(found, "pgd", ["match"])
    assert behind.verdict == "ours is behind"
    few = leads([f for f in found if int(f.person) in (0, 6, 7)], "default", ["match"])
    assert [lead.verdict for lead in few] == ["too few people to say"]
    table = markdown(
        estimates(found),
        ["match"],
        ["own"],
        {"default": "ours", "pgd": "PGD"},
        {"default": 10, "pgd": 10},
    )
    assert table.splitlines()[2].startswith("| ours | 10 | 10 % [")


def test_celeba_comes_as_one_folder_with_lists(tmp_path: Path) -> None:
    place = face_folder(tmp_path / "sub", people=50)
    flat = tmp_path / "flat"
    flat.mkdir()
    lines = []
    for name in json.loads(place.read_text()):
        person, file = name.split("/")
        target = flat / f"{person}_{file}"
        target.write_bytes((tmp_path / "sub" / name).read_bytes())
        lines.append(f"{target.name} {person}")
    (tmp_path / "identities.txt").write_text("\n".join(lines))
    (tmp_path / "targets.txt").write_text("p18_0.png p18_1\np19_0 p19_1.png\n")
    names = read_identities(tmp_path / "identities.txt")
    found = listed_photos(flat, lambda path: listed(Path(path.stem[-1])), names)
    made = photo_bench(
        found,
        [tiny_encoder(11), tiny_encoder(12)],
        [],
        pairs=target_pairs(str(tmp_path / "targets.txt")),
    )
    assert [target.person for target in made.targets] == ["target 0", "target 1"]
    assert "target 1" in made.gallery.people and len(made.subjects) == 48
    assert not {"p18", "p19"} & {subject.person for subject in made.subjects}
    assert target_pairs("published")[0] == ("005869", "008793")
    with pytest.raises(FluxGuardError, match="is not among"):
        photo_bench(found, [tiny_encoder(11), tiny_encoder(12)], [], pairs=[("p18_0", "nobody")])
    with pytest.raises(FluxGuardError, match="FILE PERSON"):
        read_identities(tmp_path / "targets.txt.bad") if (tmp_path / "targets.txt.bad").write_text(
            "a b c"
        ) else None
    with pytest.raises(FluxGuardError, match="sub-folder"):
        listed_photos(flat, listed, None)


def test_keys_have_no_gaps() -> None:
    assert key("verify", "default", "0.1", "without a") == "verify|default|0.1|without a"


def test_the_command_on_drawn_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two drawn people, edited and judged; the page and the table lie beside the log."""
    given = ["bench", "verify", "--people", "2", "--portraits", "1", "--gallery", "60"]
    out = tmp_path / "out"
    assert main([*given, "--arm", "noise", "-o", str(out)]) == 0
    told = capsys.readouterr().out
    assert "2 portraits of 2 people" in told and "unprotected" in told
    found = json.loads((out / "evidence.json").read_text())
    assert found["header"]["faces"] == "drawn" and found["header"]["gallery"] == 60
    assert set(found["header"]["thresholds"]) == {
        "mini-ir", "mini-irse", "mini-facenet", "mini-mobileface", "mini-vit",
    }  # fmt: skip
    text = (out / "evidence.html").read_text()
    assert "drawn people only" in text and "mini-vit, held out" in text
    assert (out / "evidence.csv").read_text().startswith("protocol,treatment,judge")
    assert main([*given[:2], "--people", "1", "-o", str(out)]) == 2


def test_photos_need_recognisers_of_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["bench", "verify", "--faces", str(tmp_path), "-o", str(tmp_path / "out")]
    assert main(given) == 2 and "that know photos" in capsys.readouterr().err
    drawn = "fluxguard_core/mini/weights/faces/fluxguard-mini-ir.safetensors"
    file = Path(__file__).parents[2] / drawn
    assert main([*given, "--recogniser", str(file)]) == 2

"""The measurement of the method: areas, intervals over people, log, table, and one edit really run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import CaptureFixture

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate.statistics import bootstrap_mean, clustered_mean, wilson
from fluxguard_core.mini.models import miniature
from fluxguard_core.pipelines.models import Models
from fluxguard_core.protect.presets import preset_named
from training.mini import method_quality
from training.mini.commands import main
from training.mini.method_quality import EDITS, edit_areas, measure_method, psnr_outside
from training.mini.method_rows import (
    AREAS,
    Row,
    append_networks,
    append_row,
    read_networks,
    read_rows,
    run_header,
)
from training.mini.method_summary import difference, share, summary
from training.mini.quality import held_out_specs, recogniser_quality
from training.mini.quality_table import aims, role, table

NAMES = ("mini-ir", "mini-mobileface", "mini-vit")


@pytest.fixture(scope="module")
def models() -> Models:
    return miniature()


def made(portrait: int, edit: str = "beard", **changes: Any) -> Row:
    """A row as the method leaves it: matched before, hidden from all, noise and blur without effect."""
    row = Row(
        portrait=portrait,
        edit=edit,
        hit=True,
        edit_outside={"mask": 40.0 + portrait % 3, "cells": 54.0, "ring": 66.0},
        edit_share={"mask": 0.9, "cells": 0.8, "ring": 0.7},
        protected_outside={"mask": 50.0, "cells": 60.0, "ring": 70.0},
        protected_share={"mask": 0.4, "cells": 0.35, "ring": 0.3},
        ssim=0.94,
        thresholds=dict.fromkeys(NAMES, 0.5),
        attacked={name: name == "mini-ir" for name in NAMES},
        edited=dict.fromkeys(NAMES, 0.9),
        protected=dict.fromkeys(NAMES, round(0.1 + portrait / 100, 5)),
        noise=dict.fromkeys(NAMES, 0.8),
        blur=dict.fromkeys(NAMES, 0.7),
    )
    return dataclasses.replace(row, **changes)


def everyone(people: int = 8) -> list[Row]:
    return [made(person, edit) for person in range(people) for edit in EDITS]


def width(interval: list[float]) -> float:
    return interval[2] - interval[1]


# What a PSNR rests on


def test_areas_hold_one_another_and_start_at_the_mask_itself() -> None:
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 50:55, 41:70] = 1
    areas = edit_areas(mask)
    assert list(areas) == list(AREAS)
    assert torch.equal(areas["mask"], mask)
    assert (areas["mask"] <= areas["cells"]).all()
    assert (areas["cells"] <= areas["ring"]).all()
    assert areas["cells"].sum() >= 64 * 4
    assert areas["ring"].sum() > areas["cells"].sum() > areas["mask"].sum()


def test_change_beside_the_mask_in_the_same_cell_counts_only_outside_the_mask() -> None:
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 64:68, 64:68] = 1
    before = torch.full((1, 3, 128, 128), 0.5)
    after = before.clone()
    after[..., 70, 70] = 1
    found = {area: psnr_outside(after, before, inside) for area, inside in edit_areas(mask).items()}
    assert found["mask"] is not None
    assert found["mask"] < 60
    assert found["cells"] == found["ring"] == 100


def test_nothing_outside_is_none_and_not_a_perfect_figure() -> None:
    picture = torch.rand(1, 3, 16, 16)
    assert psnr_outside(picture, picture, torch.ones(1, 1, 16, 16)) is None
    rows = everyone()
    empty = {"mask": 50.0, "cells": 60.0, "ring": None}
    gone = {"mask": 0.4, "cells": 0.35, "ring": 0.0}
    rows[0] = dataclasses.replace(rows[0], protected_outside=empty, protected_share=gone)
    found = summary(rows)["protected_outside"]["ring"]
    assert found["psnr"] == [70, 70, 70]
    assert found["edits"] == len(rows) - 1
    assert found["pixels"] == pytest.approx(0.3)
    nowhere = [
        dataclasses.replace(row, protected_outside=empty, protected_share=gone) for row in rows
    ]
    figures = {"preset": "fast", "method": summary(nowhere)}
    assert figures["method"]["protected_outside"]["ring"]["psnr"] is None
    assert "nothing there" in table(figures)


# Intervals over people


def test_interval_over_people_is_wider_than_over_rows_when_people_are_all_or_nothing() -> None:
    values = [float(person % 2) for person in range(20) for _ in range(5)]
    people = [person for person in range(20) for _ in range(5)]
    rows, persons = bootstrap_mean(values), clustered_mean(values, people)
    assert persons.value == rows.value == 0.5
    assert persons.high - persons.low > 1.8 * (rows.high - rows.low)
    assert persons == clustered_mean(values, people)
    measured = [made(person, edit, hit=bool(person % 2)) for person in range(20) for edit in EDITS]
    plain = wilson(50, 100)
    assert width(summary(measured)["hit_rate"]) > 1.8 * (plain.high - plain.low)


def test_one_value_a_person_gives_the_plain_bootstrap_interval() -> None:
    values = torch.randn(60, generator=torch.Generator().manual_seed(3)).tolist()
    plain, clustered = bootstrap_mean(values), clustered_mean(values, range(60))
    assert clustered.value == pytest.approx(plain.value)
    assert clustered.low == pytest.approx(plain.low, abs=0.02)
    assert clustered.high == pytest.approx(plain.high, abs=0.02)


@pytest.mark.parametrize("people", [[1, 1, 1], [1, 2]])
def test_interval_needs_two_people_and_a_person_a_value(people: list[int]) -> None:
    with pytest.raises(FluxGuardError, match="two different"):
        clustered_mean([0.1, 0.2, 0.3], people)


def test_shares_of_nothing_and_of_all_count_people_and_not_rows() -> None:
    rows = everyone(8)
    for hits in (True, False):
        found, expected = share(rows, [hits] * len(rows)), wilson(8 * hits, 8)
        assert found == [expected.value, expected.low, expected.high]
    unseen = wilson(0, 8).high
    yes, no = [True] * len(rows), [False] * len(rows)
    assert difference(rows, yes, no) == pytest.approx([1, 1 - unseen, 1])
    assert difference(rows, no, no) == pytest.approx([0, -unseen, unseen])


# The summary and its table


def test_summary_judges_protection_on_matched_edits_only() -> None:
    rows = everyone()
    lost = {**rows[0].edited, "mini-vit": 0.4}
    rows[0] = dataclasses.replace(rows[0], edited=lost, protected=dict.fromkeys(NAMES, 0.8))
    found = summary(rows)
    assert found["edits"] == 40
    assert found["people"] == 8
    assert found["matched_edits"] == 39
    assert found["matched_before"][0] == pytest.approx(39 / 40)
    assert found["recognisers"]["mini-ir"]["below_after_protection"][0] == 1
    assert set(found["hit_rate_by_edit"]) == set(EDITS)
    vit = found["recognisers"]["mini-vit"]
    assert set(vit["cosine_against"]) == set(vit["below_against"]) == {"edited", "noise", "blur"}
    assert vit["cosine_against"]["edited"][0] < vit["cosine_against"]["blur"][0] < 0


def test_summary_of_one_person_says_that_more_are_needed() -> None:
    with pytest.raises(FluxGuardError, match="of 1 people"):
        summary([made(0, edit) for edit in EDITS])


def test_summary_counts_as_unmatched_what_one_recogniser_rejects() -> None:
    rows = [made(i, edited={**dict.fromkeys(NAMES, 0.9), "mini-vit": 0.3}) for i in range(4)]
    with pytest.raises(FluxGuardError, match="0 of 4 edits are matched"):
        summary(rows)


def test_table_names_what_was_measured_and_marks_the_aims() -> None:
    weak = dict.fromkeys(NAMES, 0.69) | {"mini-ir": 0.1}
    rows = [dataclasses.replace(row, protected=weak) for row in everyone()]
    figures = {
        "preset": "default",
        "method": summary(rows),
        "autoencoder": {"psnr": 33.0, "ssim": 0.97},
        "samples": {"all": 0.991},
        "inversion": {"autoencoder_psnr": 33.0, "inversion_psnr": 31.5},
        "recognisers": {"mini-ir": 0.99, "mini-vit": 0.94},
    }
    lines = table(figures).splitlines()
    assert not any("HaarPSI" in text for text in lines)  # older logs hold no likeness

    def line(*words: str) -> str:
        return next(text for text in lines if all(word in text for word in words))

    assert line("autoencoder PSNR").endswith("met")
    assert line("inversion below").endswith("missed")
    assert line("mini-vit: true accepts at FAR 1e-2").endswith("missed")
    strict = line("edit PSNR outside the edit mask, dB", "90% of the pixels")
    assert "at least 45" in strict
    assert strict.endswith("missed")
    assert "54.000" in line("edit PSNR outside its 8 px latent cells", "80% of the pixels")
    assert "66.000" in line("edit PSNR outside the cells and one more around", "70% of the pixels")
    assert line("protected PSNR", "the edit mask", "40% of the pixels").endswith("met")
    assert "at least 0.95" in line("mini-ir, attacked: below the threshold")
    marks = {entry["figure"]: entry["met"] for entry in aims(figures)}
    assert marks["mini-ir, attacked: below the threshold"] is True
    # All stay above the threshold here, so the share beats nothing; the cosine does beat noise.
    assert marks["mini-vit: share below, protected minus noise"] is False
    assert marks["mini-vit: cosine, protected minus noise"] is True


def test_the_table_says_what_friends_see() -> None:
    look = {"psnr": 39.0, "haarpsi": 0.95, "shift": 6.0, "skin": 2.7, "spot": 4.0}
    rows = [dataclasses.replace(row, likeness=look) for row in everyone()]
    rows[0] = dataclasses.replace(rows[0], likeness={**look, "haarpsi": 0.89})
    lines = table({"preset": "default", "method": summary(rows)}).splitlines()
    place = next(i for i, text in enumerate(lines) if "HaarPSI of the face" in text)
    assert "at least 0.93" in lines[place] and lines[place].endswith("met")
    assert "worst of 40 edits" in lines[place + 1] and lines[place + 1].endswith("missed")
    assert next(text for text in lines if "skin, of 255" in text).endswith("missed")


def test_only_what_was_never_looked_at_took_no_part() -> None:
    assert role("mini-ir", attacked=True) == "attacked"
    assert role("mini-mobileface", attacked=False) == "not attacked"
    assert role("mini-vit", attacked=False) == "took no part in anything"


def test_recognisers_tell_their_true_accept_rate() -> None:
    rates = recogniser_quality()
    assert set(rates) == {f"mini-{n}" for n in ("ir", "irse", "facenet", "mobileface", "vit")}
    assert all(0.9 < rate <= 1 for rate in rates.values())


# The log


def test_log_gives_back_its_rows_and_refuses_those_of_another_run(tmp_path: Path) -> None:
    log, header = tmp_path / "new" / "rows.jsonl", run_header(preset_named("fast"))
    rows = [made(0), made(1)]
    assert read_rows(log, header) == []
    for row in rows:
        append_row(log, header, row)
    assert read_rows(log, header) == rows
    with pytest.raises(FluxGuardError, match=r"preset 'fast'.*another file to --log"):
        read_rows(log, run_header(preset_named("default")))
    trained = {**header, "weights": {**header["weights"], "fluxguard-mini-flux": "0" * 64}}
    for use in (lambda: read_rows(log, trained), lambda: append_row(log, trained, made(2))):
        with pytest.raises(FluxGuardError, match="other weights of fluxguard-mini-flux"):
            use()
    assert read_rows(log, header) == rows


def test_log_header_names_every_weight_file_that_takes_part() -> None:
    weights = run_header(preset_named("fast"))["weights"]
    parts = {"flux", "text", "vae", "ir", "irse", "facenet", "mobileface", "vit"}
    assert {f"fluxguard-mini-{part}" for part in parts | {"landmarks", "parser"}} <= set(weights)
    assert all(len(digest) == 64 for digest in weights.values())


def test_logs_of_one_run_may_be_put_together_into_one_file(tmp_path: Path) -> None:
    header, logs = run_header(preset_named("fast")), [tmp_path / name for name in ("a", "b", "c")]
    for person, log in enumerate(logs[:2]):
        append_row(log, header, made(person))
    logs[2].write_text(logs[0].read_text() + logs[1].read_text())
    append_row(logs[2], header, made(2))
    assert read_rows(logs[2], header) == [made(0), made(1), made(2)]


@pytest.mark.parametrize("first", [dataclasses.asdict(made(0)), []])
def test_log_of_rows_without_a_header_is_refused(tmp_path: Path, first: object) -> None:
    log = tmp_path / "old.jsonl"
    log.write_text(json.dumps(first) + "\n")
    with pytest.raises(FluxGuardError, match="no header"):
        read_rows(log, run_header(preset_named("fast")))


@pytest.mark.parametrize("end", ["", "\n"])
def test_last_line_cut_by_a_kill_is_dropped_and_replaced(tmp_path: Path, end: str) -> None:
    log, header = tmp_path / "rows.jsonl", run_header(preset_named("fast"))
    for person in range(2):
        append_row(log, header, made(person))
    log.write_text(log.read_text().rstrip("\n")[:-40] + end)
    assert read_rows(log, header) == [made(0)]
    append_row(log, header, made(2))
    assert read_rows(log, header) == [made(0), made(2)]


def test_log_with_a_damaged_middle_names_the_line(tmp_path: Path) -> None:
    log, header = tmp_path / "rows.jsonl", run_header(preset_named("fast"))
    append_row(log, header, made(0))
    log.write_text(log.read_text() + "{\n{}\n")
    with pytest.raises(FluxGuardError, match=r"Line 3 of .*Delete that line"):
        read_rows(log, header)


# Really run


def test_one_edit_measured_on_one_portrait(models: Models, tmp_path: Path) -> None:
    log, preset = tmp_path / "rows.jsonl", preset_named("fast")
    told: list[tuple[int, int]] = []

    def measured(edits: list[str]) -> list[Row]:
        return measure_method(
            models, preset, 1, [log], first=3, edits=edits, on_portrait=lambda *a: told.append(a)
        )

    (row,) = measured(["red lipstick"])
    assert told == [(1, 1)]
    assert (row.portrait, row.edit) == (3, "red lipstick")
    for found, shares in (
        (row.edit_outside, row.edit_share),
        (row.protected_outside, row.protected_share),
    ):
        strict, cells, ring = (found[area] for area in AREAS)
        assert strict is not None and cells is not None and ring is not None
        assert 20 < strict <= cells <= ring <= 100
        assert 1 > shares["mask"] >= shares["cells"] >= shares["ring"] > 0
    assert row.edit_share["mask"] > row.protected_share["mask"]
    attacked = [name for name, used in row.attacked.items() if used]
    assert attacked
    for name in attacked:
        assert row.edited[name] > row.thresholds[name] > row.protected[name]
        assert row.noise[name] > row.protected[name]
        assert row.blur[name] > row.protected[name]
    assert measured(["red lipstick"]) == [row]
    assert read_rows(log, run_header(preset)) == [row]


def test_noise_has_another_pattern_for_every_person() -> None:
    edited, region = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    patterns = [method_quality._rivals(edited, 0.9, region, seed)[0] for seed in (0, 1)]
    assert not torch.equal(*patterns)


def test_portraits_are_numbered_the_same_from_any_start() -> None:
    assert held_out_specs(2, first=3) == held_out_specs(5)[3:]


def test_two_logs_are_read_together_and_nothing_is_measured_again(
    tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    logs, header = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], run_header(preset_named("fast"))
    for person in range(6):
        for edit in EDITS:
            append_row(logs[person // 3], header, made(person, edit))
    before = [log.read_bytes() for log in logs]
    command = ["quality", "--preset", "fast", "--first", "1", "--portraits", "4"]
    command += ["--pictures", "0", "--log", str(logs[0]), "--log", str(logs[1])]
    assert main([*command, "--json"]) == 0
    told = capsys.readouterr()
    figures = json.loads(told.out)
    assert figures["method"]["edits"] == 20
    assert figures["method"]["people"] == 4
    assert any(entry["figure"] == "edit hit rate" and entry["met"] for entry in figures["aims"])
    assert told.err.count("portrait ") == 4
    assert [log.read_bytes() for log in logs] == before
    assert main(command) == 0
    assert "20 edits of 4 people" in capsys.readouterr().out
    command[command.index("fast")] = "default"
    assert main(command) == 2
    assert "another run" in capsys.readouterr().err


def test_tiny_run_prints_every_part_as_json(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    log, header = tmp_path / "rows.jsonl", run_header(preset_named("fast"))
    for person, edit in ((p, e) for p in range(2) for e in EDITS if (p, e) != (1, "smile")):
        append_row(log, header, made(person, edit))
    command = ["quality", "--preset", "fast", "--portraits", "2", "--pictures", "1"]
    # The rows made by hand know three recognisers, the one that is measured knows five.
    assert main([*command, "--json", "--log", str(log)]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert set(figures) >= {"autoencoder", "samples", "inversion", "recognisers", "method", "aims"}
    assert figures["method"]["edits"] == 10
    assert figures["autoencoder"]["psnr"] > 25
    assert len(read_rows(log, header)) == 10
    known = read_networks(log, header, 1)
    assert known is not None and all(figures[name] == known[name] for name in known)
    assert read_networks(log, header, 2) is None
    append_networks(log, header, {**known, "pictures": 3, "samples": {"all": 0.5}})
    command[command.index("--pictures") + 1] = "3"
    assert main([*command, "--markdown", "--log", str(log)]) == 0
    assert "draws 50.0 % of its captions' attributes (3 captions)" in capsys.readouterr().out

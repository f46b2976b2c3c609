"""The report: what it may claim, what it must not carry, and that its page stands alone."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
from html.parser import HTMLParser
from pathlib import Path, PureWindowsPath

import pytest
import torch
from PIL import Image

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.evaluate import Pictures, Quality, Recognition, Report, Robustness, judge
from fluxguard_core.evaluate.chart import balanced, chart, wrapped
from fluxguard_core.evaluate.html import axis_range, difference, render_html, shown, write_html
from fluxguard_core.evaluate.report import without_folders
from fluxguard_core.evaluate.verdict import HONESTY


def result(
    name: str,
    attacked: bool,
    edited: float,
    protected: float,
    threshold: float | None = 0.4,
    after: float | None = None,
) -> Recognition:
    shared = () if after is None else (Robustness("jpeg50", "JPEG 50", edited, after),)
    known = (None, None) if threshold is None else (0.01, "rendered strangers")
    return Recognition(name, attacked, edited, protected, threshold, *known, robustness=shared)


def attacked(protected: float = 0.1, edited: float = 0.9) -> Recognition:
    return result("attacked one", True, edited, protected)


def fresh(protected: float, edited: float = 0.9) -> Recognition:
    return result("fresh one", False, edited, protected)


def report(**changes: object) -> Report:
    values = {
        "recognisers": (
            result("alpha", True, 0.9, 0.1, after=0.2),
            result("beta", False, 0.85, 0.5, after=0.6),
        ),
        "edit": Quality(31.0, 0.97, 48.0),
        "protection": Quality(37.5, 0.96, math.inf),
        "size": (24, 32),
        "prompt": "a person with <red> lipstick & a hat",
        "source_prompt": "a person",
        "identity": "synthetic",
        "model": "/home/jdoe/models/flux.safetensors",
        "settings": {"steps": 25, "mask": Path("/home/jdoe/mask.png"), "weights": (0.1, 0.2)},
        "evaluations": {"inversion": 25, "editing": 31},
        "seconds": {"all": 12.5},
    }
    return Report(**{**values, **changes})  # type: ignore[arg-type]


def pictures() -> Pictures:
    torch.manual_seed(0)
    source = torch.rand(1, 3, 24, 32)
    mask = torch.zeros(1, 1, 24, 32)
    mask[..., 4:12, 4:12] = 1
    return Pictures(source, source.flip(-1), (source.flip(-1) + 0.02).clamp(0, 1), mask, mask)


@pytest.mark.parametrize(
    ("results", "level", "says", "never"),
    [
        ([attacked(), fresh(0.1)], "all", "No recogniser measured here", "Some"),
        ([attacked(), fresh(0.6)], "attacked only", "took no part keep it", "No recogniser"),
        ([attacked()], "attacked only", "not known", "took no part"),
        ([attacked(), fresh(0.1, edited=0.2)], "attacked only", "not known", "No recogniser"),
        ([attacked(), attacked(0.6), fresh(0.6)], "attacked only", "Some of the attacked", "No "),
        ([attacked(), attacked(0.6), fresh(0.1)], "some", "still match", "No recogniser"),
        ([attacked(), fresh(0.1), fresh(0.6, edited=0.2)], "some", "still match", "No recogniser"),
        ([attacked(0.8), fresh(0.8)], "none", "Not protected", "No recogniser"),
        ([attacked(0.1, 0.2), fresh(0.1, 0.3)], "unknown", "Nothing is shown", "No recogniser"),
        ([result("a", True, 0.9, 0.1, None)], "unknown", "no", "longer"),
        (
            [attacked(), fresh(0.1), result("a", False, 0.9, 0.8, None)],
            "all",
            "with a known threshold",
            "measured here",
        ),
    ],
)
def test_the_headline_claims_no_more_than_was_measured(
    results: list[Recognition], level: str, says: str, never: str
) -> None:
    verdict = judge(results)
    assert verdict.level == level
    assert says in verdict.headline and never not in verdict.headline


def test_the_detail_counts_and_names_the_worst_transform() -> None:
    results = [result("a", True, 0.9, 0.1, after=0.5), result("b", False, 0.9, 0.1, after=0.2)]
    detail = judge(results).detail
    assert "Attacked: 1 of 1 lost" in detail and "Held out: 1 of 1 lost" in detail
    assert "1 %" in detail and "1 of 2 checks match again, most after JPEG 50" in detail
    assert "All 1 checks" in judge(results[1:]).detail


def test_json_is_valid_and_carries_no_paths() -> None:
    text = report().to_json()
    data = json.loads(text)
    assert "jdoe" not in text and "/home" not in text
    assert data["model"] == "flux.safetensors" and data["settings"]["mask"] == "mask.png"
    assert data["protection"]["outside"] is None and data["protection"]["psnr"] == 37.5
    assert data["limits"] == list(HONESTY) and data["verdict"]["level"] == "attacked only"
    assert data["recognisers"][1]["role"] == "held out"
    assert data["recognisers"][0]["withheld"] is True
    assert data["prompt"] == "a person with <red> lipstick & a hat"


@pytest.mark.parametrize(
    ("value", "published"),
    [
        (PureWindowsPath(r"C:\Users\me\a.png"), "a.png"),
        (r"C:\Users\me\a.png", "a.png"),
        ("~/models/", "models"),
        ("models/flux.safetensors", "flux.safetensors"),
        ("../x", "x"),
        ("black/white photo", "black/white photo"),
        ("1/3", "1/3"),
        (0.5, 0.5),
        ({"a": [Path("/b/c"), None, True]}, {"a": ["c", None, True]}),
    ],
)
def test_paths_are_cut_and_other_words_kept(value: object, published: object) -> None:
    assert without_folders(value) == published


def test_embeddings_are_refused() -> None:
    with pytest.raises(FluxGuardError, match="numbers and words only, got Tensor"):
        report(settings={"embedding": torch.zeros(512)})


def test_what_was_not_measured_follows_the_report() -> None:
    gaps = " ".join(report().not_measured)
    assert "Another photo" in gaps and "autoencoder" in gaps and "commercial service" in gaps
    assert "optimisation has not used" not in gaps
    bare = dataclasses.replace(report(), recognisers=(attacked(),))
    assert "optimisation has not used" in " ".join(bare.not_measured)
    assert "recompression" in " ".join(bare.not_measured)
    second = dataclasses.replace(attacked(), second_protected=0.2)
    assert "Another photo" not in " ".join(report(recognisers=(second,)).not_measured)


class Page(HTMLParser):
    """Collects a page's text, references and open tags."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_stands_alone_and_shows_everything(tmp_path: Path) -> None:
    write_html(tmp_path / "r.html", report(), pictures())
    html = (tmp_path / "r.html").read_text(encoding="utf-8")
    page = Page(html)
    text = " ".join(page.text)
    assert page.open == [] and not {"script", "link", "iframe", "form"} & set(page.tags)
    assert len(page.references) == 7 + 5  # those at full size
    for reference in page.references:
        head, data = reference.split(",", 1)
        assert head == "data:image/png;base64"
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            assert image.size == (32, 24) and image.info == {}
    for phrase in (
        "held out",
        "JPEG 50",
        "threshold 0.400",
        "rendered strangers",
        "a person with <red> lipstick & a hat",
        "identical",
        "48.0 dB",
        *HONESTY,
        *report().not_measured,
        report().verdict.headline,
    ):
        assert phrase in text, phrase
    assert "://" not in html and "jdoe" not in html
    assert html.count('class="bar protected"') == 2


def test_the_page_says_what_the_edit_was_compared_with() -> None:
    assert "Edited, against the original" in render_html(report(), pictures())


def test_the_page_without_optional_parts() -> None:
    shot = pictures()
    plain = report(
        recognisers=(result("a", True, 0.9, -0.3, None),),
        prompt="",
        seconds={},
        evaluations={},
        settings={},
    )
    page = Page(render_html(plain, Pictures(shot.source, shot.edited, shot.protected)))
    text = " ".join(page.text)
    assert len(page.references) == 5 + 5 and page.open == []
    assert "After sharing" not in text and "−0.300" in text and "no threshold known" in text


def test_second_photo_and_target_have_their_own_table() -> None:
    seen = dataclasses.replace(
        result("a", True, 0.9, 0.1),
        second_edited=0.8,
        second_protected=0.45,
        target_edited=0.0,
        target_protected=0.7,
    )
    text = " ".join(Page(render_html(report(recognisers=(seen,)), pictures())).text)
    assert "Another photo of the person" in text and "0.450 match" in text
    assert "Identity aimed at" in text and "0.700" in text


def test_axis_covers_every_value() -> None:
    for lowest, expected in ((0.3, 0.0), (-0.05, -0.2), (-0.2, -0.2), (-0.5, -0.6)):
        low, high = axis_range([attacked(lowest)])
        assert (low, high) == (pytest.approx(expected), 1.0)


def test_large_pictures_are_shown_smaller_and_the_difference_is_not_averaged_first() -> None:
    assert shown(torch.rand(1, 3, 1000, 2000)).shape == (1, 3, 384, 768)
    small = torch.rand(1, 3, 40, 30)
    assert shown(small) is small
    base = torch.full((1, 3, 8, 8), 0.5)
    signed = base + 0.01 * torch.tensor([1.0, -1.0]).repeat(4)
    assert torch.allclose(
        difference(Pictures(base, base, signed)), torch.full_like(base, 0.1), atol=1e-5
    )


def test_pictures_of_different_sizes_are_refused() -> None:
    a = torch.zeros(1, 3, 8, 8)
    with pytest.raises(FluxGuardError, match="one size"):
        Pictures(a, a, torch.zeros(1, 3, 9, 9))
    with pytest.raises(FluxGuardError, match="pixel size"):
        Pictures(a, a, a, torch.ones(1, 1, 2, 2))


def test_chart_is_one_picture_with_every_row() -> None:
    two, three = report(), report(recognisers=(*report().recognisers, attacked()))
    first, second = chart(two, pictures()), chart(three, pictures())
    assert first.shape[:2] == (1, 3) and first.shape[3] == second.shape[3] == 1280
    assert second.shape[2] - first.shape[2] in range(55, 70)
    for colour in ((11, 110, 105), (174, 74, 31), (163, 173, 182)):
        wanted = torch.tensor(colour).view(3, 1, 1) / 255
        assert int(((first[0] - wanted).abs().amax(0) < 0.002).sum()) > 500


def test_the_chart_tells_what_was_left_out() -> None:
    note = "The second photo was not compared: no face was found in it."
    plain, told = chart(report(), pictures()), chart(report(notes=(note,)), pictures())
    assert told.shape[2] - plain.shape[2] in range(20, 40)


def test_a_picture_on_which_nothing_was_measured() -> None:
    """No face, no recogniser: a page that claims nothing."""
    empty = report(recognisers=(), notes=("No face was found.",))
    assert empty.verdict.level == "unknown"
    assert empty.verdict.headline == "Nothing was measured."
    assert chart(empty, pictures()).shape[2] < chart(report(), pictures()).shape[2]
    assert json.loads(empty.to_json())["notes"] == ["No face was found."]


def test_wrapping() -> None:
    from PIL import ImageFont

    font = ImageFont.load_default(20)
    text = "one two three four five six seven eight nine ten"
    lines = wrapped(text, font, 200)
    assert " ".join(lines) == text and all(font.getlength(line) <= 200 for line in lines)
    even = balanced(text, font, 200)
    assert len(even) == len(lines) and " ".join(even) == text

"""Identification: the treated picture as a search's probe, and whether treated pictures of a person lead to each other."""

from __future__ import annotations

import torch

from .bench import Case, embedding
from .log import Rows, key
from .runner import Run
from .verify import judges


def judge_identify(run: Run, arm: str, case: Case) -> Rows:
    """Places of the person and of the target in the gallery, and similarity to the person's other treated portraits."""
    picture = run.made(arm, case).picture
    earlier = [run.made(arm, other).picture for other in _earlier(run, case)]
    points = [other.subject.points for other in _earlier(run, case)]
    rows: Rows = {}
    for encoder, role in judges(case):
        vector = embedding(encoder, picture, case.subject.points)
        gallery = run.bench.gallery
        own = gallery.rank(vector, case.subject.person, encoder.name)
        target = gallery.rank(vector, case.target.person, encoder.name)
        figures = {
            "rank1": float(own < 1),
            "rank5": float(own < 5),
            "rank1.target": float(target < 1),
            "rank5.target": float(target < 5),
        }
        if earlier:
            others = [embedding(encoder, p, five) for p, five in zip(earlier, points, strict=True)]
            links = torch.stack(others) @ vector
            figures["cos.link"] = float(links.mean())
            figures["linked"] = float((links > encoder.threshold()).float().mean())
        rows |= {key(encoder.name, role, name, "own"): value for name, value in figures.items()}
    return rows


def _earlier(run: Run, case: Case) -> list[Case]:
    """The person's portraits before this one, in the same turn: every pair counts once."""
    same = [
        other
        for other in run.bench.cases()
        if other.subject.person == case.subject.person and other.fold is case.fold
    ]
    return same[: [other.subject.name for other in same].index(case.subject.name)]

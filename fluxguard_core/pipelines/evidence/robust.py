"""Robustness: what a held-out recogniser says after sharing, purification, and after it has learnt of the protection."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ...faces.alignment import align
from ...recognition.encoder import FaceEncoder
from ...recognition.thresholds import stranger_cosines, threshold_at
from .bench import Case, embedding
from .log import Rows, key
from .runner import Run
from .treatments import treatments

STEPS, BATCH, RATE, TEMPERATURE, KEPT = 60, 16, 1e-4, 0.1, 10.0
FEWEST = 2  # treated portraits from which there is anything to learn


def judge_robust(run: Run, arm: str, case: Case) -> Rows:
    """Match with another photo of the person after each treatment, by held-out recognisers."""
    made = run.made(arm, case)
    rows: Rows = {}
    for treatment in treatments(run.bench.models):
        picture, points = treatment(made.picture, case.subject.points, case.subject)
        for encoder in case.fold.held_out:
            rows |= _matched(run, encoder, picture, points, case, treatment.name)
    return rows


def _matched(
    run: Run, encoder: FaceEncoder, picture: Tensor, points: Tensor, case: Case, after: str
) -> Rows:
    vector = embedding(encoder, picture, points)
    cosine = float((run.bench.gallery.of(case.subject.person, encoder.name) @ vector).mean())
    return {
        key(encoder.name, "held out", f"match@{after}", "own"): float(cosine > encoder.threshold()),
        key(encoder.name, "held out", f"cos@{after}", "own"): cosine,
    }


def adaptive(run: Run, arm: str) -> Iterator[tuple[str, str, Rows]]:
    """A recogniser that nothing attacks, taught on treated portraits of half of the people, judges the other half.

    It sees the treated portrait and a photo of whom it shows, as a tracker would who found both; its threshold is
    calibrated anew on the gallery afterwards.
    """
    cases = run.bench.cases()
    people = list(dict.fromkeys(case.subject.person for case in cases))
    for encoder in run.bench.always:
        if next(encoder.network.parameters(), None) is None:
            run.told(f"robust: {encoder.name} has nothing that could be taught")
            continue
        for half in (0, 1):
            judged = [c for c in cases if people.index(c.subject.person) % 2 == half]
            taught = [c for c in cases if c not in judged]
            names = {
                c: key(
                    "robust",
                    arm,
                    c.subject.name,
                    f"{c.fold.name}, adaptive {encoder.name} {len(taught)}",
                )
                for c in judged
            }
            if len(taught) < FEWEST or all(name in run.log for name in names.values()):
                continue
            pupil, gallery, limit = taught_on(run, arm, taught, encoder)
            run.told(f"robust: {encoder.name} has learnt of {arm} on {len(taught)} portraits")
            for case, name in names.items():
                picture = run.made(arm, case).picture
                vector = embedding(pupil, picture, case.subject.points)
                rows = [
                    i for i, p in enumerate(run.bench.gallery.people) if p == case.subject.person
                ]
                cosine = float((gallery[rows] @ vector).mean())
                yield (
                    name,
                    case.subject.person,
                    {
                        key(encoder.name, "held out", "match@adaptive", "own"): float(
                            cosine > limit
                        ),
                        key(encoder.name, "held out", "cos@adaptive", "own"): cosine,
                    },
                )


def taught_on(
    run: Run, arm: str, cases: list[Case], encoder: FaceEncoder
) -> tuple[FaceEncoder, Tensor, float]:
    """A copy of a recogniser fine-tuned to know treated portraits; its gallery's vectors and threshold.

    Each treated portrait is drawn to its person's photos and away from the other people's of the batch
    (InfoNCE, van den Oord et al. 2018), while the gallery keeps its places.
    """
    crops = torch.cat([_crop(run, arm, case, encoder) for case in cases])
    known = torch.stack(
        [
            F.normalize(run.bench.gallery.of(c.subject.person, encoder.name).mean(0), dim=0)
            for c in cases
        ]
    )
    people = [case.subject.person for case in cases]
    same = torch.tensor([[float(a == b) for b in people] for a in people])
    anchors, places = run.bench.gallery.crops(encoder), run.bench.gallery.vectors[encoder.name]
    with torch.enable_grad():
        pupil = replace(encoder, network=copy.deepcopy(encoder.network))
        pupil.network.requires_grad_(True)
        optimiser = torch.optim.Adam(pupil.network.parameters(), lr=RATE)
        generator = torch.Generator().manual_seed(run.bench.seed)
        for _ in range(STEPS):
            chosen = torch.randperm(len(crops), generator=generator)[:BATCH]
            kept = torch.randperm(len(anchors), generator=generator)[:BATCH]
            vectors = pupil(crops[chosen])
            logits = vectors @ known[chosen].T / TEMPERATURE
            drift = 1 - (pupil(anchors[kept]) * places[kept]).sum(1)
            wanted = same[chosen][:, chosen]
            learnt = F.cross_entropy(logits, wanted / wanted.sum(1, keepdim=True))
            loss = learnt + KEPT * drift.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    pupil.network.requires_grad_(False)
    with torch.no_grad():
        gallery = torch.cat([pupil(part) for part in anchors.split(64)])
    limit = threshold_at(stranger_cosines(gallery, run.bench.gallery.people), 1e-2)
    return pupil, gallery, limit


def _crop(run: Run, arm: str, case: Case, encoder: FaceEncoder) -> Tensor:
    picture = run.made(arm, case).picture
    return align(picture, case.subject.points[None].to(picture), encoder.crop)

"""Cosine thresholds: published ones with their source, and calibration on pictures of strangers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..pictures.files import write_atomic
from .encoder import Colour, FaceEncoder, Strangers, Threshold

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)
# Accepted pairs that a rate rests on: ten, as rounded.
_FEWEST = 9.5

_ADV_MAKEUP = "Adv-Makeup (Tencent Youtu), also in AMT-GAN, DiffAM, EFPP; RGB, their crop"
_IRLUME = "archledger/irlume, LFW, 87.3 M pairs of strangers, YuNet alignment"


def _table(
    source: str, rates: tuple[float, ...], values: tuple[float, ...]
) -> tuple[Threshold, ...]:
    pairs = zip(rates, values, strict=True)
    return tuple(Threshold(rate, value, source) for rate, value in pairs)


def _classic(*values: float) -> tuple[Threshold, ...]:
    return _table(_ADV_MAKEUP, (1e-1, 1e-2, 1e-3), values)


def _lfw(*values: float) -> tuple[Threshold, ...]:
    return _table(_IRLUME, (1e-2, 1e-3, 1e-4), values)


PUBLISHED: dict[str, tuple[Threshold, ...]] = {
    "ir152": _classic(0.094632, 0.166788, 0.227922),
    "irse50": _classic(0.144840, 0.241045, 0.312703),
    "facenet": _classic(0.256587, 0.409131, 0.591191),
    "mobile_face": _classic(0.183635, 0.301611, 0.380878),
    "w600k_r50": _lfw(0.148, 0.209, 0.300),
    "auraface": _lfw(0.219, 0.295, 0.385),
}
"""Thresholds by model, as published; they need not hold in another cropping pipeline."""


def person_indices(people: Sequence[str]) -> Tensor:
    """The number of each picture's person [N], in the order of first mention."""
    index = {person: number for number, person in enumerate(dict.fromkeys(people))}
    return torch.tensor([index[person] for person in people])


def stranger_cosines(embeddings: Tensor, people: Sequence[str] | None = None) -> Tensor:
    """Cosines [P] of all pairs of different people.

    embeddings [N,D] unit vectors; people: one label a picture, so that pairs of one person are
    left out; without it every picture is a person of their own.
    """
    count = embeddings.shape[0]
    keep = torch.ones(count, count, dtype=torch.bool).triu(1)
    if people is not None:
        labels = person_indices(people)
        keep &= labels[:, None] != labels[None, :]
    cosines = embeddings.cpu() @ embeddings.cpu().T
    return cosines[keep]


def spread_of(cosines: Tensor, source: str) -> Strangers:
    """Mean and standard deviation of strangers' cosines [P]."""
    return Strangers(float(cosines.mean()), float(cosines.std()), source, cosines.numel())


def threshold_at(cosines: Tensor, far: float) -> float:
    """Smallest cosine such that at most a share `far` of these strangers' cosines lies above it."""
    ordered = cosines.flatten().sort(descending=True).values
    allowed = math.floor(far * len(ordered) + 1e-9)
    return float(ordered[min(allowed, len(ordered) - 1)])


def calibrate(
    embeddings: Tensor,
    source: str,
    *,
    people: Sequence[str] | None = None,
    fars: Sequence[float] = FALSE_ACCEPT_RATES,
) -> tuple[Threshold, ...]:
    """Thresholds from unit vectors [N,D] of strangers, for each rate that has ten pairs above it.

    A rate that would rest on fewer than ten accepted pairs (as rounded: 46 pictures serve for 1e-2 with
    one of them lost) is left out; FluxGuardError when none is left.
    """
    cosines = stranger_cosines(embeddings, people)
    kept = [far for far in fars if far * len(cosines) >= _FEWEST]
    if not kept:
        raise FluxGuardError(
            f"{len(embeddings)} pictures give {len(cosines)} pairs of strangers; a false accept "
            f"rate of {max(fars):g} needs {math.ceil(_FEWEST / max(fars))}.",
            "Add pictures of more people.",
        )
    count = cosines.numel()
    return tuple(Threshold(far, threshold_at(cosines, far), source, count) for far in kept)


def accept_rate(cosines: Tensor, threshold: float) -> float:
    """Share of cosines strictly above the threshold: TAR on genuine pairs, FAR on strangers."""
    return float((cosines > threshold).float().mean())


def thresholds_path(model: Path) -> Path:
    """Where the calibration of a model file is kept: beside it."""
    return model.with_name(model.name + ".thresholds.json")


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was measured on pictures of strangers.

    colour: the channel order that was fed, for which alone the thresholds hold; mean_face: unit
    vector [D] of the mean embedding, which says where faces in general lie; strangers: how similar
    different people are; fed: everything else about the input (`fed_as`), which thresholds hang on
    as well.
    """

    thresholds: tuple[Threshold, ...]
    colour: Colour
    mean_face: Tensor
    strangers: Strangers | None = None
    fed: str | None = None


def fed_as(encoder: FaceEncoder) -> str:
    """How an encoder is fed, but for the channel order: what a calibration holds for."""
    levels = [
        value if isinstance(value, tuple) else (value,) for value in (encoder.mean, encoder.std)
    ]
    means, stds = (" ".join(f"{value:.6g}" for value in level) for level in levels)
    return f"{encoder.size} px, mean {means}, std {stds}, crop {encoder.layout}, margin {encoder.margin:g}"


def list_thresholds(thresholds: Sequence[Threshold]) -> list[dict[str, Any]]:
    """Thresholds as plain dictionaries for JSON."""
    rows: list[dict[str, Any]] = []
    for t in thresholds:
        row: dict[str, Any] = {"far": t.far, "value": t.value, "source": t.source}
        rows.append(row if t.pairs is None else {**row, "pairs": t.pairs})
    return rows


def parse_thresholds(entries: Sequence[Mapping[str, Any]]) -> tuple[Threshold, ...]:
    """Inverse of `list_thresholds`; ValueError, KeyError or TypeError for anything else."""
    return tuple(
        Threshold(float(e["far"]), float(e["value"]), str(e["source"]), _count(e.get("pairs")))
        for e in entries
    )


def parse_strangers(entry: Mapping[str, Any]) -> Strangers:
    """Strangers from JSON; ValueError, KeyError or TypeError for anything else."""
    spread = float(entry["spread"])
    if not 0 < spread < 2:
        raise ValueError(f"a spread of {spread:g}")
    return Strangers(float(entry["mean"]), spread, str(entry["source"]), _count(entry.get("pairs")))


def _count(value: Any) -> int | None:
    return None if value is None else int(value)


def save_calibration(model: Path, calibration: Calibration) -> Path:
    """Write a calibration beside the model file and return its path."""
    path = thresholds_path(model)
    document = {
        "thresholds": list_thresholds(calibration.thresholds),
        "colour": calibration.colour,
        "fed": calibration.fed,
        "strangers": None if calibration.strangers is None else asdict(calibration.strangers),
        "mean_face": [round(value, 6) for value in calibration.mean_face.tolist()],
    }
    write_atomic(path, json.dumps(document, indent=2) + "\n")
    return path


def read_calibration(model: Path) -> Calibration | None:
    """The calibration kept beside a model file, or None; FluxGuardError where it is unreadable."""
    path = thresholds_path(model)
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["colour"] not in get_args(Colour):
            raise ValueError(f"colour {document['colour']!r}")
        mean_face = F.normalize(torch.tensor(document["mean_face"], dtype=torch.float32), dim=0)
        strangers = document.get("strangers")
        return Calibration(
            parse_thresholds(document["thresholds"]),
            document["colour"],
            mean_face,
            None if strangers is None else parse_strangers(strangers),
            document.get("fed"),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise FluxGuardError(
            f"{path} is not a calibration file (expected a JSON object with thresholds, colour and "
            f"mean_face).",
            "Remove it and run ‹run calibrate FILE --faces DIR› again.",
        ) from error


def calibrated(encoder: FaceEncoder, model: Path, *, chosen: Colour | None) -> FaceEncoder:
    """The encoder with the user's own calibration beside its file, where there is one.

    It decides the channel order unless the user has `chosen` one; under another order than the one
    it was measured with, or fed otherwise in another way, it does not hold and is left out.
    """
    own = read_calibration(model)
    if own is None or chosen not in (None, own.colour) or own.fed not in (None, fed_as(encoder)):
        return encoder
    return replace(
        encoder,
        colour=own.colour,
        thresholds=own.thresholds,
        mean_face=own.mean_face,
        strangers=own.strangers or encoder.strangers,
    )

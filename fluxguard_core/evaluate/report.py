"""A report: numbers, settings and words; nothing that leads back to the person or the machine."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import Any

from torch import Tensor

from .. import __version__
from ..errors import FluxGuardError
from ..pictures.files import write_atomic
from ..regions import Found
from .likeness import Likeness
from .quality import Quality
from .similarity import Recognition
from .verdict import HONESTY, Verdict, judge

_ABSOLUTE = re.compile(r"^(?:[\\/~]|\.{1,2}[\\/]|[A-Za-z]:[\\/]|file:)")
_RELATIVE = re.compile(r"^\S*[\\/]\S*\.\w{1,12}$")


def without_folders(value: Any) -> Any:
    """A setting fit to publish: paths cut to their last part, tuples to lists, by depth.

    Raises FluxGuardError for tensors and other objects: a report holds numbers and words only.
    """
    if isinstance(value, PurePath):
        return value.name
    if isinstance(value, str):
        if _ABSOLUTE.match(value) or _RELATIVE.match(value):
            return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
        return value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    raise FluxGuardError(
        f"A report holds numbers and words only, got {type(value).__name__}.",
        "Pass its name instead.",
    )


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


@dataclass(frozen=True, eq=False)
class Pictures:
    """What the report shows: tensors [1,3,H,W] in [0,1]; mask and region [1,1,H,W] or None.

    mask: what the edit might change; found: how words made it; region: what the protection might change.
    """

    source: Tensor
    edited: Tensor
    protected: Tensor
    mask: Tensor | None = None
    region: Tensor | None = None
    found: Found | None = None

    def __post_init__(self) -> None:
        shapes = {tuple(p.shape) for p in (self.source, self.edited, self.protected)}
        if len(shapes) != 1 or next(iter(shapes))[:2] != (1, 3) or len(next(iter(shapes))) != 4:
            raise FluxGuardError(
                f"A report shows pictures [1,3,H,W] of one size; got {sorted(shapes)}."
            )
        for mask in (self.mask, self.region):
            if mask is not None and mask.shape[-2:] != self.source.shape[-2:]:
                raise FluxGuardError(
                    f"The mask is {tuple(mask.shape[-2:])} and the pictures "
                    f"{tuple(self.source.shape[-2:])} (height, width).",
                    "Give it at pixel size.",
                )


@dataclass(frozen=True)
class Report:
    """Everything measured in one run.

    edit: the edited picture against the original. protection: the protected picture against the edited one, and
    likeness how like it friends find each face.
    settings: names and values, cut to what may be published (`without_folders`). evaluations and
    seconds: by phase; an evaluation is one pass of the transformer on one picture. links: mean cosine among
    several protected pictures of the person by recogniser, where more than one was given.
    """

    recognisers: tuple[Recognition, ...]
    edit: Quality
    protection: Quality
    size: tuple[int, int]
    source_prompt: str = ""
    prompt: str = ""
    identity: str = "untargeted"
    preset: str = "default"
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    device: str = ""
    notes: tuple[str, ...] = ()
    links: Mapping[str, float] = field(default_factory=dict)
    version: str = __version__
    likeness: tuple[Likeness, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", without_folders(self.settings))
        object.__setattr__(self, "model", without_folders(self.model))

    @property
    def verdict(self) -> Verdict:
        """What the numbers allow to say (see `judge`)."""
        return judge(self.recognisers)

    @property
    def not_measured(self) -> tuple[str, ...]:
        """What a reader might take for measured and is not."""
        gaps = [
            "Recognisers that are not in this list, among them every commercial service: "
            "nothing was uploaded."
        ]
        if all(result.attacked for result in self.recognisers):
            gaps.append("Any recogniser that the optimisation has not used.")
        if all(result.second_protected is None for result in self.recognisers):
            gaps.append("Another photo of the same person, which is what a search compares with.")
        if not self.links:
            gaps.append("Whether several protected pictures of the person lead to each other.")
        if any(result.threshold is None for result in self.recognisers):
            gaps.append("Match or no match where a recogniser has no threshold.")
        labels = {after.name for result in self.recognisers for after in result.robustness}
        if not labels:
            gaps.append("What remains after recompression, scaling or blur.")
        if "autoencoder" not in labels:
            gaps.append("What remains after another pass through an autoencoder.")
        if not self.likeness:
            gaps.append("Whether friends still see the same person.")
        gaps.append("Attempts to remove the protection on purpose (purification, image-to-image).")
        gaps.append("False accept rates on other groups of people, cameras and crops.")
        return tuple(gaps)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; infinite ones become None."""
        values = asdict(self)
        values["verdict"] = asdict(self.verdict)
        values["not_measured"] = list(self.not_measured)
        values["limits"] = list(HONESTY)
        for entry, look in zip(values["likeness"], self.likeness, strict=True):
            entry["verdict"] = look.verdict
            entry["told"] = look.told()
        for entry, result in zip(values["recognisers"], self.recognisers, strict=True):
            entry["role"] = result.role
            entry["withheld"] = result.withheld
        return dict(_finite(values))

    def to_json(self) -> str:
        """The report as JSON text: no paths, no embeddings, no metadata of the photo."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write `to_json`, whole or not at all."""
        write_atomic(path, self.to_json())

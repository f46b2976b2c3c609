"""What a face reveals before and after: every classifier, every recogniser, and how far the picture has moved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..evaluate.quality import Quality


@dataclass(frozen=True)
class AttributeReading:
    """How sure a classifier is that an attribute is there, in [0, 1]; `wanted` None where it was to stay."""

    name: str
    before: float
    after: float
    wanted: float | None

    @property
    def changed(self) -> bool:
        """Whether the answer is another one."""
        return (self.before > 0.5) != (self.after > 0.5)

    @property
    def done(self) -> bool:
        """Whether it is as it was wanted: turned, left without an answer (40 to 60 %), or the same."""
        if self.wanted is None:
            return not self.changed
        if self.wanted == 0.5:
            return 0.4 <= self.after <= 0.6
        return (self.after > 0.5) == (self.wanted == 1.0)


@dataclass(frozen=True)
class ClassifierReport:
    """One classifier; `steered` where the change was made by its answers, so that they prove nothing."""

    name: str
    steered: bool
    readings: tuple[AttributeReading, ...]

    @property
    def role(self) -> str:
        """In words."""
        return "steered by" if self.steered else "unseen"

    def of(self, wanted: bool) -> tuple[AttributeReading, ...]:
        """The attributes that were to change, or those that were to stay."""
        return tuple(r for r in self.readings if (r.wanted is not None) == wanted)


@dataclass(frozen=True)
class MatcherReport:
    """A recogniser's cosine between the picture before and after; threshold None where it is not known."""

    name: str
    consulted: bool
    cosine: float
    threshold: float | None

    @property
    def matches(self) -> bool | None:
        """Whether it still takes both for one person."""
        return None if self.threshold is None else self.cosine > self.threshold


@dataclass(frozen=True)
class AttributeReport:
    """Everything that was measured of one picture.

    Args:
        strengths: by attribute, 1 as in training, 1.5 the published test intensity; empty on the road of words.
        quality: of the result against the picture.
        notes: sentences on what was not measured or not reached.
    """

    wanted: Mapping[str, float]
    strengths: Mapping[str, float]
    identity: str
    classifiers: tuple[ClassifierReport, ...]
    recognisers: tuple[MatcherReport, ...]
    quality: Quality
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "wanted": dict(self.wanted),
            "strengths": dict(self.strengths),
            "identity": self.identity,
            "classifiers": [{**asdict(c), "role": c.role} for c in self.classifiers],
            "recognisers": [{**asdict(r), "matches": r.matches} for r in self.recognisers],
            "psnr": self.quality.psnr,
            "ssim": self.quality.ssim,
            "notes": list(self.notes),
        }

    def told(self) -> list[str]:
        """Lines for a console or a node."""
        lines = [f"PSNR {self.quality.psnr:.1f} dB, SSIM {self.quality.ssim:.3f}"]
        for report in self.classifiers:
            asked = [
                f"{r.name} {r.before:.0%} -> {r.after:.0%}{'' if r.done else ' (not reached)'}"
                for r in report.of(True)
            ]
            others = report.of(False)
            moved = [r.name for r in others if r.changed]
            stayed = f"{len(others) - len(moved)} of {len(others)} others stay"
            gone = f" (changed: {', '.join(moved)})" if moved else ""
            lines.append(f"{report.name} ({report.role}): {', '.join(asked)}; {stayed}{gone}")
        for one in self.recognisers:
            role = "consulted" if one.consulted else "held out"
            verdict = {
                True: "still matches",
                False: "no longer matches",
                None: "threshold not known",
            }
            lines.append(
                f"{one.name} ({role}): similarity {one.cosine:.2f}, {verdict[one.matches]}"
            )
        return [*lines, *self.notes]

"""The table of `python -m training.mini quality`: each figure with its interval, its aim, and whether it is met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from fluxguard_core.mini.faces import HELD_OUT

from .method_rows import AREAS

# above, below: the whole interval lies there; at least, at most: the figure itself does.
Sense = Literal["at least", "at most", "above", "below"]
ATTACKED, NO_PART = "attacked", "took no part in anything"
RIVALS = {"edited": "the unprotected edit", "noise": "noise", "blur": "blur"}


@dataclass(frozen=True)
class Line:
    """A figure: [value] or [value, low, high], None where there was nothing to measure."""

    name: str
    measured: list[float] | None
    sense: Sense | None = None
    aim: float = 0.0

    @property
    def met(self) -> bool | None:
        """Whether the aim is reached; None without an aim."""
        if self.sense is None:
            return None
        if self.measured is None:
            return False
        return {
            "at least": self.measured[0] >= self.aim,
            "at most": self.measured[0] <= self.aim,
            "above": min(self.measured) > self.aim,
            "below": max(self.measured) < self.aim,
        }[self.sense]


def aims(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """Every figure that has an aim, for a program."""
    return [
        {
            "figure": line.name,
            "measured": line.measured,
            "aim": f"{line.sense} {line.aim:g}",
            "met": line.met,
        }
        for lines in _sections(figures).values()
        for line in lines
        if line.sense is not None
    ]


def table(figures: dict[str, Any]) -> str:
    """Text for a terminal."""
    text: list[str] = []
    sections = _sections(figures)
    width = max(len(line.name) for lines in sections.values() for line in lines)
    for title, lines in sections.items():
        text += ["", title] + [_text(line, width) for line in lines]
    return "\n".join(text[1:])


def _sections(figures: dict[str, Any]) -> dict[str, list[Line]]:
    method = figures["method"]
    title = (
        f"protection, preset {figures['preset']}: the {method['matched_edits']} edits that every "
        "recogniser matches beforehand"
    )
    found = {"the networks": [*_networks(figures)]} if "autoencoder" in figures else {}
    return {
        **found,
        f"{method['edits']} edits of {method['people']} people": [*_edits(method)],
        title: [
            line
            for name, facts in method["recognisers"].items()
            for line in _protection(name, facts)
        ],
    }


def _networks(figures: dict[str, Any]) -> Iterator[Line]:
    inversion = figures["inversion"]
    lost = inversion["autoencoder_psnr"] - inversion["inversion_psnr"]
    yield Line("autoencoder PSNR, dB", [figures["autoencoder"]["psnr"]], "at least", 30.0)
    yield Line("autoencoder SSIM", [figures["autoencoder"]["ssim"]], "at least", 0.95)
    yield Line("samples agree with captions", [figures["samples"]["all"]], "at least", 0.98)
    yield Line("inversion below autoencoder, dB", [lost], "at most", 1.0)
    for name, rate in figures["recognisers"].items():
        yield Line(f"{name}: true accepts at FAR 1e-2", [rate], "at least", 0.95)


def _edits(method: dict[str, Any]) -> Iterator[Line]:
    yield Line("edit hit rate", method["hit_rate"], "at least", 0.90)
    for kind, hits in method["hit_rate_by_edit"].items():
        yield Line(f"  {kind}", hits)
    yield from _outside("edit PSNR outside", method["edit_outside"], method["edits"])
    yield from _outside(
        "protected PSNR outside perturbed region,", method["protected_outside"], method["edits"]
    )
    yield Line("protected SSIM to the edit", method["ssim"], "at least", 0.90)
    yield from _likeness(method["likeness"])
    yield Line("matched by every recogniser before", method["matched_before"], "at least", 0.80)


# Means that leave the person plainly the same, the worst that any edit may show, and how a figure is called.
_LOOKS: dict[str, tuple[str, Sense, float, float]] = {
    "psnr": ("PSNR around the face, dB", "at least", 38.0, 36.0),
    "haarpsi": ("HaarPSI of the face", "at least", 0.93, 0.90),
    "shift": ("shift of the face, of 255", "at most", 8.0, 12.0),
    "skin": ("skin, of 255", "at most", 2.6, 3.5),
}


def _likeness(found: dict[str, Any] | None) -> Iterator[Line]:
    """What friends see of the protection; logs of before hold nothing of it."""
    if found is None:
        return
    for name, (words, sense, middle, worst) in _LOOKS.items():
        yield Line(f"protected, {words}", found[name]["mean"], sense, middle)
        yield Line(f"  the worst of {found['edits']} edits", [found[name]["worst"]], sense, worst)


def _outside(name: str, found: dict[str, Any], edits: int) -> Iterator[Line]:
    """Outside the edit mask stands the aim; the larger areas show how much of the rest is its rim."""
    for area, words in AREAS.items():
        facts = found[area]
        rests = f"{facts['pixels']:.0%} of the pixels"
        if facts["edits"] != edits:
            rests += f", {facts['edits']} of the edits"
        label = f"{name} {words}, dB ({rests})"
        yield (
            Line(label, facts["psnr"], "at least", 45.0)
            if area == "mask"
            else Line(label, facts["psnr"])
        )


def _protection(name: str, facts: dict[str, Any]) -> Iterator[Line]:
    """The attacked shall fall below their thresholds; what took no part, more often than by any rival."""
    part = role(name, facts["attacked"])
    label, share = f"{name}, {part}: below the threshold", facts["below_after_protection"]
    yield Line(label, share, "at least", 0.95) if part == ATTACKED else Line(label, share)
    for rival in ("noise", "blur"):
        yield Line(
            f"{name}: below the threshold with {rival} of equal SSIM", facts[f"below_after_{rival}"]
        )
    for rival, words in RIVALS.items():
        label, gap = f"{name}: share below, protected minus {words}", facts["below_against"][rival]
        yield Line(label, gap, "above", 0.0) if part == NO_PART else Line(label, gap)
    for rival, words in RIVALS.items():
        label, gap = f"{name}: cosine, protected minus {words}", facts["cosine_against"][rival]
        yield Line(label, gap, "below", 0.0) if part == NO_PART else Line(label, gap)


def role(name: str, attacked: bool) -> str:
    """What a recogniser had to do with the protection.

    Only those in `HELD_OUT` took no part in the attack, the choice of settings or the early stop: presets
    were chosen with an eye on what the others say.
    """
    if attacked:
        return ATTACKED
    return NO_PART if name.removeprefix("mini-") in HELD_OUT else "not attacked"


def _text(line: Line, width: int) -> str:
    aim = "" if line.sense is None else f"{line.sense} {line.aim:g}"
    mark = {None: "", True: "met", False: "missed"}[line.met]
    return f"{line.name:<{width}}{_interval(line.measured):>26}   {aim:<14}{mark}".rstrip()


def _interval(values: list[float] | None) -> str:
    if values is None:
        return "nothing there"
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"

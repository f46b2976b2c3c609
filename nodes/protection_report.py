"""A protection's report in words, and what becomes of pictures that were left alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..fluxguard_core.protect.engine import Step
from ..fluxguard_core.protect.identity import similarities
from . import host
from .faces import told_faceless
from .protection_inputs import Wishes


def heading(wishes: Wishes) -> str:
    """What was asked for."""
    return f"Preset {wishes.preset.name}, identity {wishes.identity.kind}"


def told(log: Sequence[Step]) -> list[str]:
    """The log in words, a line an interval: its last iterate."""
    last = {entry.interval: entry for entry in log}
    return [_line(interval, entry) for interval, entry in last.items()]


def _line(interval: int, entry: Step) -> str:
    similar, aimed = (
        ", ".join(f"{name} {value:.2f}" for name, value in similarities(entry, to).items())
        for to in ("source", "target")
    )
    parts = [
        f"interval {interval}: {entry.step + 1} iterates, loss {entry.losses['identity']:.3f}",
        f"visible difference {entry.losses['perceptual']:.4f}",
        *([f"similarity to the person: {similar}"] if similar else ()),
        *([f"to the target: {aimed}"] if aimed else ()),
        *(["goal reached"] if entry.met else ()),
    ]
    return "; ".join(parts)


def warned(faceless: tuple[int, ...]) -> list[str]:
    """The report's first line where pictures stay unprotected, told on the node and in the log as well."""
    if not faceless:
        return []
    host.warn(told_faceless(faceless))
    return [told_faceless(faceless)]


def told_unmasked(number: int) -> str:
    """Of a picture whose own mask is empty."""
    return f"NOT PROTECTED: picture {number} of the batch (the first is 0). Its mask is empty."


def passing(protected: dict[str, Any], plain: Tensor, left: Sequence[int]) -> dict[str, Any]:
    """A LATENT whose pictures that were left alone are the plain ones, bit for bit."""
    samples = protected["samples"].clone()
    for number in left:
        samples[number] = plain[number].to(samples)
    return {**protected, "samples": samples}

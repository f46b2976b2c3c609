"""What a shield does, seen from outside: the change, what networks make of it after sharing, and two edits side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import FluxGuardError
from ..faces.alignment import align
from ..recognition.encoder import FaceEncoder
from ..recognition.ensemble import Ensemble
from .change import Change, change_of
from .quality import psnr, ssim
from .transforms import Transform, blur, jpeg, rescale

SHARED: tuple[Transform, ...] = (jpeg(75), rescale(0.5), blur(1.0))
_PLAIN = "as it is"


@dataclass(frozen=True)
class Seen:
    """What one network says of a shielded picture, as it is and after sharing.

    Args:
        values: by sharing; a similarity of a recogniser, a latent's distance of an autoencoder.
        threshold: from which similarity on a recogniser takes two pictures for one person, where it is known.
    """

    name: str
    values: Mapping[str, float]
    attacked: bool | None = None
    threshold: float | None = None

    @property
    def matches(self) -> bool | None:
        """Whether the recogniser still takes both for one person; None where nobody can say."""
        return None if self.threshold is None else self.values[_PLAIN] >= self.threshold


@dataclass(frozen=True)
class Edits:
    """The same edit of the original and of the shielded picture against each other; lower is a stronger shield."""

    psnr: float
    ssim: float


@dataclass(frozen=True)
class ShieldTest:
    """Everything that was measured of one picture; ``distances`` are of autoencoders."""

    change: Change
    recognisers: tuple[Seen, ...] = ()
    distances: tuple[Seen, ...] = ()
    edits: Edits | None = None

    @property
    def verdict(self) -> str:
        """What was seen, in words; nothing that was not measured."""
        parts = []
        if self.edits is not None:
            gained = self.change.psnr - self.edits.psnr
            parts.append(
                f"The two edits differ {gained:.1f} dB more than the two pictures (SSIM {self.edits.ssim:.2f}): the "
                "edit was disturbed."
                if gained > 0
                else "The edit came out nearly as it does without the shield."
            )
        judged = [seen for seen in self.recognisers if seen.matches is not None]
        held_out = [seen for seen in judged if not seen.attacked]
        for told, group in (
            ("Recognisers that took no part", held_out),
            ("Attacked recognisers", [seen for seen in judged if seen.attacked]),
        ):
            if group:
                still = sum(bool(seen.matches) for seen in group)
                parts.append(f"{told}: {still} of {len(group)} still match.")
        if judged and not held_out:
            parts.append("No recogniser judged that took no part.")
        if not parts:
            parts.append(
                "Only the change was measured; connect edits or recognisers to see what it does."
            )
        return " ".join(parts)

    def table(self) -> str:
        """Lines of text."""
        lines = [f"change: {self.change.told()}"]
        if self.edits is not None:
            lines.append(
                f"edits against each other: PSNR {self.edits.psnr:.1f} dB, SSIM {self.edits.ssim:.3f}"
            )
        for kind, rows in (("latent distance", self.distances), ("similarity", self.recognisers)):
            lines += [f"{kind}, {_named(row)}: {_told(row)}" for row in rows]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """For a report in JSON."""
        edits = None
        if self.edits is not None:
            same = math.isinf(self.edits.psnr)  # two edits without a difference have no PSNR
            edits = {"psnr": None if same else self.edits.psnr, "ssim": self.edits.ssim}
        return {
            "verdict": self.verdict,
            "change": self.change.to_dict(),
            "edits": edits,
            "latent_distance": {row.name: dict(row.values) for row in self.distances},
            "recognisers": [
                {
                    "name": row.name,
                    "attacked": row.attacked,
                    "threshold": row.threshold,
                    "similarity": dict(row.values),
                }
                for row in self.recognisers
            ],
        }


def _named(row: Seen) -> str:
    if row.attacked is None:
        return row.name
    return f"{row.name} ({'attacked' if row.attacked else 'took no part'})"


def _told(row: Seen) -> str:
    return ", ".join(f"{name} {value:.3f}" for name, value in row.values.items())


@dataclass(frozen=True, eq=False)
class ShieldTester:
    """Who looks at a shielded picture.

    Args:
        encode: pictures -> latent, by the autoencoder's name.
        shared: what happens to both pictures before they are compared once more.
    """

    ensemble: Ensemble | None = None
    encode: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    shared: Sequence[Transform] = SHARED

    @torch.no_grad()
    def test(
        self,
        original: Tensor,
        shielded: Tensor,
        landmarks: Tensor | None = None,
        edits: tuple[Tensor, Tensor] | None = None,
    ) -> ShieldTest:
        """Compare a shielded picture [1, 3, H, W] with its original.

        Args:
            landmarks: five points [5, 2] of the face; without them no recogniser judges.
            edits: the same edit of the original and of the shielded picture, of one size.
        """
        if original.shape != shielded.shape:
            raise FluxGuardError(
                f"The shielded picture {list(shielded.shape)} and the original {list(original.shape)} must have one size.",
                "Compare pictures of the same run, without scaling.",
            )
        pairs = {_PLAIN: (original, shielded)}
        pairs |= {one.label: (one(original), one(shielded)) for one in self.shared}
        return ShieldTest(
            change_of(original, shielded, landmarks),
            self._recognised(original, pairs, landmarks),
            self._apart(pairs),
            None if edits is None else edits_apart(*edits),
        )

    def _recognised(
        self, original: Tensor, pairs: Mapping[str, tuple[Tensor, Tensor]], points: Tensor | None
    ) -> tuple[Seen, ...]:
        if self.ensemble is None or points is None:
            return ()
        where = points.reshape(1, 5, 2).float()

        def embedded(encoder: FaceEncoder, picture: Tensor) -> Tensor:
            return encoder(align(picture, where, encoder.crop))[0]

        rows = []
        for encoder in self.ensemble.members:
            known = embedded(encoder, original)
            values = {
                name: float(known @ embedded(encoder, shielded))
                for name, (_, shielded) in pairs.items()
            }
            limit = encoder.threshold() if encoder.thresholds else None
            rows.append(Seen(encoder.name, values, encoder in self.ensemble.attacked, limit))
        return tuple(rows)

    def _apart(self, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> tuple[Seen, ...]:
        return tuple(
            Seen(
                name,
                {
                    kind: float((encode(b) - encode(a)).square().mean().sqrt())
                    for kind, (a, b) in pairs.items()
                },
            )
            for name, encode in self.encode.items()
        )


def edits_apart(of_original: Tensor, of_shielded: Tensor) -> Edits:
    """How alike two edits [1, 3, H, W] are."""
    return Edits(psnr(of_shielded, of_original), ssim(of_shielded, of_original))


def side_by_side(pictures: Sequence[Tensor], gap: int = 8) -> Tensor:
    """Pictures [1, 3, h, w] in a row on white, aligned above."""
    tallest = max(picture.shape[-2] for picture in pictures)
    parts: list[Tensor] = []
    for picture in pictures:
        below, right = tallest - picture.shape[-2], gap if picture is not pictures[-1] else 0
        parts.append(F.pad(picture, (0, right, 0, below), value=1.0))
    return torch.cat(parts, -1)

"""A mask and how it came about; combined, shaped and brought to the latent without ever becoming a silent no-edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import FluxGuardError
from .mask import feather, grow, intersection, invert, soft_mask, union
from .shapes import EmptyMask

FULL = 0.98
VANISHING = 0.25


class FullMask(FluxGuardError):
    """A mask over the whole picture: an edit under it would keep nothing."""


@dataclass(frozen=True, eq=False)
class Found:
    """A mask and how it came about.

    mask: [1,1,H,W] in [0,1], 1 may change; names: the regions in it; shares: each one's share of the
    picture; missing: regions of the wish that are not there; sure: mean probability that the source's
    network gives to its labels inside the mask, None where it gives none; source: which one; how: lexicon
    or meaning; labels: the label map [H,W], where there is one.
    """

    mask: Tensor
    names: tuple[str, ...]
    shares: dict[str, float]
    missing: tuple[str, ...]
    sure: float | None
    source: str
    how: str = "lexicon"
    labels: Tensor | None = None
    regions: dict[str, Tensor] | None = None

    @property
    def share(self) -> float:
        """Share of the picture under the mask."""
        return float(self.mask.float().mean())

    def told(self) -> str:
        """One line for a person."""
        parts = [f"{name} {100 * self.shares[name]:.1f} %" for name in self.names]
        sure = "" if self.sure is None else f", sure {self.sure:.2f}"
        gone = f"; not found: {', '.join(self.missing)}" if self.missing else ""
        by = ", understood by meaning" if self.how == "meaning" else ""
        return f"{', '.join(parts)} (by {self.source}{sure}{by}){gone}"


def not_full(found: Found) -> Found:
    """The same; raises FullMask where next to nothing of the picture would be kept."""
    if found.share >= FULL:
        raise FullMask(
            f"The mask of {', '.join(found.names)} covers {100 * found.share:.0f} % of the picture, so next to "
            "nothing would be kept.",
            "Name a smaller part, choose another parser, or draw the mask by hand.",
        )
    return found


def completed(first: Found, second: Found) -> Found:
    """The first, with those of its missing regions that the second found."""
    new = [name for name in second.names if name in first.missing]
    parts = second.regions
    if not new or parts is None:
        return first
    added = torch.stack([parts[name] for name in new]).any(0).float()[None, None].to(first.mask)
    sure = None
    if first.sure is not None and second.sure is not None:
        weights = (first.share, float(added.mean()))
        sure = (first.sure * weights[0] + second.sure * weights[1]) / sum(weights)
    return replace(
        first,
        mask=union(first.mask, added),
        names=(*first.names, *new),
        shares={**first.shares, **{name: second.shares[name] for name in new}},
        missing=tuple(name for name in first.missing if name not in new),
        sure=sure,
        source=f"{first.source}, and {', '.join(new)} by {second.source}",
        regions={**(first.regions or {}), **{name: parts[name] for name in new}},
    )


def joined(parts: Sequence[Found]) -> Found:
    """The same wish found on several faces of one picture, by one source."""
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    maps = [part.regions or {} for part in parts]
    regions = {
        name: torch.stack([one[name] for one in maps if name in one]).any(0) for name in names
    }
    return replace(
        parts[0],
        mask=union(*(part.mask for part in parts)),
        names=names,
        shares={name: float(region.float().mean()) for name, region in regions.items()},
        missing=tuple(name for name in parts[0].missing if name not in names),
        regions=regions,
    )


def combined(found: Found, given: Tensor, how: str) -> Found:
    """A found mask with a given one [1,1,H,W]: add, intersect, subtract.

    Raises EmptyMask where nothing is left, FullMask where everything is.
    """
    given = given.to(found.mask)
    if how == "subtract":
        mask = intersection(found.mask, invert(given))
    elif how == "intersect":
        mask = intersection(found.mask, given)
    elif how == "add":
        mask = union(found.mask, given)
    else:
        raise FluxGuardError(
            f"Unknown way to combine masks {how!r}: expected add, intersect, subtract."
        )
    if not bool((mask > 0).any()):
        raise EmptyMask(
            f"The mask of {', '.join(found.names)} and the given mask leave nothing over ({how}).",
            "Paint the given mask elsewhere, or combine them otherwise.",
        )
    return not_full(replace(found, mask=mask, source=f"{found.source}, {how} given mask"))


def shaped(found: Found, *, pixels: float = 0, edge: float = 0) -> Found:
    """Grown by `pixels` (negative shrinks), the edge softened over `edge` pixels.

    Raises EmptyMask where shrinking leaves nothing.
    """
    mask = feather(grow(found.mask, pixels) if pixels else found.mask, edge)
    if not bool((mask > 0).any()):
        raise EmptyMask(
            f"The mask of {', '.join(found.names)} vanishes when it is shrunk by {-pixels:g} pixels.",
            "Shrink it less.",
        )
    return not_full(replace(found, mask=mask))


def latent_mask(found: Found, factor: int, *, size: tuple[int, int] | None = None) -> Tensor:
    """The mask's cells of `factor` pixels (see soft_mask); raises EmptyMask where they hardly see it."""
    cells = soft_mask(found.mask, factor, size=size)
    if float(cells.max()) < VANISHING:
        raise EmptyMask(
            f"The mask of {', '.join(found.names)} covers no cell of {factor} pixels by more than "
            f"{100 * float(cells.max()):.0f} %: at the model's resolution it vanishes, and nothing would be "
            "edited.",
            f"Grow it by {factor // 2} pixels or more, or work on a larger picture of the face.",
        )
    return cells

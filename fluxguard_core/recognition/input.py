"""How a recogniser wants to be fed, as a small JSON file beside the model says it.

{"size": 224, "colour": "bgr", "mean": [103.939, 116.779, 123.68], "std": 1, "crop": "arcface"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ..errors import FluxGuardError
from ..faces.crops import Crop, CropName, Points, as_points
from ..pictures.files import write_atomic
from ..worlds import WORLDS, World
from .encoder import Colour, FaceEncoder, Level

Range = Literal["bytes", "unit", "symmetric"]
RANGES: dict[Range, tuple[float, float]] = {
    "bytes": (0.0, 1.0),
    "unit": (0.0, 255.0),
    "symmetric": (127.5, 127.5),
}
"""mean and std by name, for pixels of 0 to 255: fed as they are, as 0 to 1, as -1 to 1."""


@dataclass(frozen=True)
class InputNote:
    """What is known of a recogniser's input; None leaves it to the file and to what is usual.

    `size` is the side in pixels, `colour` the channel order. The values fed are (pixel - mean) / std
    of pixels from 0 to 255, one number for all channels or one a channel in the order fed; `range`
    names the three usual pairs. `crop` and `margin` are those of `faces.crops.Crop`. `world` says
    which faces the network knows.
    """

    name: str | None = None
    size: int | None = None
    colour: Colour | None = None
    range: Range | None = None
    mean: Level | None = None
    std: Level | None = None
    crop: CropName | Points | None = None
    margin: float | None = None
    world: World | None = None

    @property
    def levels(self) -> tuple[Level, Level] | None:
        """mean and std for pixels of 0 to 255; None where the note does not say."""
        if self.range is not None:
            return RANGES[self.range]
        if self.mean is None and self.std is None:
            return None
        return (0.0 if self.mean is None else self.mean, 1.0 if self.std is None else self.std)

    def over(self, other: InputNote) -> InputNote:
        """This note, with what it leaves open from another one."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if self.levels is not None:  # mean and std belong together
            other = replace(other, range=None, mean=None, std=None)
        return replace(
            other, **{name: value for name, value in values.items() if value is not None}
        )

    def apply(self, encoder: FaceEncoder) -> FaceEncoder:
        """The encoder, fed as the note says; its size stays, for the network fixes that."""
        changes: dict[str, Any] = {
            "name": self.name,
            "colour": self.colour,
            "layout": self.crop,
            "margin": self.margin,
            "world": self.world,
        }
        if self.levels is not None:
            changes["mean"], changes["std"] = (_divided(level) for level in self.levels)
        return replace(encoder, **{k: v for k, v in changes.items() if v is not None})


def _divided(level: Level) -> Level:
    """A level for pixels of 0 to 255 as one for pixels of 0 to 1."""
    if isinstance(level, tuple):
        return (level[0] / 255, level[1] / 255, level[2] / 255)
    return level / 255


def note_path(model: Path) -> Path:
    """Where the note of a model file is kept: beside it."""
    return model.with_name(model.name + ".input.json")


def read_note(model: Path) -> InputNote:
    """The note beside a model file, an empty one where there is none; FluxGuardError for nonsense."""
    path = note_path(model)
    if not path.is_file():
        return InputNote()
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FluxGuardError(f"{path} is no readable JSON ({error}).", _remedy(path)) from error
    return parse_note(document, str(path))


def told(model: Path, note: InputNote | None, colour: Colour | None) -> InputNote:
    """What a caller and the note beside the file say of its input, the caller first."""
    return InputNote(colour=colour).over(note or InputNote()).over(read_note(model))


def write_note(model: Path, note: InputNote) -> Path:
    """Write a note beside the model file and return its path."""
    values = {field.name: getattr(note, field.name) for field in fields(note)}
    document = {name: value for name, value in values.items() if value is not None}
    write_atomic(note_path(model), json.dumps(document, indent=2) + "\n")
    return note_path(model)


def parse_note(document: Any, where: str) -> InputNote:
    """A note from a JSON object; FluxGuardError names what is wrong with it."""
    known = [field.name for field in fields(InputNote)]
    if not isinstance(document, Mapping):
        raise FluxGuardError(f"{where} is no JSON object.", _remedy(where))
    unknown = sorted(set(document) - set(known))
    if unknown:
        raise FluxGuardError(
            f"{where} says {', '.join(map(repr, unknown))}; known are {', '.join(known)}.",
            _remedy(where),
        )
    try:
        values = {key: _READ[key](value) for key, value in document.items()}
        note = InputNote(**values)
        Crop(note.size or 112, note.crop or "arcface", note.margin or 0.0)
    except (ValueError, TypeError, FluxGuardError) as error:
        raise FluxGuardError(f"{where}: {error}", _remedy(where)) from error
    _check_levels(note, where)
    return note


def _check_levels(note: InputNote, where: str) -> None:
    if note.range is not None and (note.mean is not None or note.std is not None):
        raise FluxGuardError(f"{where} gives a range and mean or std; one of the two says it all.")
    levels = note.levels
    if levels is None:
        return
    means, stds = (level if isinstance(level, tuple) else (level,) for level in levels)
    if any(value == 0 for value in stds):
        raise FluxGuardError(
            f"{where}: a std of 0 divides by nothing; 1 leaves values as they are."
        )
    if any(abs(value) < 1 for value in stds) and all(abs(value) <= 1 for value in means):
        raise FluxGuardError(
            f"{where}: mean {note.mean} and std {note.std} look as if they were meant for pixels of "
            "0 to 1; expected them for pixels of 0 to 255, 255 times as large."
        )


def _one_of(*known: Any) -> Any:
    def read(value: Any) -> Any:
        if value not in known:
            raise ValueError(f"expected one of {', '.join(map(str, known))}, got {value!r}")
        return value

    return read


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a name, got {value!r}")
    return value


def _side(value: Any) -> int:
    if type(value) is not int or not 16 <= value <= 1024:
        raise ValueError(f"expected a side of 16 to 1024 pixels, got {value!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"expected a number, got {value!r}")
    return float(value)


def _channels(value: Any) -> Level:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _number(value)
    if len(value) != 3:
        raise ValueError(f"expected one number or three, got {value!r}")
    return (_number(value[0]), _number(value[1]), _number(value[2]))


def _crop(value: Any) -> CropName | Points:
    if isinstance(value, str):
        named: CropName = _one_of(*get_args(CropName))(value)
        return named
    return as_points(value)


_READ: dict[str, Any] = {
    "name": _text,
    "size": _side,
    "colour": _one_of(*get_args(Colour)),
    "range": _one_of(*RANGES),
    "mean": _channels,
    "std": _channels,
    "crop": _crop,
    "margin": _number,
    "world": _one_of(*WORLDS),
}


def _remedy(where: object) -> str:
    return (
        f"Mend {where}, or remove it and run ‹run models check FILE --faces DIR --write›, which "
        "measures what fits."
    )

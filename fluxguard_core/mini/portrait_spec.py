"""What a procedural portrait is made of: identity, attributes, nuisances, and the random draw of them.

Identity is a point of the unit cube, one coordinate per facial parameter, drawn uniformly, so that the
shape of a face carries nothing else (no age, gender or origin is encoded as a class). Attributes are what
an edit changes and a caption names. Nuisances are what a photographer changes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from ..errors import FluxGuardError

IDENTITY_PARAMETERS: tuple[str, ...] = (
    "face_width",
    "jaw",
    "chin",
    "eye_size",
    "eye_openness",
    "eye_spacing",
    "eye_tilt",
    "iris_hue",
    "brow_height",
    "brow_thickness",
    "brow_angle",
    "nose_length",
    "nose_width",
    "nose_tip",
    "mouth_width",
    "lip_fullness",
    "mouth_height",
    "skin_tone",
    "skin_warmth",
    "mole_x",
    "mole_y",
    "freckles",
    "ear_size",
    "hairline",
    "age",
)

CHOICES: dict[str, tuple[str, ...]] = {
    "hair_style": ("short", "bob", "long", "curly", "bald"),
    "hair_colour": ("black", "brown", "blond", "red", "grey"),
    "lipstick": ("none", "red", "pink", "dark"),
    "smile": ("no", "yes"),
    "eyeglasses": ("no", "yes"),
    "beard": ("no", "yes"),
    "eyeshadow": ("none", "blue", "green", "purple"),
    "hat": ("none", "red", "blue", "black"),
    "earrings": ("no", "yes"),
    "background": ("white", "grey", "blue", "green", "pink", "yellow"),
    "clothes": ("white", "black", "red", "blue", "green"),
}

_WEIGHTS: dict[str, tuple[float, ...]] = {
    "hair_style": (0.26, 0.2, 0.26, 0.2, 0.08),
    "lipstick": (0.49, 0.17, 0.17, 0.17),
    "smile": (0.55, 0.45),
    "eyeglasses": (0.68, 0.32),
    "beard": (0.75, 0.25),
    "eyeshadow": (0.58, 0.14, 0.14, 0.14),
    "hat": (0.76, 0.08, 0.08, 0.08),
    "earrings": (0.8, 0.2),
}


@dataclass(frozen=True)
class Attributes:
    """One value of `CHOICES` per field. A bald head keeps a hair colour: brows and beard take it."""

    hair_style: str = "short"
    hair_colour: str = "brown"
    lipstick: str = "none"
    smile: str = "no"
    eyeglasses: str = "no"
    beard: str = "no"
    eyeshadow: str = "none"
    hat: str = "none"
    earrings: str = "no"
    background: str = "grey"
    clothes: str = "blue"

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise FluxGuardError(f"{name} must be one of {', '.join(known)}; got {value!r}.")


@dataclass(frozen=True)
class Nuisance:
    """Pose, framing and light; every field is in [-1, 1], 0 is the neutral studio shot."""

    roll: float = 0.0
    yaw: float = 0.0
    scale: float = 0.0
    shift_x: float = 0.0
    shift_y: float = 0.0
    light_x: float = -0.4
    light_strength: float = 0.0
    exposure: float = 0.0
    warmth: float = 0.0
    gaze: float = 0.0


@dataclass(frozen=True)
class PortraitSpec:
    """Everything that `render` needs; equal specs give equal pictures."""

    identity: tuple[float, ...]
    attributes: Attributes = Attributes()
    nuisance: Nuisance = Nuisance()

    def __post_init__(self) -> None:
        expected = len(IDENTITY_PARAMETERS)
        if len(self.identity) != expected or not all(0.0 <= v <= 1.0 for v in self.identity):
            raise FluxGuardError(
                f"An identity is {expected} numbers in [0, 1]; got {self.identity!r}."
            )


Random = int | np.random.Generator


def _generator(seed: Random) -> np.random.Generator:
    return seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)


def identity(seed: Random) -> tuple[float, ...]:
    """A face that belongs to nobody: every parameter uniform in [0, 1]."""
    return tuple(float(v) for v in _generator(seed).random(len(IDENTITY_PARAMETERS)))


def random_attributes(seed: Random) -> Attributes:
    """Independent draws; the accessories are absent more often than not."""
    rng = _generator(seed)
    chosen: dict[str, str] = {}
    for name, values in CHOICES.items():
        weights = np.cumsum(_WEIGHTS.get(name, (1.0 / len(values),) * len(values)))
        index = int(np.searchsorted(weights, rng.random() * weights[-1], side="right"))
        chosen[name] = values[min(index, len(values) - 1)]
    return Attributes(**chosen)


def random_nuisance(seed: Random) -> Nuisance:
    """Every field uniform in [-1, 1]."""
    draws = _generator(seed).uniform(-1.0, 1.0, len(fields(Nuisance)))
    return Nuisance(*(float(v) for v in draws))


def random_spec(
    seed: Random,
    identity_vector: tuple[float, ...] | None = None,
    attributes: Attributes | None = None,
    nuisance: Nuisance | None = None,
) -> PortraitSpec:
    """A random portrait; whatever is given is kept (the draws for the rest do not depend on it)."""
    rng = _generator(seed)
    drawn = identity(rng), random_attributes(rng), random_nuisance(rng)
    return PortraitSpec(
        drawn[0] if identity_vector is None else identity_vector,
        drawn[1] if attributes is None else attributes,
        drawn[2] if nuisance is None else nuisance,
    )


def with_attributes(spec: PortraitSpec, **changes: str) -> PortraitSpec:
    """The same person in the same shot with other attributes: the ground truth of an edit."""
    unknown = sorted(set(changes) - set(CHOICES))
    if unknown:
        raise FluxGuardError(
            f"Unknown attributes {', '.join(unknown)}; known: {', '.join(CHOICES)}."
        )
    return replace(spec, attributes=replace(spec.attributes, **changes))

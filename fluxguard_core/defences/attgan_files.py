"""AttGAN's files: public checkpoints, read as plain tensors, and FluxGuard's own safetensors."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import FluxGuardError
from ..weights.loading import load_tensors
from ..weights.manifest import Entry
from ..worlds import WORLDS, World
from .attgan import AttGANShape, Discriminators, Generator
from .attributes import PUBLISHED
from .checkpoint import under

PUBLISHED_SIZE = 128


@dataclass(frozen=True, eq=False)
class AttGAN:
    """A generator and, where the file has it, the classifier it was trained with.

    Args:
        world: which faces both know.
    """

    generator: Generator
    classifier: Discriminators | None
    world: World = "photo"

    @property
    def shape(self) -> AttGANShape:
        """Sizes and names."""
        return self.generator.shape


def load_attgan(
    path: str | Path,
    *,
    attributes: tuple[str, ...] | None = None,
    size: int | None = None,
    expected: Entry | None = None,
) -> AttGAN:
    """Read a generator, and the discriminator where there is one; nothing in a file is ever run.

    Args:
        attributes: in the order of the label planes; a public checkpoint does not say them, and the published
            thirteen are taken where the number fits.
        size: side of the pictures; a generator alone does not say it, and 128 is taken.
        expected: the manifest's entry.

    Raises:
        FluxGuardError: no AttGAN, or names that do not fit.
    """
    state, notes = load_tensors(path, expected=expected)
    parts = {p: under(state, f"{p}.") for p in ("G", "D")}
    if not parts["G"]:
        parts = {"G": state, "D": {}}
    try:
        shape = _shape(parts["G"], parts["D"], notes, attributes, size)
        generator = Generator(shape)
        generator.load_state_dict(_floats(parts["G"]))
        classifier = None
        if parts["D"]:
            classifier = Discriminators(shape)
            classifier.load_state_dict(
                _floats(parts["D"]), strict="fc_adv.0.layers.0.weight" in parts["D"]
            )
    except (KeyError, RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, FluxGuardError):
            raise
        raise FluxGuardError(
            f"{path} holds no AttGAN: its tensors do not fit the network's names and shapes "
            f"({str(error).splitlines()[0][:120]}).",
            "Give the file of a generator, or one with G and D.",
        ) from error
    world = notes.get("world", "photo")
    if world not in WORLDS:
        raise FluxGuardError(f"{path} says that it knows {world!r}; expected drawn or photo.")
    for network in (generator, classifier):
        if network is not None:
            network.eval().requires_grad_(False)
    return AttGAN(generator, classifier, world)


def save_attgan(
    path: Path,
    generator: nn.Module,
    classifier: nn.Module | None,
    shape: AttGANShape,
    notes: Mapping[str, str],
    *,
    critic: bool = False,
) -> Path:
    """Write float16 tensors under G. and D. with names and size beside them, whole or not at all.

    critic: with the head that tells real from made, which only further training needs.
    """
    state = {f"G.{key}": value for key, value in generator.state_dict().items()}
    if classifier is not None:
        kept = classifier.state_dict().items()
        state |= {f"D.{k}": v for k, v in kept if critic or not k.startswith("fc_adv")}
    halves = {
        k: (v.half() if v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in state.items()
    }
    told = {
        "attributes": json.dumps(shape.attributes),
        "size": str(shape.size),
        "shortcuts": str(shape.shortcuts),
        "injections": str(shape.injections),
        **notes,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(halves, part, told)
    part.chmod(0o644)
    part.replace(path)
    return path


def _floats(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def _shape(
    generator: Mapping[str, Tensor],
    critic: Mapping[str, Tensor],
    notes: Mapping[str, Any],
    attributes: tuple[str, ...] | None,
    size: int | None,
) -> AttGANShape:
    """What the tensors' shapes say."""
    down = [generator[f"enc_layers.{i}.layers.0.weight"] for i in range(_count(generator, "enc"))]
    up = [generator[f"dec_layers.{i}.layers.0.weight"] for i in range(_count(generator, "dec"))]
    channels = [int(weight.shape[0]) for weight in down]
    count = int(up[0].shape[0]) - channels[-1]
    extra = [int(b.shape[0]) - int(a.shape[1]) for a, b in itertools.pairwise(up)]
    skips = [channels[-2 - i] for i in range(len(extra))]
    shortcuts = sum(e in {s, s + count} for e, s in zip(extra, skips, strict=True))
    injections = sum(e in {count, s + count} for e, s in zip(extra, skips, strict=True))
    names = (
        attributes or tuple(json.loads(notes["attributes"]))
        if "attributes" in notes
        else attributes
    )
    if names is None and count == len(PUBLISHED):
        names = PUBLISHED
    if names is None or len(names) != count:
        raise FluxGuardError(
            f"The generator has {count} attributes, and {len(names or ())} names are known for them.",
            "Give the names in the order of its training with ‹give attributes›.",
        )
    side = size or int(notes.get("size", 0)) or PUBLISHED_SIZE
    head = 1024
    if critic:
        hidden = critic["fc_cls.0.layers.0.weight"]
        head = int(hidden.shape[0])
        side = round((int(hidden.shape[1]) / channels[-1]) ** 0.5) * 2 ** len(down)
    return AttGANShape(names, side, channels[0], len(down), shortcuts, injections, head)


def _count(generator: Mapping[str, Tensor], half: str) -> int:
    found = {k.split(".")[1] for k in generator if k.startswith(f"{half}_layers.")}
    if not found:
        raise KeyError(f"no {half}_layers")
    return len(found)

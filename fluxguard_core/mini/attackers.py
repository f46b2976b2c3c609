"""Who edits a picture against its owner's will, on the miniature: FluxGuard's own edit, and half redrawing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ..backends.flux import FluxStack, Prompt, layout_of
from ..errors import FluxGuardError
from ..flow import ValueInjection, VelocityFusion, flux_schedule, generate, invert
from ..flow.controls import paper_injection
from ..regions import coverage, grow, parser_source, soft_mask
from .faces import classify_attributes, parse_face
from .models import GUIDANCE, complete, describe
from .portrait_spec import PortraitSpec, random_spec
from .world import Part, load_autoencoder, load_stack, load_text_encoder, load_transformer

# A picture and the words -> the edited picture, both [1, 3, H, W] in [0, 1].
Edit = Callable[[Tensor, "Wish"], Tensor]
_STEPS = 12
# What is asked for, and the attribute that has to show it.
WISHES = (
    ("wearing red lipstick", "lipstick", "red"),
    ("wearing eyeglasses", "eyeglasses", "yes"),
    ("with red hair", "hair_colour", "red"),
    ("with a red hat", "hat", "red"),
)


@dataclass(frozen=True)
class Wish:
    """An edit that somebody asks of a portrait: prompts before and after, the words, what has to show."""

    source: str
    target: str
    words: str
    attribute: str
    value: str


def wish_for(picture: Tensor, number: int) -> Wish:
    """The first wish from ``number`` on that the portrait [1, 3, H, W] does not fulfil already."""
    shown, source = classify_attributes(picture)[0], describe(picture)
    for offset in range(len(WISHES)):
        words, attribute, value = WISHES[(number + offset) % len(WISHES)]
        if shown[attribute] != value:
            break
    prompt = f"a person {words}"
    return Wish(source, complete(source, prompt), prompt, attribute, value)


def person(number: int) -> PortraitSpec:
    """A portrait of somebody that no network was trained on."""
    return random_spec(50_000 + number)


def own_edit(stack: FluxStack) -> Edit:
    """FluxGuard's own edit without protection: inversion, injection and fusion in the words' mask."""
    words = parser_source(parse_face)

    def edit(picture: Tensor, wish: Wish) -> Tensor:
        latent = stack.encode(picture)
        tokens = stack.geometry.tokens_of((latent.shape[-2], latent.shape[-1]))
        with torch.no_grad():
            trajectory = invert(
                stack.field(wish.source, 1.0),
                latent,
                flux_schedule(_STEPS, tokens),
                solver="fireflow",
            )
            found = [words(one, wish.words, None).mask for one in picture]
            grown = grow(torch.cat(found), 4)
            injected = paper_injection(trajectory.intervals, coverage(grown))
            fusion = VelocityFusion(trajectory, soft_mask(grown, stack.geometry.pixels))
            controls = (ValueInjection(trajectory, injected), fusion)
            made = generate(stack.field(wish.target, GUIDANCE), trajectory, controls)
            return stack.decode(made, _size(picture))

    return edit


def redraw(stack: FluxStack, strength: float, seed: int = 0) -> Edit:
    """The stock way: noise of this strength, then the sampler at the target prompt (SDEdit)."""

    def edit(picture: Tensor, wish: Wish) -> Tensor:
        latent = stack.encode(picture)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
        field = stack.field(wish.target, GUIDANCE)
        steps = max(2, round(_STEPS * strength))
        grid = torch.linspace(strength, 0, steps + 1).tolist()
        z = (1 - strength) * latent + strength * noise
        with torch.no_grad():
            for now, after in pairwise(grid):
                z = z + (after - now) * field(z, now)
            return stack.decode(z, _size(picture))

    return edit


def attackers(stack: FluxStack, name: str = "") -> dict[str, Edit]:
    """Every attacker on one editor; ``name`` goes in front."""
    made = {
        "own edit": own_edit(stack),
        "redraw .5": redraw(stack, 0.5),
        "redraw .7": redraw(stack, 0.7),
    }
    return {f"{name}{kind}": edit for kind, edit in made.items()}


def second_editor(folder: Path) -> FluxStack:
    """The editor that ``python -m training.mini train flux --second`` made.

    Raises:
        FluxGuardError: one of its three files is not in the folder.
    """
    parts: tuple[Part, ...] = ("vae", "flux", "text")
    files = {part: folder / f"fluxguard-second-{part}.safetensors" for part in parts}
    missing = [path.name for path in files.values() if not path.is_file()]
    if missing:
        raise FluxGuardError(
            f"Expected the second editor in {folder}; {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not there.",
            "Train its autoencoder and its transformer into that folder first; docs/shields.md has the two commands.",
        )
    transformer = load_transformer(files["flux"])
    words = load_text_encoder(files["text"])

    @torch.no_grad()
    def encode_prompt(prompt: str) -> Prompt:
        return Prompt(*words(prompt))

    return replace(
        load_stack(),
        transformer=transformer,
        vae=load_autoencoder(files["vae"]),
        encode_prompt=encode_prompt,
        layout=layout_of(transformer),
    )


def _size(picture: Tensor) -> tuple[int, int]:
    return int(picture.shape[-2]), int(picture.shape[-1])

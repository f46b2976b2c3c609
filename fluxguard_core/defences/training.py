"""Shield Against Training: pictures from which a personal LoRA learns nobody (DLADiff's first layer, 2511.19910)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ..backends.flux import FluxField, FluxStack
from ..protect.defended import Defended
from ..protect.engine import DescentSettings, Draw, OnStep, Reading, Step, Term, descend
from ..protect.gradients import gradients
from ..protect.optimisers import SignMomentum
from ..protect.spaces import PixelSpace
from .adapters import Adapter, adapters, fit
from .attention import AttentionMap, recorded_attention
from .surrogates import Encode, FlowMatchingTerm, LatentTerm, ScoreTerm, drawn, encoder


@dataclass(frozen=True)
class TrainingShield:
    """How a set of pictures of one person is shielded.

    Args:
        budget, step_size: of values in [0, 1] (paper: 7/255 and 0.0025).
        epochs: rounds of: steps on attention, steps on the training error, then the dynamic stand-in's own steps.
        attention, conditional, fitting: steps of each kind a round; ``attention`` 0 leaves it out.
        static_steps: training of the static stand-in on the clean pictures.
        backward: gradients through the transformer. Without them the score stands in for the training error and the
            autoencoder for attention, which quantised and offloaded models can do.
        rank: of both LoRAs.
    """

    budget: float = 7 / 255
    step_size: float = 0.0025
    epochs: int = 30
    attention: int = 3
    conditional: int = 3
    fitting: int = 3
    static_steps: int = 400
    rank: int = 4
    backward: bool = True


TRAINING_SHIELDS = {
    "light": TrainingShield(attention=0, conditional=6, static_steps=0, backward=False),
    "full": TrainingShield(),
}

NAMES = ("fluxguard_static", "fluxguard_dynamic")


@dataclass(frozen=True, eq=False)
class AttentionTerm:
    """How differently the dynamic stand-in looks at a picture than the static one looks at the clean one.

    The squared differences of cross and self attention, each by the clean map's own size, at the same time and noise.
    """

    encode: Encode
    clean: Tensor
    field: FluxField
    static: Adapter
    dynamic: Adapter
    name: str = "attention"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``difference`` [B]."""
        latent = self.encode(picture)
        time, noise = drawn(latent, (0.1, 0.95), draw)
        with torch.no_grad():
            self.static.use()
            expected = self._maps(self.clean, time, noise)
        self.dynamic.use()
        seen = self._maps(latent, time, noise)
        apart = [_apart(a, b) for a, b in zip(seen, expected, strict=True)]
        difference = torch.stack(apart).mean(0)
        return Reading(-difference, figures={"difference": difference})

    def _maps(self, latent: Tensor, time: float, noise: Tensor) -> list[AttentionMap]:
        tokens = self.field.prompt.context.shape[1]
        grid = (-(-latent.shape[-2] // 2), -(-latent.shape[-1] // 2))
        with recorded_attention(self.field.transformer, tokens, grid) as recording:
            self.field((1 - time) * latent + time * noise, time)
        return recording.maps


def _apart(seen: AttentionMap, expected: AttentionMap) -> Tensor:
    """[B]: squared differences relative to the expected map."""
    total = seen.cross.new_zeros(len(seen.cross))
    for one, other in ((seen.cross, expected.cross), (seen.own, expected.own)):
        difference = (one - other).square().flatten(1).sum(1)
        total = total + difference / other.square().flatten(1).sum(1).clamp(min=1e-12)
    return total


def shield_training(
    pictures: Tensor,
    stack: FluxStack,
    shield: TrainingShield | None = None,
    prompt: str = "a photo of sks person",
    *,
    mask: Tensor | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
) -> Defended:
    """Shield pictures of one person against personal training.

    Args:
        pictures: [N, 3, H, W] in [0, 1], on the grid of 1/255; all that will be published together.
        prompt: what a trainer would call the person.
        mask: share of the budget that each pixel has, [1 or N, 1, H, W].
        on_step: progress; ``Interrupted`` keeps what is there. The transformer is as before in every case.
    """
    shield = shield or TRAINING_SHIELDS["full"]
    generator = torch.Generator().manual_seed(seed)
    source = pictures.detach().clone().to(stack.device)
    share = (
        torch.ones_like(source[:, :1])
        if mask is None
        else mask.to(source).expand(len(source), -1, -1, -1)
    )
    spaces = [
        PixelSpace(source[i : i + 1], shield.budget, mask=share[i : i + 1], generator=generator)
        for i in range(len(source))
    ]
    log: list[Step] = []
    interrupted = False
    with (
        gradients(),
        adapters(stack.transformer, NAMES, rank=shield.rank, seed=seed) as (static, dynamic),
    ):
        encode, field = encoder(stack), stack.field(prompt, 1.0)
        with torch.no_grad():
            clean = encode(source)
        fit(static, field, clean, shield.static_steps, generator)
        now = [space.project(space.start()) for space in spaces]
        for epoch, i in product(range(shield.epochs), range(len(spaces))):
            phases = _phases(shield, encode, field, clean[i : i + 1], static, dynamic)
            for term, steps in phases:
                done = descend(
                    replace(spaces[i], initial=now[i], grid=False),
                    [term],
                    SignMomentum(shield.step_size),
                    DescentSettings(steps=0 if interrupted else steps),
                    draw=lambda: Draw((), generator),
                    on_step=on_step,
                )
                now[i], interrupted = done.variable, interrupted or done.interrupted is not None
                log += [replace(step, interval=epoch) for step in done.log]
            if interrupted:
                break
            if i == len(spaces) - 1:
                with torch.no_grad():
                    latents = encode(torch.cat(now))
                fit(dynamic, field, latents, shield.fitting, generator)
        protected = torch.cat([s.settle(x) for s, x in zip(spaces, now, strict=True)])
    region = (share > 0).to(source)
    return Defended(protected, region, tuple(log), None, interrupted)


def _phases(
    shield: TrainingShield,
    encode: Encode,
    field: FluxField,
    clean: Tensor,
    static: Adapter,
    dynamic: Adapter,
) -> list[tuple[Term, int]]:
    """The terms of one round and how many steps each has, with the dynamic stand-in answering."""
    dynamic.use()
    asked = lambda: field  # noqa: E731
    if not shield.backward:
        return [
            (LatentTerm(encode, clean), shield.conditional // 2),
            (ScoreTerm(encode, asked), shield.conditional),
        ]
    phases: list[tuple[Term, int]] = []
    if shield.attention:
        phases.append((AttentionTerm(encode, clean, field, static, dynamic), shield.attention))
    return [*phases, (FlowMatchingTerm(encode, asked, (0.1, 0.95)), shield.conditional)]

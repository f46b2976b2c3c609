"""Shield Against Training: pictures from which a personal LoRA learns nobody (DLADiff's first layer, 2511.19910)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..protect.defended import Defended
from ..protect.engine import DescentSettings, Draw, OnStep, Reading, Step, Stops, Term, descend
from ..protect.gradients import gradients
from ..protect.optimisers import SignMomentum
from ..protect.spaces import PixelSpace
from .adapters import Adapter, adapters, fit
from .attention import AttentionMap
from .surrogates import (
    Encode,
    FlowMatchingTerm,
    LatentTerm,
    PromptedField,
    ScoreTerm,
    Surrogate,
    Watch,
    at_most,
    drawn,
)


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
        rank, rate: of both LoRAs, and of their training.
        pixels: a trainer is taken to scale larger pictures down to so many.
    """

    budget: float = 7 / 255
    step_size: float = 0.0025
    epochs: int = 30
    attention: int = 3
    conditional: int = 3
    fitting: int = 3
    static_steps: int = 400
    rank: int = 4
    rate: float = 1e-4
    backward: bool = True
    pixels: int = 512**2

    @property
    def steps(self) -> int:
        """Of the descent on each picture."""
        kinds = self.attention + self.conditional
        return self.epochs * (kinds if self.backward else self.conditional + self.conditional // 2)


TRAINING_SHIELDS = {
    "light": TrainingShield(attention=0, conditional=6, static_steps=0, backward=False),
    "full": TrainingShield(),
}

NAMES = ("static", "dynamic")
_TIMES = (0.1, 0.95)
_READINGS = 8


@dataclass(frozen=True, eq=False)
class AttentionTerm:
    """How differently the dynamic stand-in looks at a picture than the static one looks at the clean one.

    The squared differences of cross and self attention, each by the clean map's own size, at the same time and noise.
    """

    encode: Encode
    clean: Tensor
    field: PromptedField
    watch: Watch
    static: Adapter
    dynamic: Adapter
    name: str = "attention"

    def __call__(self, picture: Tensor, draw: Draw) -> Reading:
        """Read a picture [B, 3, H, W]; figure ``difference`` [B]."""
        latent = self.encode(picture)
        time, noise = drawn(latent, _TIMES, draw)
        with torch.no_grad():
            self.static.use()
            expected = self._maps(self.clean, time, noise)
        self.dynamic.use()
        seen = self._maps(latent, time, noise)
        apart = [_apart(a, b) for a, b in zip(seen, expected, strict=True)]
        difference = torch.stack(apart).mean(0).to(picture.device)
        return Reading(-difference, figures={"difference": difference})

    def _maps(self, latent: Tensor, time: float, noise: Tensor) -> list[AttentionMap]:
        grid = (-(-latent.shape[-2] // 2), -(-latent.shape[-1] // 2))
        with self.watch(self.field.context.shape[1], grid) as recording:
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
    pictures: Sequence[Tensor],
    surrogate: Surrogate,
    shield: TrainingShield | None = None,
    *,
    masks: Sequence[Tensor | None] | None = None,
    seed: int = 0,
    on_step: OnStep | None = None,
    stops: Stops = (),
) -> list[Defended]:
    """Shield pictures of one person against personal training.

    Args:
        pictures: each [B, 3, H, W] in [0, 1], on the grid of 1/255; all that will be published together. Those of one
            batch take their steps together, which is quicker where the transformer is small; their logs are means.
        surrogate: the model that somebody may train, at what a trainer would call the person.
        masks: for each picture the share of the budget that each pixel has, [1 or B, 1, H, W].
        stops: what else than ``Interrupted`` means the user's wish to stop.
        on_step: progress; ``Interrupted`` keeps what is there. The transformer is as before in every case.

    Returns:
        The pictures in their order; ``settled`` has the trainer's error before and after.
    """
    shield = shield or TRAINING_SHIELDS["full"]
    if shield.attention and surrogate.watch is None and shield.backward:
        raise FluxGuardError(
            "Nothing here tells where this model looks.", "Choose the preset light."
        )
    generator = torch.Generator().manual_seed(seed)
    log: list[list[Step]] = [[] for _ in pictures]
    interrupted = False
    with (
        gradients(),
        adapters(
            surrogate.layers if shield.backward else (),
            NAMES,
            rank=shield.rank,
            seed=seed,
            device=surrogate.device,
        ) as (static, dynamic),
    ):
        sources = [picture.detach().clone().to(surrogate.device) for picture in pictures]
        spaces = [
            PixelSpace(
                source, shield.budget, mask=_share(source, masks, number), generator=generator
            )
            for number, source in enumerate(sources)
        ]
        work = _Work(shield, at_most(surrogate.encode, shield.pixels), surrogate, static, dynamic)
        clean = work.latents(sources)
        if shield.backward:
            fit(
                static,
                surrogate.prompted,
                clean,
                shield.static_steps,
                generator,
                learning_rate=shield.rate,
            )
        now = [space.project(space.start()) for space in spaces]
        for epoch, i in product(range(shield.epochs), range(len(spaces))):
            for term, steps in work.phases(clean[i]):
                done = descend(
                    replace(spaces[i], initial=now[i], grid=False),
                    [term],
                    SignMomentum(shield.step_size),
                    DescentSettings(steps=0 if interrupted else steps),
                    draw=lambda: Draw((), generator),
                    on_step=on_step,
                    stops=stops,
                )
                now[i], interrupted = done.variable, interrupted or done.interrupted is not None
                log[i] += [replace(step, interval=epoch) for step in done.log]
            if interrupted:
                break
            if shield.backward and i == len(spaces) - 1:
                fit(
                    dynamic,
                    surrogate.prompted,
                    work.latents(now),
                    shield.fitting,
                    generator,
                    learning_rate=shield.rate,
                )
        static.switch.chosen = None
        return [
            work.finished(space, variable, source, steps, interrupted, seed)
            for space, variable, source, steps in zip(spaces, now, sources, log, strict=True)
        ]


def _share(source: Tensor, masks: Sequence[Tensor | None] | None, number: int) -> Tensor:
    mask = None if masks is None else masks[number]
    return torch.ones_like(source[:, :1]) if mask is None else mask.detach().clone().to(source)


@dataclass(frozen=True, eq=False)
class _Work:
    """Everything that the rounds share."""

    shield: TrainingShield
    encode: Encode
    surrogate: Surrogate
    static: Adapter
    dynamic: Adapter

    @torch.no_grad()
    def latents(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        return [self.encode(picture) for picture in pictures]

    def phases(self, clean: Tensor) -> list[tuple[Term, int]]:
        """The terms of one round and how many steps each has, with the dynamic stand-in answering."""
        shield, encode = self.shield, self.encode
        asked = lambda: self.surrogate.prompted  # noqa: E731
        if not shield.backward:
            return [
                (LatentTerm(encode, clean), shield.conditional // 2),
                (ScoreTerm(encode, asked), shield.conditional),
            ]
        self.dynamic.use()
        error = FlowMatchingTerm(encode, asked, _TIMES), shield.conditional
        if not shield.attention or self.surrogate.watch is None:
            return [error]
        field, watch = self.surrogate.prompted, self.surrogate.watch
        attention = AttentionTerm(encode, clean, field, watch, self.static, self.dynamic)
        return [(attention, shield.attention), error]

    def finished(
        self,
        space: PixelSpace,
        variable: Tensor,
        source: Tensor,
        log: list[Step],
        interrupted: bool,
        seed: int,
    ) -> Defended:
        """A picture on its grid, and what a trainer on the untouched model sees of it."""
        protected = space.settle(variable)
        before, after = (self._error(x, seed) for x in (source, protected))
        figures = {"error before": before, "error after": after}
        settled = Step(len(log), {"trainer": -after}, {}, {"trainer": figures}, False, 0.0)
        region = torch.ones_like(source[:, :1]) if space.mask is None else (space.mask > 0).float()
        return Defended(protected, region, tuple(log), settled, interrupted)

    @torch.no_grad()
    def _error(self, picture: Tensor, seed: int) -> float:
        """Mean training error over a few times and noises, the same ones before and after."""
        generator = torch.Generator().manual_seed(seed + 1)
        term = FlowMatchingTerm(self.encode, lambda: self.surrogate.prompted, _TIMES)
        draws = Draw((), generator)
        read = [-float(term(picture, draws).loss.mean()) for _ in range(_READINGS)]
        return sum(read) / _READINGS

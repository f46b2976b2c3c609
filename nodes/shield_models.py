"""What the shields ask, from the graph's MODEL, VAE and CONDITIONING."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..fluxguard_core.backends.geometry import FLUX
from ..fluxguard_core.defences.surrogates import Encode, PromptedField, Surrogate
from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Layout, flux_schedule
from ..fluxguard_core.flow.field import ValueTap
from ..fluxguard_core.pictures.geometry import pad_to_multiple
from . import host

Result = TypeVar("Result")

_SMALLER = "Take a preset that asks less of FLUX (fast, balanced, or light), or a smaller picture."


@dataclass(frozen=True, eq=False)
class StockField:
    """The host's own field inside a running guider: forwards only, with everything that is on the MODEL."""

    inner: host.HostField

    @property
    def layout(self) -> Layout:
        return self.inner.layout

    @property
    def context(self) -> Tensor:
        """A stand-in: the host holds the prompt, and nothing here can move it."""
        return torch.zeros(1, 1, 1)

    def at(self, context: Tensor) -> StockField:
        """The same: no shield that runs forwards only moves the prompt."""
        del context
        return self

    def beside(self, reference: Tensor) -> StockField:
        """Not offered: a reference's gradient needs the way back."""
        del reference
        raise FluxGuardError("This field runs forwards only.", "Choose the preset kontext.")

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        with torch.no_grad():
            return self.inner(latent.detach(), sigma, tap)


@dataclass(frozen=True, eq=False)
class Asked:
    """A VAE, and the MODEL with its prompt where there is one."""

    vae: Any
    model: Any = None
    positive: Any = None

    @property
    def decoder(self) -> host.PictureDecoder:
        """The private, differentiable copy of the VAE."""
        return host.picture_decoder(self.vae)

    def encode(self) -> Encode:
        """Picture -> latent in the model's space; of any size, repeated at the border to whole tokens."""
        decoder, side = self.decoder, FLUX.pixels_per_token
        to_model = self.model.model.process_latent_in if self.model is not None else _unit

        def encoded(picture: Tensor) -> Tensor:
            return to_model(decoder.encode(pad_to_multiple(picture, side)))

        return encoded

    def run(
        self,
        work: Callable[[Surrogate], Result],
        sizes: list[tuple[int, int]],
        *,
        needs_model: bool,
        needs_way_back: bool,
    ) -> Result:
        """Run the work with everything it asks on the device; ``sizes`` are (height, width) of the pictures."""
        if not needs_model:
            return self._with_room(
                [], sizes, lambda: work(Surrogate(self.encode(), host.working_device()))
            )
        if self.model is None or self.positive is None:
            raise FluxGuardError(
                "This preset asks FLUX itself.",
                "Connect ‹give model› and ‹give positive›, or choose the preset fast.",
            )
        host.check_conditioning(self.positive, "prompt")
        if needs_way_back:
            return self._with_way_back(work, sizes)
        return self._forwards(work, sizes)

    def _forwards(
        self, work: Callable[[Surrogate], Result], sizes: list[tuple[int, int]]
    ) -> Result:
        """The MODEL as it is, inside a guider of the host."""
        positive, _ = host.with_guidance(self.model, self.positive, "prompt", 1.0)
        largest = max(sizes, key=lambda size: size[0] * size[1])
        # Four pictures' worth, which leaves room for the autoencoder's way back beside the transformer.
        shape = torch.Size((4, FLUX.channels, *FLUX.grid(*largest)))

        def worked(inner: host.HostField) -> Result:
            return work(Surrogate(self.encode(), host.working_device(), StockField(inner)))

        def guided() -> Result:
            return host.with_field(
                self.model,
                positive,
                worked,
                shape=shape,
                sigmas=flux_schedule(2, FLUX.tokens(*largest)),
                solver="euler",
                raw=True,
            )

        return self._with_room([], sizes, guided)

    def _with_room(
        self, networks: list[Any], sizes: list[tuple[int, int]], work: Callable[[], Result]
    ) -> Result:
        """The work with the VAE's copy and other networks on the card; begun again where memory runs out."""
        largest = max(sizes, key=lambda size: size[0] * size[1])
        decoder = self.decoder
        return host.with_room(
            [*networks, decoder.module], lambda: decoder.bytes_to_encode(largest), work, _SMALLER
        )

    def _with_way_back(
        self, work: Callable[[Surrogate], Result], sizes: list[tuple[int, int]]
    ) -> Result:
        """A private copy of the transformer, whole on the device."""
        with host.exact_gradients():
            field = host.differentiable_field(self.model, self.positive)

            def worked() -> Result:
                host.check_way_back(field)
                prompted: PromptedField = field
                return work(
                    Surrogate(
                        self.encode(),
                        host.working_device(),
                        prompted,
                        layers=host.trainable_layers(field.network),
                        watch=partial(host.listener, field),
                        watch_reference=partial(host.reference_listener, field),
                    )
                )

            return self._with_room([field.network], sizes, worked)


def _unit(latent: Tensor) -> Tensor:
    """FLUX's own scale, for a VAE without a MODEL beside it; only the size of the figures hangs on it."""
    return (latent - 0.1159) * 0.3611

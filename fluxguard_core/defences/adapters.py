"""Stand-ins for whoever trains on a picture: LoRAs beside a FLUX transformer's layers, fitted here and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..flow.field import VelocityField

_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(eq=False)
class _Switch:
    """Which adapter answers; none at first."""

    chosen: str | None = None


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA beside the layers of a transformer, whatever those are: quantised, offloaded, with the user's own LoRAs.

    Args:
        pairs: down [rank, in] and up [out, rank] of every layer, float32; up is 0 at first.
    """

    name: str
    pairs: tuple[tuple[nn.Parameter, nn.Parameter], ...]
    switch: _Switch

    def use(self) -> None:
        """Let the transformer answer with this adapter."""
        self.switch.chosen = self.name

    def parameters(self) -> list[nn.Parameter]:
        """The adapter's weights."""
        return [parameter for pair in self.pairs for parameter in pair]

    def hook(self, number: int) -> Any:
        """What is added to the answer of a layer."""
        down, up = self.pairs[number]

        def add(module: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> Tensor | None:
            if self.switch.chosen != self.name:
                return None
            # The transformer may lie on another card than what it is asked about.
            seen = given[0].float()
            return answer + (seen @ down.to(seen.device).T @ up.to(seen.device).T).to(answer)

        return add


def attention_layers(transformer: nn.Module) -> list[nn.Module]:
    """Query, key, value and output projections of a diffusers transformer, where a personal LoRA lies."""
    return [module for name, module in transformer.named_modules() if name.endswith(_TARGETS)]


@contextmanager
def adapters(
    layers: Sequence[nn.Module],
    names: Sequence[str],
    *,
    rank: int = 4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Iterator[list[Adapter]]:
    """Fresh LoRAs, without effect at first; gone at the end, also after an error or an interrupt.

    They are forward hooks, so the base weights are never written, and nothing in the model has another name.

    Args:
        layers: linear ones, with ``in_features`` and ``out_features``.
    """
    switch, generator = _Switch(), torch.Generator().manual_seed(seed)

    def pair(layer: Any) -> tuple[nn.Parameter, nn.Parameter]:
        down = torch.randn(rank, layer.in_features, generator=generator) / layer.in_features**0.5
        up = torch.zeros(layer.out_features, rank)
        return nn.Parameter(down.to(device), False), nn.Parameter(up.to(device), False)

    made = [Adapter(name, tuple(pair(layer) for layer in layers), switch) for name in names]
    handles = [
        layer.register_forward_hook(adapter.hook(number))
        for adapter in made
        for number, layer in enumerate(layers)
    ]
    try:
        yield made
    finally:
        for handle in handles:
            handle.remove()


def fit(
    adapter: Adapter,
    field: VelocityField,
    latents: Sequence[Tensor],
    steps: int,
    generator: torch.Generator,
    *,
    learning_rate: float = 1e-4,
    times: tuple[float, float] = (0.1, 0.95),
) -> list[float]:
    """Train the adapter on latents [1, C, h, w] as a personal LoRA is trained; returns the losses.

    Flow matching at one picture, time and noise a step; AdamW with gradients clipped at 1.
    """
    adapter.use()
    parameters = adapter.parameters()
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-2)
    losses = []
    try:
        for _ in range(steps):
            number = int(torch.randint(len(latents), (1,), generator=generator))
            time = times[0] + (times[1] - times[0]) * float(torch.rand(1, generator=generator))
            latent = latents[number]
            noise = torch.randn(latent.shape, generator=generator).to(latent)
            velocity = field((1 - time) * latent + time * noise, time).float()
            loss = (velocity - (noise - latent)).square().mean()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            losses.append(loss.item())
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
    return losses

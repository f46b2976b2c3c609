"""Stand-ins for whoever trains on a picture: LoRAs on a FLUX transformer, fitted here and gone afterwards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backends.flux import DiffusersModel
from ..errors import FluxGuardError
from ..flow.field import VelocityField

_TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@dataclass(frozen=True, eq=False)
class Adapter:
    """A LoRA on a transformer, beside whatever the user had on it."""

    transformer: DiffusersModel
    name: str
    beside: tuple[str, ...]

    def use(self) -> None:
        """Let the transformer answer with this adapter, and the user's own."""
        self.transformer.set_adapter([*self.beside, self.name])

    def parameters(self) -> list[torch.nn.Parameter]:
        """The adapter's own weights."""
        mark = f".{self.name}."
        return [p for key, p in self.transformer.named_parameters() if mark in key]


@contextmanager
def adapters(
    transformer: DiffusersModel, names: Sequence[str], *, rank: int = 4, seed: int = 0
) -> Iterator[list[Adapter]]:
    """Fresh LoRAs, without effect at first; gone at the end, also after an error or an interrupt.

    The base weights are never written.

    Raises:
        FluxGuardError: peft is missing.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise FluxGuardError(
            "A stand-in for training needs peft, which is not installed.", "Run ‹install peft›."
        ) from error
    had = bool(getattr(transformer, "peft_config", None))
    beside = tuple(transformer.active_adapters()) if had else ()
    wanted = [parameter.requires_grad for parameter in transformer.parameters()]
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_TARGETS)
    try:
        with torch.random.fork_rng():  # peft draws from the global state
            torch.manual_seed(seed)
            for name in names:
                transformer.add_adapter(config, adapter_name=name)
        yield [Adapter(transformer, name, beside) for name in names]
    finally:
        _take_off(transformer, names, beside if had else None)
        for parameter, gradient in zip(transformer.parameters(), wanted, strict=True):
            parameter.requires_grad_(gradient)


def _take_off(
    transformer: DiffusersModel, names: Sequence[str], before: tuple[str, ...] | None
) -> None:
    known = getattr(transformer, "peft_config", {})
    transformer.delete_adapters([name for name in names if name in known])
    if before is None:
        transformer.unload_lora()
    else:
        transformer.set_adapter(list(before))


def fit(
    adapter: Adapter,
    field: VelocityField,
    latents: Tensor,
    steps: int,
    generator: torch.Generator,
    *,
    learning_rate: float = 1e-4,
    times: tuple[float, float] = (0.1, 0.95),
) -> list[float]:
    """Train the adapter on latents [N, C, h, w] as a personal LoRA is trained; returns the losses.

    Flow matching at one picture, time and noise a step; AdamW with gradients clipped at 1.
    """
    adapter.use()
    parameters = adapter.parameters()
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-2)
    losses = []
    for _ in range(steps):
        number = int(torch.randint(len(latents), (1,), generator=generator))
        time = times[0] + (times[1] - times[0]) * float(torch.rand(1, generator=generator))
        latent = latents[number : number + 1]
        noise = torch.randn(latent.shape, generator=generator).to(latent)
        velocity = field((1 - time) * latent + time * noise, time).float()
        loss = (velocity - (noise - latent)).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        losses.append(loss.item())
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None
    return losses

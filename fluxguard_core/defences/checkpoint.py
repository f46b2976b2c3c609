"""Steps and checkpoints of training: weights and what Adam remembers, in one file that is whole or not there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..weights.loading import load_tensors

Players = Mapping[str, tuple[nn.Module, str, torch.optim.Optimizer]]
"""By the name of a network's weights: the network, the name of its optimiser's state, the optimiser."""


def save_game(
    path: Path, players: Players, notes: Mapping[str, object], extra: Mapping[str, Tensor]
) -> None:
    """Write all players, replacing the last checkpoint only when this one is complete.

    Args:
        notes: single values, kept as text.
        extra: further tensors under names of their own.
    """
    state = dict(extra)
    for name, (network, memory, optimiser) in players.items():
        state |= {f"{name}.{k}": v for k, v in network.state_dict().items()}
        for index, entry in optimiser.state_dict()["state"].items():
            state |= {f"{memory}.{index}.{k}": torch.as_tensor(v) for k, v in entry.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".partial")
    texts = {name: str(value) for name, value in notes.items()}
    save_file({k: v.detach().cpu().contiguous() for k, v in state.items()}, part, texts)
    part.replace(path)


def load_game(path: Path, players: Players) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Let players of the same shape go on from a checkpoint; its notes and all its tensors."""
    state, notes = load_tensors(path)
    for name, (network, memory, optimiser) in players.items():
        network.load_state_dict(under(state, f"{name}."))
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in under(state, f"{memory}.").items():
            index, _, field = key.partition(".")
            entries.setdefault(int(index), {})[field] = value
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": entries, "param_groups": groups})
    return notes, state


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without that beginning."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def descend(
    optimiser: torch.optim.Optimizer,
    loss: Tensor,
    rate: float | None = None,
    clip: float | None = None,
) -> None:
    """One step down a loss, at a rate of its own and with gradients of at most a norm of `clip` where given."""
    if rate is not None:
        for group in optimiser.param_groups:
            group["lr"] = rate
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    if clip is not None:
        moved = [p for group in optimiser.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(moved, clip)
    optimiser.step()

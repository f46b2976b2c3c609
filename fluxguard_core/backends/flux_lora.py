"""LoRAs on a FLUX transformer and its text encoders: wholly, or refused with the keys that are left over."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FluxGuardError
from ..weights.loading import load_tensors
from .flux import FluxStack
from .flux_keys import matrices_of
from .lora_changes import Change, encoder_name, matrix_name, read_changes
from .model_kinds import first_keys

_FITTING = "Choose a LoRA made for this model: FLUX.1 for FLUX.1, of the same size."


@dataclass(frozen=True, eq=False)
class _Place:
    """Where a change goes: linear layers that hold the matrix's rows one after the other.

    Args:
        swapped: the layer holds the two halves of the rows the other way round.
    """

    names: tuple[str, ...]
    layers: tuple[Any, ...]
    swapped: bool = False

    def weight(self) -> Tensor:
        rows = torch.cat([_plain(layer).weight.detach().float() for layer in self.layers])
        return _swap(rows) if self.swapped else rows

    def split(self, rows: Tensor) -> list[Tensor]:
        """Rows [out, ...] of the matrix as the layers hold them."""
        rows = _swap(rows) if self.swapped else rows
        return list(rows.split([layer.out_features for layer in self.layers]))

    @property
    def shape(self) -> tuple[int, int]:
        return sum(layer.out_features for layer in self.layers), self.layers[0].in_features


def add_lora(stack: FluxStack, path: str | Path, weight: float = 1.0) -> None:
    """Put a LoRA on the transformer, and its part for CLIP or T5 on those; several stack.

    Low ranks become adapters beside the weights, so that quantised and offloaded transformers keep working; what
    is no plain LoRA (DoRA, LoHa, LoKr, full differences) and the text encoders' part is added to the weights.

    Raises:
        FluxGuardError: the file is no LoRA, or not all of it fits; nothing has been changed then.
    """
    name = Path(path).name
    tensors, _ = load_tensors(path)
    changes, left_over = read_changes(tensors)
    places = _places(stack.transformer)
    encoders = [
        _modules(part) for part in getattr(getattr(stack, "encode_prompt", None), "parts", ())
    ]
    found: list[tuple[Change, _Place, bool]] = []
    for change in changes:
        place, own = _place_of(change.name, places, encoders)
        if place is None:
            left_over += change.keys
        else:
            found.append((change, place, own))
    if not any(own for _, _, own in found):
        raise FluxGuardError(
            f"{name} holds no LoRA for a FLUX transformer (it starts with {first_keys(tensors)}).",
            "Choose a LoRA made for FLUX.1.",
        )
    if left_over:
        raise FluxGuardError(
            f"{name} does not fit wholly: {len(left_over)} of {len(tensors)} keys are left over "
            f"({', '.join(sorted(left_over)[:3])}{', ...' if len(left_over) > 3 else ''}).{_why(left_over)}",
            _FITTING,
        )
    _apply(stack.transformer, name, found, weight)


def _place_of(
    name: str, places: Mapping[str, _Place], encoders: list[dict[str, _Place]]
) -> tuple[_Place | None, bool]:
    """The place of a change, and whether it is in the transformer."""
    encoder = encoder_name(name)
    if encoder is None:
        return places.get(matrix_name(name)), True
    which, rest = encoder
    known = encoders[which] if which < len(encoders) else {}
    return known.get(rest) or known.get(rest.removeprefix("text_model_")), False


def _why(left_over: list[str]) -> str:
    if all(encoder_name(key) for key in left_over):
        return " They are for a text encoder that this model does not have."
    return ""


def _apply(
    transformer: Any, name: str, found: list[tuple[Change, _Place, bool]], weight: float
) -> None:
    """Work everything out first, then change the models: a file that does not fit changes nothing."""
    ranks: dict[str, tuple[Tensor, Tensor]] = {}
    sums: list[tuple[Any, Tensor | None, Tensor | None]] = []
    for change, place, own in found:
        low_rank = change.low_rank if own else None
        try:
            if low_rank is None:
                sums += _sums(change, place)
                continue
            down, up = low_rank
            _require_shape(
                change, place, (up.shape[0], down.shape[1]), up.shape[1] == down.shape[0]
            )
            for layer, part in zip(place.names, place.split(up), strict=True):
                ranks[layer] = _joined(ranks.get(layer), down, part)
            if change.bias() is not None:
                sums += _sums(change, place, bias_only=True)
        except FluxGuardError as error:
            raise FluxGuardError(
                f"{name} does not fit this transformer: {error.message}.", _FITTING
            ) from error
    if ranks:
        _adapter(transformer, ranks, weight, name)
    with torch.no_grad():
        for layer, rows, bias in sums:
            if rows is not None:
                layer.weight += (weight * rows).to(layer.weight)
            if bias is not None:
                layer.bias += (weight * bias).to(layer.bias)


def _sums(
    change: Change, place: _Place, bias_only: bool = False
) -> list[tuple[Any, Tensor | None, Tensor | None]]:
    """What is added to each layer's weight and bias."""
    layers = [_plain(layer) for layer in place.layers]
    for layer in layers:
        kind = layer.weight
        if kind.is_meta or not kind.is_floating_point() or kind.element_size() < 2:
            raise FluxGuardError(
                f"its part for {change.name} is added to the weights, and these are quantised or offloaded"
            )
    dense = None if bias_only else change.dense(place.weight())
    bias = change.bias()
    if bias is not None and (bias.numel() != place.shape[0] or any(x.bias is None for x in layers)):
        raise FluxGuardError(f"its bias for {change.name} has {bias.numel()} numbers")
    none: list[Tensor | None] = [None] * len(layers)
    rows = none if dense is None else [*place.split(dense)]
    offsets = none if bias is None else [*place.split(bias)]
    return list(zip(layers, rows, offsets, strict=True))


def _require_shape(change: Change, place: _Place, shape: tuple[int, int], sound: bool) -> None:
    if shape != place.shape or not sound:
        raise FluxGuardError(
            f"{change.name} is made for a matrix of {list(shape)}, and this one has {list(place.shape)}"
        )


def _joined(
    before: tuple[Tensor, Tensor] | None, down: Tensor, up: Tensor
) -> tuple[Tensor, Tensor]:
    """Two low ranks on one layer are one of both ranks together."""
    if before is None:
        return down, up
    return torch.cat([before[0], down]), torch.cat([before[1], up], 1)


def _adapter(
    transformer: Any, ranks: Mapping[str, tuple[Tensor, Tensor]], weight: float, name: str
) -> None:
    names = list(getattr(transformer, "peft_config", {}))
    adapter = next(f"lora{n}" for n in range(len(names) + 1) if f"lora{n}" not in names)
    rank = max(down.shape[0] for down, _ in ranks.values())
    state: dict[str, Tensor] = {}
    for layer, (down, up) in ranks.items():  # of one rank: peft scales each by its own otherwise
        room = rank - down.shape[0]
        state[f"transformer.{layer}.lora_A.weight"] = nn.functional.pad(down, (0, 0, 0, room))
        state[f"transformer.{layer}.lora_B.weight"] = nn.functional.pad(up, (0, room)).contiguous()
    try:
        with _quiet():
            transformer.load_lora_adapter(state, network_alphas=None, adapter_name=adapter)
    except (ValueError, RuntimeError, ImportError) as error:
        raise FluxGuardError(
            f"{name} could not be put on the transformer ({str(error).splitlines()[0]}).", _FITTING
        ) from error
    weights = {**getattr(transformer, "_fluxguard_lora_weights", {}), adapter: weight}
    transformer._fluxguard_lora_weights = weights
    present = [*names, adapter]
    transformer.set_adapters(present, [weights.get(each, 1.0) for each in present])


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notes of peft and diffusers on adapters that follow each other."""
    log = logging.getLogger("diffusers.loaders.peft")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)


def _places(transformer: Any) -> dict[str, _Place]:
    """Every matrix of the transformer, under Black Forest Labs', diffusers' and XLabs' names."""
    own = _modules(transformer)
    places = dict(own)
    for name, targets, swapped in matrices_of(
        transformer.config.num_layers, transformer.config.num_single_layers
    ):
        parts = [
            own[target.replace(".", "_")] for target in targets if target.replace(".", "_") in own
        ]
        if len(parts) == len(targets):
            names = tuple(part.names[0] for part in parts)
            layers = tuple(part.layers[0] for part in parts)
            places[name.replace(".", "_")] = _Place(names, layers, swapped)
    return places


def _modules(model: Any) -> dict[str, _Place]:
    """Linear layers by name, adapters on them left aside."""
    found: dict[str, _Place] = {}
    for name, module in model.named_modules():
        if ".lora_" in name or not hasattr(module, "in_features") or name.endswith(".base_layer"):
            continue
        found[name.replace(".", "_")] = _Place((name,), (module,))
    return found


def _plain(layer: Any) -> Any:
    """A layer without the adapters around it."""
    return getattr(layer, "base_layer", layer)


def _swap(rows: Tensor) -> Tensor:
    first, second = rows.chunk(2)
    return torch.cat([second, first])

"""What a LoRA file changes: its keys, in every format that ComfyUI applies, as changes of named matrices.

Read are plain LoRA (kohya, peft, diffusers, XLabs), DoRA, LoHa, LoKr and full differences. The formulas are the host's,
so that the command line and the nodes give one picture.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import FluxGuardError

# Longest first: a key ends in exactly one of them.
_LEAVES = {
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B.weight": "up",
    ".lora_A": "down",
    ".lora_B": "up",
    ".down.weight": "down",
    ".up.weight": "up",
    ".alpha": "alpha",
    ".dora_scale": "dora_scale",
    ".diff": "diff",
    ".diff_b": "diff_b",
    **{
        f".{name}": name
        for name in (
            *("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"),
            *("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b"),
        )
    },
}
_ENDS = sorted(_LEAVES, key=len, reverse=True)
_LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


@dataclass(frozen=True, eq=False)
class Change:
    """What a file holds for one matrix: tensors by role, and the keys they stood under.

    Args:
        name: of the matrix, as the file writes it, without what tells the role.
    """

    name: str
    parts: dict[str, Tensor] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)

    @property
    def low_rank(self) -> tuple[Tensor, Tensor] | None:
        """(A [r, in], B [out, r]) with the scale in B, of a plain LoRA; None for every other kind."""
        if set(self.parts) - {"alpha", "diff_b"} != {"down", "up"}:
            return None
        down, up = self.parts["down"].float().flatten(1), self.parts["up"].float().flatten(1)
        return down, up * self._scale(down.shape[0])

    def bias(self) -> Tensor | None:
        """What is added to the bias [out], or None."""
        bias = self.parts.get("diff_b")
        return None if bias is None else bias.float().flatten()

    def dense(self, weight: Tensor) -> Tensor | None:
        """What is added to the weight [out, in] (float32); None where only the bias changes.

        Raises:
            FluxGuardError: parts are missing, or their shapes do not give the weight's.
        """
        try:
            difference = self._difference()
            if difference is None:
                return None
            difference = difference.reshape(weight.shape)
            magnitude = self.parts.get("dora_scale")
            return difference if magnitude is None else _dora(weight, difference, magnitude.float())
        except (KeyError, RuntimeError, IndexError) as error:
            raise FluxGuardError(
                f"its part for {self.name} is incomplete or does not fit a matrix of {list(weight.shape)}"
            ) from error

    def _difference(self) -> Tensor | None:
        part = {role: tensor.float() for role, tensor in self.parts.items()}
        if "diff" in part:
            return part["diff"]
        if "down" in part or "up" in part:
            down = part["down"].flatten(1)
            return part["up"].flatten(1) @ down * self._scale(down.shape[0])
        if any(role in part for role in _LOHA):
            first, second = (part[f"hada_w{n}_a"] @ part[f"hada_w{n}_b"] for n in (1, 2))
            return first * second * self._scale(part["hada_w1_b"].shape[0])
        if any(role.startswith("lokr") for role in part):
            return self._kronecker(part)
        return None

    def _kronecker(self, part: Mapping[str, Tensor]) -> Tensor:
        factors, scale = [], 1.0
        for n in (1, 2):
            whole = part.get(f"lokr_w{n}")
            if whole is None:
                inner = part[f"lokr_w{n}_b"]
                whole, scale = part[f"lokr_w{n}_a"] @ inner, self._scale(inner.shape[0])
            factors.append(whole)
        return torch.kron(*factors) * scale

    def _scale(self, rank: int) -> float:
        alpha = self.parts.get("alpha")
        return 1.0 if alpha is None else float(alpha) / rank


def _dora(weight: Tensor, difference: Tensor, magnitude: Tensor) -> Tensor:
    """Weight decomposition, by rows or by columns as the magnitudes are given."""
    weight = weight.float()
    changed = weight + difference
    by_rows = magnitude.shape[0] == weight.shape[0]
    norm = weight.norm(dim=1, keepdim=True) if by_rows else changed.norm(dim=0, keepdim=True)
    shape = (-1, 1) if by_rows else (1, -1)
    return changed * (magnitude.reshape(shape) / (norm + torch.finfo(torch.float32).eps)) - weight


def read_changes(tensors: Mapping[str, Tensor]) -> tuple[list[Change], list[str]]:
    """Changes by matrix, and the keys that are in no known format."""
    changes: dict[str, Change] = {}
    left_over: list[str] = []
    for key, tensor in tensors.items():
        end = next((end for end in _ENDS if key.endswith(end)), None)
        if end is None or not tensor.is_floating_point():
            left_over.append(key)
            continue
        name = key.removesuffix(end)
        change = changes.setdefault(name, Change(name))
        change.parts[_LEAVES[end]] = tensor
        change.keys.append(key)
    return list(changes.values()), left_over


_PREFIXES = (
    *("model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.", "unet."),
    *("lora_unet_", "lora_transformer_", "lycoris_"),
)
_ENCODERS = re.compile(
    r"^(?:lora_te(?P<kohya>[12]?)_|text_encoder(?:_(?P<folder>2))?\.)(?P<rest>.+)$"
)


def matrix_name(name: str) -> str:
    """A transformer matrix's name without its format's prefixes, words joined by underscores."""
    before = None
    while before != name:
        before = name
        for prefix in _PREFIXES:
            name = name.removeprefix(prefix)
    name = name.replace(".processor.to_", ".to_").removesuffix("_lora")
    return name.replace(".", "_")


def encoder_name(name: str) -> tuple[int, str] | None:
    """(0 for CLIP or 1 for T5, the matrix's name) of a change for a text encoder; None for others."""
    match = _ENCODERS.match(name)
    if match is None:
        return None
    return int("2" in (match["kohya"], match["folder"])), match["rest"].replace(".", "_")

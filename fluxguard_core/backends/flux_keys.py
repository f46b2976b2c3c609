"""FLUX weights between Black Forest Labs' key names and diffusers', for any width and depth.

The shapes decide the configuration; nothing is fetched. diffusers' own converter is fixed to width 3072.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError

HEAD_DIM = 128
AXES_DIMS = (16, 56, 56)

StateDict = dict[str, Tensor]

# Black Forest Labs prefix -> diffusers prefix; weight and bias follow.
_TOP = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.linear": "proj_out",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
}
_DOUBLE = {
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_SINGLE = {
    "modulation.lin": "norm.linear",
    "linear2": "proj_out",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
# Fused projections: one Black Forest Labs matrix holds several diffusers ones, stacked by rows.
_DOUBLE_FUSED: dict[str, tuple[str, ...]] = {
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}
_SINGLE_FUSED: dict[str, tuple[str, ...]] = {
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
}

_FAMILIES: tuple[tuple[str, str, dict[str, str], dict[str, tuple[str, ...]]], ...] = (
    ("double_blocks", "transformer_blocks", _DOUBLE, _DOUBLE_FUSED),
    ("single_blocks", "single_transformer_blocks", _SINGLE, _SINGLE_FUSED),
)
_SWAPPED_HALVES = "norm_out.linear"  # shift, scale there; scale, shift here


def is_bfl_flux(names: Iterable[str]) -> bool:
    """True when the keys are Black Forest Labs' FLUX names (with or without a wrapper prefix)."""
    return any(re.search(r"(^|\.)double_blocks\.0\.img_attn\.qkv\.weight$", key) for key in names)


def flux_to_diffusers(state: Mapping[str, Tensor]) -> tuple[dict[str, Any], StateDict]:
    """Convert a FLUX transformer to diffusers.

    Args:
        state: tensors under Black Forest Labs names, optionally behind ``model.diffusion_model.``.

    Returns:
        Arguments for ``FluxTransformer2DModel(**config)`` and its state dict, dtypes unchanged.

    Raises:
        FluxGuardError: not a FLUX file, or a shape that diffusers' FLUX cannot hold.
    """
    state = without_prefix(state)
    config = flux_config(state)
    width = config["num_attention_heads"] * HEAD_DIM
    out: StateDict = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf not in ("weight", "bias", "scale"):
            raise _unknown(key)
        leaf = "weight" if leaf == "scale" else leaf  # RMS norms are called scale there
        if module in _TOP:
            swapped = _TOP[module] == _SWAPPED_HALVES
            out[f"{_TOP[module]}.{leaf}"] = _swap_halves(tensor) if swapped else tensor
            continue
        targets = _block_targets(module)
        rows = tensor.shape[0] if tensor.ndim else 0
        sizes = [width] * min(3, len(targets)) + [rows - 3 * width] * (len(targets) > 3)
        if len(targets) > 1 and (sum(sizes) != rows or min(sizes) < 0):
            raise FluxGuardError(
                f"Expected {3 * width} rows or more in '{key}', got the shape {tuple(tensor.shape)}. The file is "
                "damaged or quantised.",
                "Choose another version of it.",
            )
        parts = tensor.split(sizes) if len(targets) > 1 else (tensor,)
        out.update({f"{t}.{leaf}": p.contiguous() for t, p in zip(targets, parts, strict=True)})
    return config, out


def flux_from_diffusers(state: Mapping[str, Tensor]) -> StateDict:
    """Convert a diffusers FLUX state dict to Black Forest Labs names, the exact inverse.

    The result is what ComfyUI's Load Diffusion Model node reads.
    """
    names = {target: module for module, target in _TOP.items()}
    depth = {family[1]: _count(state, family[1]) for family in _FAMILIES}
    out: StateDict = {}
    for target, module in names.items():
        for leaf in ("weight", "bias"):
            if f"{target}.{leaf}" in state:
                tensor = state[f"{target}.{leaf}"]
                out[f"{module}.{leaf}"] = (
                    _swap_halves(tensor) if target == _SWAPPED_HALVES else tensor
                )
    for there, here, plain, fused in _FAMILIES:
        for i in range(depth[here]):
            for module, target in plain.items():
                leaves = ("weight",) if module.endswith("_norm") else ("weight", "bias")
                for leaf in leaves:
                    name = "scale" if module.endswith("_norm") else leaf
                    out[f"{there}.{i}.{module}.{name}"] = state[f"{here}.{i}.{target}.{leaf}"]
            for module, targets in fused.items():
                for leaf in ("weight", "bias"):
                    parts = [state[f"{here}.{i}.{target}.{leaf}"] for target in targets]
                    out[f"{there}.{i}.{module}.{leaf}"] = torch.cat(parts)
    return out


def flux_config(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments for diffusers' ``FluxTransformer2DModel``, read from Black Forest Labs shapes."""
    required = (
        "img_in.weight",
        "txt_in.weight",
        "vector_in.in_layer.weight",
        "final_layer.linear.weight",
        "double_blocks.0.img_mlp.0.weight",
    )
    missing = [key for key in required if key not in state or state[key].ndim != 2]
    if missing:
        raise FluxGuardError(
            f"Expected a FLUX.1 transformer in Black Forest Labs key names, but {', '.join(missing)} "
            "is missing.",
            "Choose a FLUX.1 diffusion model file (not a VAE, a LoRA or FLUX.2).",
        )
    width, channels = state["img_in.weight"].shape
    hidden = state["double_blocks.0.img_mlp.0.weight"].shape[0]
    if width % HEAD_DIM or hidden != 4 * width:
        raise FluxGuardError(
            f"Expected a width that is a multiple of {HEAD_DIM} and an MLP four times as wide, got width "
            f"{width} and MLP {hidden}. This is not a FLUX.1 transformer that diffusers can build."
        )
    return {
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": state["final_layer.linear.weight"].shape[0],
        "num_layers": _count(state, "double_blocks"),
        "num_single_layers": _count(state, "single_blocks"),
        "attention_head_dim": HEAD_DIM,
        "num_attention_heads": width // HEAD_DIM,
        "joint_attention_dim": state["txt_in.weight"].shape[1],
        "pooled_projection_dim": state["vector_in.in_layer.weight"].shape[1],
        "guidance_embeds": "guidance_in.in_layer.weight" in state,
        "axes_dims_rope": AXES_DIMS,
    }


def matrices_of(double: int, single: int) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """Each matrix's name, the diffusers layers that hold its rows in order, and whether these hold halves swapped.

    Names are Black Forest Labs', and XLabs' and ComfyUI's for the parts of them that LoRAs change.
    """
    for name, target in _TOP.items():
        yield name, (target,), target == _SWAPPED_HALVES
    for (there, here, plain, fused), depth in zip(_FAMILIES, (double, single), strict=True):
        names: dict[str, tuple[str, ...]] = {n: (t,) for n, t in plain.items()}
        names |= fused
        if there == "single_blocks":
            names["linear1_qkv"] = fused["linear1"][:3]
            names |= {"processor.qkv": fused["linear1"][:3], "processor.proj": ("proj_out",)}
        else:
            for number, side in ((1, "img"), (2, "txt")):
                names[f"processor.qkv_lora{number}"] = fused[f"{side}_attn.qkv"]
                names[f"processor.proj_lora{number}"] = (plain[f"{side}_attn.proj"],)
        for index in range(depth):
            for name, targets in names.items():
                yield (
                    f"{there}.{index}.{name}",
                    tuple(f"{here}.{index}.{t}" for t in targets),
                    False,
                )


def _block_targets(module: str) -> list[str]:
    for there, here, plain, fused in _FAMILIES:
        match = re.fullmatch(rf"{there}\.(\d+)\.(.+)", module)
        if match is None:
            continue
        index, name = match.groups()
        names = (plain[name],) if name in plain else fused.get(name, ())
        if names:
            return [f"{here}.{index}.{target}" for target in names]
    raise _unknown(module)


def _unknown(name: str) -> FluxGuardError:
    return FluxGuardError(
        f"Unknown weight '{name}' in a FLUX.1 transformer. Expected Black Forest Labs key names.",
        "Export the model again without extra modules, or open it from a diffusers folder.",
    )


def without_prefix(state: Mapping[str, Tensor]) -> StateDict:
    """The transformer of a file alone, its names without what stands before ``img_in``."""
    anchor = next((key for key in state if key.endswith("img_in.weight")), "img_in.weight")
    prefix = anchor.removesuffix("img_in.weight")
    return {
        key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)
    }


def _count(state: Mapping[str, Tensor], family: str) -> int:
    pattern = re.compile(rf"{family}\.(\d+)\.")
    return 1 + max((int(m[1]) for key in state if (m := pattern.match(key))), default=-1)


def _swap_halves(tensor: Tensor) -> Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])

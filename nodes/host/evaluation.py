"""One evaluation of the network inside a sampler: its σ, read once, and attention patches for it alone.

Every read of σ from a graphics card waits for all that the card still has to do. And a patch that is installed
breaks a compiled network's graph in every block, whether it has something to do or not: evaluations with one run
as the network was written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import Block, ValueTap
from .flux import Model

Options = dict[str, Any]
# In transformer_options: how many evaluations an interval the sampler makes.
STAGES = "fluxguard_stages"
# In model_options, where the network does not see it: the σ of the tensor that stands beside it.
_SIGMA = "fluxguard_sigma"


def noted(level: Tensor, options: Options, sigma: float | None = None) -> Options:
    """A copy of the model options that knows the σ of ``level``, read from it where it is not given."""
    value = sigma_of(level, options) if sigma is None else sigma
    return {**options, _SIGMA: (level, value)}


def sigma_of(level: Tensor, options: Options) -> float:
    """The σ of a sampler's tensor of levels; read from the device only where nobody noted it."""
    known, sigma = options.get(_SIGMA, (None, 0.0))
    # Another pack may evaluate at a level of its own: what was noted is that tensor's and no other's.
    return sigma if known is level else float(level.max())


def note_sigma(patched: Model, key: str) -> None:
    """Let everything of ours in an evaluation of ``patched`` share one read of σ."""

    def predict(
        executor: Callable[..., Any], x: Tensor, level: Tensor, options: Options, *args: Any
    ) -> Any:
        return executor(x, level, noted(level, options), *args)

    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, key, predict)


def with_attention(options: Options, tap: ValueTap, hits: list[int]) -> Options:
    """A copy of the model options with a tap on attention values; ``hits`` counts what it replaced."""

    def attention(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> dict[str, Tensor]:
        replaced = _tapped(tap, v, given.get("extra_options") or {})
        if replaced is None:
            return {}
        hits[0] += 1
        return {"v": replaced}

    inner = options.get("transformer_options", {})
    patches = inner.get("patches", {})
    others = patches.get("attn1_patch", [])
    patches = {**patches, "attn1_patch": [*others, attention]}
    return {**options, "transformer_options": {**inner, "patches": patches}}


def _tapped(tap: ValueTap, v: Tensor, options: Options) -> Tensor | None:
    """Show values [B, heads, T, D] to a tap, which sees them as [B, T, heads · D]."""
    if options.get("reference_image_num_tokens"):
        raise FluxGuardError(
            "Attention values cannot be kept or injected beside reference latents (Kontext). Take the reference "
            "latents out of the conditioning."
        )
    block = Block(options["block_type"], options["block_index"])
    values = v.transpose(1, 2).flatten(2)
    replaced = tap(block, values, options["img_slice"][0])
    if replaced is None:
        return None
    return replaced.unflatten(2, (v.shape[1], v.shape[3])).transpose(1, 2).to(v.dtype)

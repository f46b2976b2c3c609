"""Value taps on a diffusers FLUX transformer: hooks for the length of one evaluation, nothing replaced.

In double blocks text and image have projections of their own, and the image's comes first; a tap sees both
together, text first, as in single blocks and as in ComfyUI. So the text values are computed when the image's are
asked for, and both parts of the answer go back where they belong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..errors import FluxGuardError
from ..flow.field import Block, ValueTap


@contextmanager
def tapped(transformer: Any, tap: ValueTap | None, text_tokens: int) -> Iterator[None]:
    """Show every block's attention values [B, text + image, D] to ``tap``; the model is clean afterwards."""
    if tap is None:
        yield
        return
    handles: list[Any] = []
    try:
        for index, block in enumerate(transformer.transformer_blocks):
            _require_open(block.attn)
            handles += _double(block.attn, Block("double", index), tap)
        for index, block in enumerate(transformer.single_transformer_blocks):
            _require_open(block.attn)
            hook = _single(Block("single", index), tap, text_tokens)
            handles.append(block.attn.to_v.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _single(block: Block, tap: ValueTap, text_tokens: int) -> Callable[..., Tensor | None]:
    return lambda module, args, values: tap(block, values, text_tokens)


def _double(attention: Any, block: Block, tap: ValueTap) -> list[Any]:
    """Hooks of one double block: note the text states, show both values, hand each part its answer."""
    noted: dict[str, Tensor] = {}

    def note(module: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        text = named.get("encoder_hidden_states", args[1] if len(args) > 1 else None)
        if text is not None:
            noted["states"] = text

    def image(module: Any, args: tuple[Any, ...], values: Tensor) -> Tensor | None:
        states = noted.pop("states", None)
        if states is None:
            return tap(block, values, 0)
        text = attention.add_v_proj(states)
        answer = tap(block, torch.cat([text, values], 1), text.shape[1])
        if answer is None:
            return None
        noted["answer"] = answer[:, : text.shape[1]]
        return answer[:, text.shape[1] :]

    def text(module: Any, args: tuple[Any, ...], values: Tensor) -> Tensor | None:
        # Called twice: for the tap, before there is an answer, and by the block itself.
        return noted.pop("answer", None)

    return [
        attention.register_forward_pre_hook(note, with_kwargs=True),
        attention.to_v.register_forward_hook(image),
        attention.add_v_proj.register_forward_hook(text),
    ]


def _require_open(attention: Any) -> None:
    if getattr(attention, "fused_projections", False):
        raise FluxGuardError(
            "The transformer's attention projections are fused, so that its values cannot be read one by one. "
            "Undo it with transformer.unfuse_qkv_projections()."
        )

"""The miniature in the host: what its stock loaders cannot load, and portraits of nobody to try it on."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from comfy_api.latest import io

from ..fluxguard_core.mini.captions import caption
from ..fluxguard_core.mini.portrait_spec import random_spec
from ..fluxguard_core.mini.renderer import render_batch
from ..fluxguard_core.mini.text import TextEncoder
from ..fluxguard_core.mini.world import load_text_encoder
from . import host
from .wires import CATEGORY, to_image

_CATEGORY = f"{CATEGORY}/miniature"


class MiniClip:
    """The miniature's text encoder as a CLIP, for the stock text nodes and Load LoRA.

    It reads the miniature's own small language; an unknown word is an error that lists the known ones. As with
    FLUX's two encoders, one text ("l") makes the pooled vector and one ("t5xxl") the context.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        self.patcher = host.managed(encoder).clone()

    @property
    def cond_stage_model(self) -> TextEncoder:
        """Where Load LoRA looks for layers."""
        return self.encoder

    def clone(self, *_: Any, **__: Any) -> MiniClip:
        return MiniClip(self.encoder)

    def add_patches(self, *_: Any, **__: Any) -> list[str]:
        """Nothing in a LoRA fits this encoder."""
        return []

    def tokenize(self, text: str, *_: Any, **__: Any) -> dict[str, str]:
        return {"l": text, "t5xxl": text}

    def encode_from_tokens(
        self,
        tokens: dict[str, str],
        return_pooled: bool = False,
        return_dict: bool = False,
        **_: Any,
    ) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            contexts, summaries = self.encoder(list(dict.fromkeys([tokens["l"], tokens["t5xxl"]])))
        context, pooled = contexts[-1:], summaries[:1]
        if return_dict:
            return {"cond": context, "pooled_output": pooled}
        return (context, pooled) if return_pooled else context

    def encode_from_tokens_scheduled(
        self, tokens: dict[str, str], add_dict: dict[str, Any] | None = None, **_: Any
    ) -> list[Any]:
        context, pooled = self.encode_from_tokens(tokens, return_pooled=True)
        return [[context, {"pooled_output": pooled, **(add_dict or {})}]]


@cache
def _text_encoder() -> TextEncoder:
    with host.ordinary_tensors():
        return load_text_encoder()


class LoadMiniTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_LoadMiniTextEncoder",
            display_name="Load Miniature Text Encoder",
            category=_CATEGORY,
            description="The text encoder of fluxguard-mini-flux. Transformer, VAE and LoRA load with the stock "
            "loaders.",
            search_aliases=["miniature", "mini clip", "fluxguard-mini-text"],
            inputs=[],
            outputs=[
                io.Clip.Output(
                    tooltip="For CLIP Text Encode. Knows the words of the miniature's portraits only."
                )
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        return io.NodeOutput(MiniClip(_text_encoder()))


class MiniPortrait(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_MiniPortrait",
            display_name="Miniature Portrait",
            category=_CATEGORY,
            description="Draws a portrait of nobody, to try the miniature workflows without a picture of your own.",
            search_aliases=["miniature", "synthetic face", "example picture"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=True,
                    tooltip="Which portrait.",
                ),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="So many portraits as a batch, from this seed on.",
                ),
                io.Int.Input(
                    "size",
                    default=128,
                    min=64,
                    max=512,
                    step=16,
                    tooltip="Side in pixels; the miniature was trained at 128.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The portraits."),
                io.String.Output(
                    display_name="caption", tooltip="The first portrait in the miniature's words."
                ),
            ],
        )

    @classmethod
    def execute(cls, seed: int, count: int, size: int) -> io.NodeOutput:
        specs = [random_spec(seed + i) for i in range(count)]
        with host.ordinary_tensors():
            images, _, _ = render_batch(specs, size)
        return io.NodeOutput(to_image(images), caption(specs[0].attributes))

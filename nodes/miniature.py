"""The miniature in the host: portraits of nobody to try the pack on, and who knows them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.mini.captions import caption
from ..fluxguard_core.mini.faces import find_faces, load_recogniser, parse_face
from ..fluxguard_core.mini.portrait_spec import random_spec
from ..fluxguard_core.mini.renderer import render_batch
from ..fluxguard_core.mini.text import TextEncoder
from ..fluxguard_core.mini.world import load_text_encoder
from ..fluxguard_core.recognition import FaceEncoder
from . import host
from .face_picker import choice_input, found_faces, framed
from .faces import points_by_picture
from .given import to_picture
from .node import Node
from .people import ensemble_inputs, ensemble_of
from .wires import MINIATURE, EnsembleWire, FacesWire, seed_input, shown, to_image
from .worlds import check_pictures, face_finder


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


class LoadMiniTextEncoder(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_LoadMiniTextEncoder",
            display_name="Load Miniature Text Encoder",
            category=MINIATURE,
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


class MiniPortrait(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_MiniPortrait",
            display_name="Miniature Portrait",
            category=MINIATURE,
            description="Draws a portrait of nobody, to try the miniature workflows without a picture of your own.",
            search_aliases=["miniature", "synthetic face", "example picture"],
            inputs=[
                seed_input("Which portrait."),
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
        portraits = to_image(images)
        said = caption(specs[0].attributes)
        return io.NodeOutput(portraits, said, ui=shown(cls, portraits, said))


RECOGNISERS = ("mini-ir", "mini-irse", "mini-facenet", "mini-mobileface", "mini-vit")


def _recogniser(name: str) -> FaceEncoder:
    with host.ordinary_tensors():
        return load_recogniser(name)


class MiniRecognisers(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_MiniRecognisers",
            display_name="Miniature Recognisers",
            category=MINIATURE,
            description="Recognisers of the miniature's drawn portraits, in the place of FR Ensemble Loader. They know "
            "nothing of photos.",
            search_aliases=["miniature", "load recognisers", "mini-ir", "ensemble"],
            inputs=ensemble_inputs(
                list(RECOGNISERS),
                (list(RECOGNISERS[:3]), list(RECOGNISERS[3:])),
                "They know only drawn portraits.",
            ),
            outputs=[
                EnsembleWire.Output(
                    display_name="ensemble", tooltip="For the refiner and the report."
                )
            ],
        )

    @classmethod
    def execute(cls, attacked: Any, held_out: Any, weighting: Any) -> io.NodeOutput:
        return io.NodeOutput(ensemble_of(attacked, held_out, weighting, _recogniser))


class MiniFaceFinder(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_MiniFaceFinder",
            display_name="Miniature Face Finder",
            category=MINIATURE,
            description="Finds the drawn face in the miniature's portraits, and its parts for Text to Mask, in the "
            "place of Face Picker.",
            search_aliases=["miniature", "face picker", "find face", "face parsing"],
            inputs=[
                io.Image.Input("image", tooltip="Portraits by Miniature Portrait."),
                choice_input(),
            ],
            outputs=[
                FacesWire.Output(
                    display_name="faces",
                    tooltip="For Text to Mask, the refiner, Protect Latent and Privacy Report.",
                )
            ],
        )

    @classmethod
    def execute(cls, image: Tensor, which: dict[str, Any]) -> io.NodeOutput:
        with host.ordinary_tensors():
            picture = to_picture(image).cpu().clone()
            faces = replace(found_faces(picture, find_faces, which), parse=parse_face)
            check_pictures(picture, points_by_picture(faces, picture), face_finder(faces))
            return io.NodeOutput(faces, ui=shown(cls, to_image(framed(picture, faces))))

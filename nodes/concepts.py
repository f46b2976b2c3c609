"""Concept Attention: the MODEL's own sense of where words are, as a source for Text to Mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import Trajectory
from ..fluxguard_core.mini.text import CONCEPTS
from ..fluxguard_core.regions import PHRASES, Attention
from . import host
from .miniature import MiniClip
from .node import Node
from .wires import CATEGORY, ConceptsWire, TrajectoryWire


@dataclass(frozen=True, eq=False)
class Concepts:
    """What Text to Mask asks where words are.

    Args:
        pictures: how many pictures the trajectory holds.
        of: the attention for one of them.
        phrases: a phrase for each part of a portrait that the text encoder knows.
    """

    pictures: int
    of: Callable[[int], Attention]
    phrases: Mapping[str, str]

    def attention(self, number: int, batch: int) -> Attention:
        """The attention for picture ``number`` of a batch."""
        if self.pictures not in (1, batch):
            raise FluxGuardError(
                f"The trajectory of Concept Attention holds {self.pictures} pictures, but ‹give image› has {batch}.",
                "Connect the batch that was inverted.",
            )
        return self.of(number if self.pictures > 1 else 0)


class ConceptAttention(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ConceptAttention",
            display_name="Concept Attention",
            category=CATEGORY,
            description="Lets FLUX itself say where hair, hat, clothes, background ... are, for Text to Mask: one more "
            "evaluation at a step of the inversion, no further weights.",
            search_aliases=["text to mask", "segment", "face parsing", "attention map", "region"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The MODEL of RF Inversion. LoRA, fp8 and GGUF are fine."
                ),
                io.Clip.Input("clip", tooltip="The CLIP that encodes the prompts."),
                TrajectoryWire.Input("trajectory", tooltip="From RF Inversion of the picture."),
            ],
            outputs=[
                ConceptsWire.Output(display_name="concepts", tooltip="For Text to Mask."),
            ],
        )

    @classmethod
    def execute(cls, model: Any, clip: Any, trajectory: Trajectory) -> io.NodeOutput:
        phrases = CONCEPTS if isinstance(clip, MiniClip) else PHRASES

        def of(number: int) -> Attention:
            return host.concept_attention(model, clip, trajectory, number)

        return io.NodeOutput(Concepts(len(trajectory.source), of, phrases))

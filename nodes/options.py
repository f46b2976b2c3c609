"""Options nodes: every number of a preset, to be seen and changed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

from comfy_api.latest import io

from ..fluxguard_core.flow.recipe import Recipe, Tokens
from ..fluxguard_core.flow.solvers import SOLVERS, SolverName
from ..fluxguard_core.flow.storage import Format, Place
from ..fluxguard_core.protect.presets import PRESETS, Preset, preset_named
from .node import Node
from .wires import AS_INVERTED, CATEGORY, InversionOptionsWire, ProtectionOptionsWire

PRESET_NAMES = ("default", "paper", "fast")
_SOLVER_HELP = "midpoint: published, 2 evaluations a step. fireflow: 1, still second order. euler: 1, first order."


def _opening(preset_inputs: Any, tooltip: str) -> Any:
    """A choice of presets that opens with that preset's own numbers."""
    options = [io.DynamicCombo.Option(name, preset_inputs(PRESETS[name])) for name in PRESET_NAMES]
    return io.DynamicCombo.Input("preset", options=options, tooltip=tooltip)


@dataclass(frozen=True)
class InversionOptions:
    """How RF Inversion works and what it keeps; blocks as text, None for the published ones.

    ``value_intervals`` None keeps the published share of the intervals.
    """

    recipe: Recipe
    value_intervals: int | None = None
    blocks: str | None = None
    storage: Place = "pinned"
    storage_format: Format = "computed"


def _inversion_numbers(preset: Preset) -> list[Any]:
    return [
        io.Combo.Input(
            "solver", options=list(SOLVERS), default=preset.solver, tooltip=_SOLVER_HELP
        ),
        io.Int.Input(
            "value_intervals",
            default=5,
            min=0,
            max=200,
            tooltip="Keep attention values in the first so many intervals. Published: 5 of 25. With 0 nothing can be injected, and memory is saved.",
        ),
        io.Combo.Input(
            "tokens",
            options=list(get_args(Tokens)),
            default=preset.tokens,
            tooltip="Whose values to keep. 'all' includes the text's, as in the published code; both prompts then need the same length.",
        ),
    ]


class InversionOptionsNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        written = io.String.Input(
            "names", default="single 20-37", tooltip="For instance: single 20-37, double 3."
        )
        return io.Schema(
            node_id="FluxGuard_InversionOptions",
            display_name="Inversion Options",
            category=CATEGORY,
            description="The numbers behind RF Inversion's presets: solver, what is kept for the injection, and where.",
            search_aliases=["solver", "fireflow", "memory", "value intervals"],
            inputs=[
                _opening(
                    _inversion_numbers,
                    "Opens with this preset's own numbers, and takes the place of the preset on RF Inversion.",
                ),
                io.DynamicCombo.Input(
                    "blocks",
                    options=[
                        io.DynamicCombo.Option("published", []),
                        io.DynamicCombo.Option("custom", [written]),
                    ],
                    tooltip="Blocks whose values are kept. published: single 20-37 of 38, scaled to the model's depth.",
                ),
                io.Combo.Input(
                    "storage",
                    options=["pinned", "cpu", "compute"],
                    default="pinned",
                    tooltip="Where the record waits: pinned memory (fast copies, as far as ComfyUI's own limit allows), ordinary memory, or the GPU.",
                ),
                io.Combo.Input(
                    "storage_format",
                    options=["computed", "bf16", "fp8"],
                    default="computed",
                    tooltip="Number format of the kept attention values. fp8 quarters float32, with about 3 % error.",
                ),
            ],
            outputs=[
                InversionOptionsWire.Output(display_name="options", tooltip="For RF Inversion.")
            ],
        )

    @classmethod
    def execute(
        cls,
        preset: dict[str, Any],
        blocks: dict[str, Any],
        storage: Place,
        storage_format: Format,
    ) -> io.NodeOutput:
        recipe = preset_named(preset["preset"]).recipe
        return io.NodeOutput(
            InversionOptions(
                replace(recipe, solver=preset["solver"], tokens=preset["tokens"]),
                preset["value_intervals"],
                blocks.get("names"),
                storage,
                storage_format,
            )
        )


@dataclass(frozen=True, eq=False)
class ProtectionOptions:
    """Everything about a protection that its node does not show; ``solver`` None is the trajectory's."""

    preset: Preset
    perceptual: str = "auto"
    one_batch: bool = True
    solver: SolverName | None = None
    tiny_vae: Any = None


def _protection_numbers(preset: Preset) -> list[Any]:
    refiner = preset.refiner
    numbers = [
        io.Int.Input(
            "attacked_intervals",
            default=preset.attacked,
            min=1,
            max=100,
            tooltip="Refine after each of the last so many intervals; rounds in Protect Latent.",
        ),
        io.Int.Input(
            "steps",
            default=refiner.steps,
            min=1,
            max=200,
            tooltip="Adam steps after each attacked interval.",
        ),
        io.Float.Input(
            "learning_rate",
            default=refiner.learning_rate,
            min=0.005,
            max=1.0,
            step=0.005,
            tooltip="Of Adam, in latent units.",
        ),
        io.Float.Input(
            "perceptual_weight",
            default=refiner.perceptual_weight,
            min=0.0,
            max=20.0,
            step=0.1,
            tooltip="Weight of the visible difference: more of it hides the change and weakens the protection.",
        ),
        io.Float.Input(
            "margin",
            default=preset.margin,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="How far past the threshold the similarity must get.",
        ),
    ]
    if preset.aligned:
        numbers.append(
            io.Int.Input(
                "random_views",
                default=preset.random_views,
                min=0,
                max=16,
                tooltip="Random views (JPEG, resize, blur, jitter) a step, beside the plain one.",
            )
        )
    if preset.tiny:
        numbers.append(
            io.Vae.Input(
                "tiny_vae", tooltip="A VAE of TAESD layout (taef1), through which the gradients go."
            )
        )
    return numbers


class ProtectionOptionsNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        bound = io.Float.Input(
            "bound", default=0.5, min=0.01, max=10.0, step=0.01, tooltip="In latent units."
        )
        return io.Schema(
            node_id="FluxGuard_ProtectionOptions",
            display_name="Protection Options",
            category=CATEGORY,
            description="The numbers behind the protection's presets: intervals, steps, learning rate, margin and the rest.",
            search_aliases=["refiner options", "learning rate", "adversarial steps", "strength"],
            inputs=[
                _opening(
                    _protection_numbers,
                    "Opens with this preset's own numbers, and takes the place of the preset on the protecting node.",
                ),
                io.DynamicCombo.Input(
                    "max_change",
                    options=[
                        io.DynamicCombo.Option("off", []),
                        io.DynamicCombo.Option("on", [bound]),
                    ],
                    tooltip="Whether the change of any latent value is bounded.",
                ),
                io.Combo.Input(
                    "perceptual",
                    options=["auto", "vgg19", "autoencoder"],
                    default="auto",
                    tooltip="How differences are seen. auto: VGG19 where its file is installed, else a tiny VAE's own features.",
                ),
                io.Combo.Input(
                    "solver",
                    options=[AS_INVERTED, *SOLVERS],
                    default=AS_INVERTED,
                    tooltip="How the edit steps; normally as the inversion did. Protect Latent has no use for it.",
                ),
                io.Boolean.Input(
                    "one_batch",
                    default=True,
                    tooltip="Run edit and twin as one batch. Off: one after the other, slower, in less memory.",
                ),
            ],
            outputs=[
                ProtectionOptionsWire.Output(
                    display_name="options", tooltip="For the refiner or Protect Latent."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        preset: dict[str, Any],
        max_change: dict[str, Any],
        perceptual: str,
        solver: Any,
        one_batch: bool,
    ) -> io.NodeOutput:
        chosen = preset_named(preset["preset"])
        refiner = replace(
            chosen.refiner,
            steps=preset["steps"],
            learning_rate=preset["learning_rate"],
            perceptual_weight=preset["perceptual_weight"],
            max_change=max_change.get("bound"),
        )
        chosen = replace(
            chosen,
            refiner=refiner,
            attacked=preset["attacked_intervals"],
            margin=preset["margin"],
            random_views=preset.get("random_views", chosen.random_views),
        )
        own = None if solver == AS_INVERTED else solver
        return io.NodeOutput(
            ProtectionOptions(chosen, perceptual, one_batch, own, preset.get("tiny_vae"))
        )

"""What a face reveals: changed by AttGAN while recognition goes on working, or put into words for an edit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.defences.attgan_files import load_attgan
from ..fluxguard_core.defences.attribute_edit import AttributeEditor
from ..fluxguard_core.defences.attribute_words import WORDS, worded
from ..fluxguard_core.defences.attributes import check_names, parse_values, resolved
from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.mini.attributes import drawn_attributes
from ..fluxguard_core.mini.world_check import world_of
from ..fluxguard_core.pipelines.attributes import (
    IDENTITIES,
    AttributeModels,
    AttributeWishes,
    Changed,
    change_attributes,
    judge_of,
)
from ..fluxguard_core.recognition import Ensemble
from . import folders, host
from .faces import Faces, points_by_picture, told_faceless
from .given import to_picture
from .node import Node
from .people import load_recognisers
from .wires import (
    CATEGORY,
    MINIATURE,
    AttributesWire,
    EnsembleWire,
    faces_input,
    seed_input,
    shown,
    to_image,
)


@lru_cache(maxsize=4)
def _editor(path: str, stamp: int) -> AttributeEditor:
    del stamp  # a replaced file is another editor
    with host.ordinary_tensors():
        return AttributeEditor.of(path.replace("\\", "/").rsplit("/", 1)[-1], load_attgan(path))


def _loaded(name: str) -> AttributeEditor:
    path = folders.file_in(folders.ATTRIBUTES, name)
    if path is None:
        raise FluxGuardError(
            f"There is no file '{name}'. Put an AttGAN checkpoint into models/{folders.ATTRIBUTES}, reload the page, "
            "and choose it.",
            "‹run attributes train --faces DIR -o FILE› trains one on your own labelled pictures.",
        )
    return _editor(str(path), path.stat().st_mtime_ns)


class LoadAttributeEditor(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        files = folders.files_in(folders.ATTRIBUTES)
        return io.Schema(
            node_id="FluxGuard_LoadAttributeEditor",
            display_name="Load Attribute Editor",
            category=CATEGORY,
            description="AttGAN, which changes what a face shows: a public PyTorch checkpoint with G and D, or one "
            "trained with FluxGuard.",
            search_aliases=["attgan", "attributes", "face attributes"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files or ["none"],
                    tooltip=f"From models/{folders.ATTRIBUTES}. Read as plain tensors; nothing in it is run.",
                ),
                io.MultiCombo.Input(
                    "held_out",
                    options=files,
                    default=[],
                    optional=True,
                    tooltip="Other files with the same attributes, whose classifiers only judge. What they say is the honest part of the report.",
                ),
            ],
            outputs=[
                AttributesWire.Output(display_name="editor", tooltip="For Attribute Privacy.")
            ],
        )

    @classmethod
    def execute(cls, file: str, held_out: Any = None) -> io.NodeOutput:
        names = [held_out] if isinstance(held_out, str) else list(held_out or ())
        judges = tuple(judge_of(e.name, e, e.classify) for e in map(_loaded, names))
        return io.NodeOutput(AttributeModels(_loaded(file), judges))


class MiniAttributeEditor(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_MiniAttributeEditor",
            display_name="Miniature Attribute Editor",
            category=MINIATURE,
            description="The AttGAN of the miniature's drawn portraits, with a classifier that it never met, in the "
            "place of Load Attribute Editor. It knows nothing of photos.",
            search_aliases=["miniature", "attgan", "attributes"],
            inputs=[],
            outputs=[
                AttributesWire.Output(
                    display_name="editor", tooltip="For Attribute Privacy, on drawn portraits only."
                )
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        with host.ordinary_tensors():
            return io.NodeOutput(drawn_attributes(None))


def _names_input(tooltip: str, default: str) -> Any:
    return io.String.Input("attributes", default=default, tooltip=tooltip)


def _keep_inputs() -> list[Any]:
    return [
        io.Int.Input("count", default=2, min=1, max=12, tooltip="At most so many attributes."),
        io.String.Input("keep", default="", tooltip="Names to leave alone, separated by commas."),
    ]


class AttributePrivacy(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        named = (
            "Names as CelebA has them, separated by commas: Eyeglasses, No_Beard, Blond_Hair ..."
        )
        return io.Schema(
            node_id="FluxGuard_AttributePrivacy",
            display_name="Attribute Privacy",
            category=CATEGORY,
            description="Hides or changes what a face reveals, such as glasses, beard or hair, by as little as turns "
            "a classifier, while recognisers still match the person; or protects the person as well.",
            search_aliases=["attgan", "attributes", "hide glasses", "privacy", "soft biometrics"],
            inputs=[
                io.Image.Input("image", tooltip="One or more pictures with one face each."),
                AttributesWire.Input("editor", tooltip="From Load Attribute Editor."),
                faces_input(),
                EnsembleWire.Input(
                    "ensemble",
                    optional=True,
                    tooltip="The attacked ones are asked during the search whether they still match, the held-out ones only judge.",
                ),
                io.DynamicCombo.Input(
                    "mode",
                    options=[
                        io.DynamicCombo.Option("flip", [_names_input(named, "Eyeglasses")]),
                        io.DynamicCombo.Option(
                            "set",
                            [
                                _names_input(
                                    "NAME=yes or NAME=no, separated by commas.", "Eyeglasses=yes"
                                )
                            ],
                        ),
                        io.DynamicCombo.Option("neutralise", [_names_input(named, "Eyeglasses")]),
                        io.DynamicCombo.Option(
                            "random", [*_keep_inputs(), seed_input("Draws the attributes.")]
                        ),
                        io.DynamicCombo.Option("auto", _keep_inputs()),
                    ],
                    tooltip="flip: into the opposite. set: as given. neutralise: half-way, so that a classifier has no answer. random: drawn by the seed. auto: what a classifier is surest of first, as long as the recognisers still match.",
                ),
                io.Combo.Input(
                    "identity",
                    options=list(IDENTITIES),
                    default="keep",
                    tooltip="keep: recognisers still match. protect: the same change, then FluxGuard's protection against the ensemble.",
                ),
            ],
            outputs=[
                io.Image.Output(tooltip="The pictures with other attributes."),
                io.Mask.Output(display_name="mask", tooltip="Where they may have changed."),
                io.String.Output(
                    display_name="report",
                    tooltip="What classifiers and recognisers say before and after.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        editor: AttributeModels,
        mode: dict[str, Any],
        identity: str,
        faces: Faces | None = None,
        ensemble: Ensemble | None = None,
    ) -> io.NodeOutput:
        wishes = _wishes(mode, identity)
        if ensemble is not None:
            load_recognisers(ensemble)
        parse = editor.parse_face if faces is None or faces.parse is None else faces.parse
        models = replace(editor, ensemble=ensemble, parse_face=parse)
        with host.ordinary_tensors():
            pictures = to_picture(image).cpu().clone()
            _check_world(models, pictures)
            located = points_by_picture(faces, pictures)
        faceless = tuple(n for n, points in enumerate(located) if not len(points))
        bar = host.Progress(len(pictures))
        done: list[Changed | None] = []
        for number, (picture, points) in enumerate(zip(pictures, located, strict=True)):
            done.append(_one(models, picture[None], points, wishes, partial(bar, number)))
            bar(number + 1)
        results = torch.cat(
            [d.picture if d else p[None] for d, p in zip(done, pictures, strict=True)]
        )
        masks = [d.mask[:, 0] if d else torch.zeros(1, *pictures.shape[-2:]) for d in done]
        report = _told(done, faceless)
        return io.NodeOutput(
            to_image(results), torch.cat(masks), report, ui=shown(cls, to_image(results), report)
        )


def _one(
    models: AttributeModels,
    picture: Tensor,
    points: Tensor,
    wishes: AttributeWishes,
    alive: Callable[[], None],
) -> Changed | None:
    """One picture; None where it has no face. `alive` raises where the user has stopped the run."""
    if not len(points):
        return None
    if len(points) > 1:
        raise FluxGuardError(
            f"{len(points)} faces were chosen, and one is changed at a time.",
            "Choose one with Face Picker's ‹give which›, and run the result again for the next.",
        )

    with host.ordinary_tensors():
        return change_attributes(models, picture, points[0], wishes, on_step=lambda *_: alive())


def _wishes(mode: dict[str, Any], identity: str) -> AttributeWishes:
    kind = mode["mode"]
    names = _split(mode.get("attributes", ""))
    if kind in ("flip", "set", "neutralise") and not names:
        raise FluxGuardError("No attribute was named.", "Name one in ‹give attributes›.")
    return AttributeWishes(
        mode=kind,
        names=names if kind != "set" else (),
        values=parse_values(names) if kind == "set" else {},
        count=mode.get("count", 2),
        keep=_split(mode.get("keep", "")),
        seed=mode.get("seed", 0),
        identity=identity,
    )


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", ",").split(",") if part.strip())


def _check_world(models: AttributeModels, pictures: Tensor) -> None:
    """No network of one world works on a picture of the other."""
    members = () if models.ensemble is None else models.ensemble.members
    knows = {"photo": "photos", "drawn": "drawn portraits"}
    for number, picture in enumerate(pictures):
        world = world_of(picture)
        used = [(models.editor.name, models.editor.world), *((e.name, e.world) for e in members)]
        foreign = [f"{name} knows only {knows[its]}" for name, its in used if its != world]
        if foreign:
            what = "a photo" if world == "photo" else "a drawn portrait"
            raise FluxGuardError(
                f"Picture {number} is {what}, but {', '.join(foreign)}: it would be disfigured, and every verdict would "
                "mean nothing.",
                "Use an editor and recognisers that know such pictures.",
            )


def _told(done: list[Changed | None], faceless: tuple[int, ...]) -> str:
    lines = [told_faceless(faceless).replace("NOT PROTECTED", "NOT CHANGED")] if faceless else []
    for number, changed in enumerate(done):
        if changed is not None:
            lines += [f"Picture {number}:"] if len(done) > 1 else []
            lines += changed.report.told()
    return "\n".join(lines)


class AttributeWordsNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_AttributeWords",
            display_name="Attribute Words",
            category=CATEGORY,
            description="Attributes as words for the masked edit: what to say in the source prompt, in the target "
            "prompt, and to Text to Mask. No AttGAN needed.",
            search_aliases=["attributes", "prompt", "hide glasses"],
            inputs=[
                io.String.Input(
                    "picture",
                    default="a portrait of a person",
                    tooltip="What the picture shows besides; stands at the beginning of both prompts.",
                ),
                io.String.Input(
                    "attributes",
                    default="Eyeglasses=no",
                    tooltip="NAME=yes or NAME=no, separated by commas, by CelebA's names.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="source", tooltip="For the source prompt."),
                io.String.Output(display_name="target", tooltip="For the target prompt."),
                io.String.Output(display_name="mask_words", tooltip="For Text to Mask."),
                io.Float.Output(
                    display_name="strength",
                    tooltip="Share of the way that usually suffices, for blending the edit over the picture.",
                ),
            ],
        )

    @classmethod
    def execute(cls, picture: str, attributes: str) -> io.NodeOutput:
        values = parse_values(_split(attributes))
        check_names(tuple(values), tuple(WORDS))
        # What cannot be seen together is told; what is in the picture is not known here.
        wanted = resolved({name: float(value) for name, value in values.items()}, {})
        order = worded(dict(wanted.targets))
        said = picture.strip()
        source, target = (
            f"{said}, {words}" if said else words for words in (order.source, order.target)
        )
        regions = ", ".join(region.replace("_", " ") for region in order.regions)
        return io.NodeOutput(source, target, regions, order.strength)

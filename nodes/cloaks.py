"""Cloaks in one pass: a generator is trained once, and cloaks pictures, batches and the frames of a video."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.defences.attribute_edit import CELEBA_FRAME, cut_to
from ..fluxguard_core.defences.cloak import Cloak, load_cloak, save_cloak
from ..fluxguard_core.defences.cloak_faces import (
    attribute_fake,
    difference_seen,
    drawn_from,
    recognise_in_frame,
    working_side,
)
from ..fluxguard_core.defences.cloak_targets import Target
from ..fluxguard_core.defences.cloak_training import CloakPlan, CloakRun, train_cloak
from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.mini.world_check import world_of
from ..fluxguard_core.pipelines.attributes import AttributeModels
from ..fluxguard_core.recognition import Ensemble
from ..fluxguard_core.weights.manifest import safe_name
from . import folders, host
from .faces import Faces, points_by_picture, told_faceless
from .given import optional_masks, to_picture
from .node import Node
from .people import load_recognisers
from .wires import (
    CATEGORY,
    AttributesWire,
    CloakWire,
    EnsembleWire,
    faces_input,
    seed_input,
    shown,
    to_image,
)

SIDE = 256


class TrainCloak(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_TrainCloak",
            display_name="Train Cloak",
            category=CATEGORY,
            description="Trains a generator that cloaks portraits in one pass, against a deepfake model, recognisers, "
            "or both. Run again with more steps, it goes on where it stopped.",
            search_aliases=["dadfi", "cloak", "deepfake", "disrupt"],
            inputs=[
                io.Image.Input("images", tooltip="Portraits to train on, the more the better."),
                faces_input(),
                AttributesWire.Input(
                    "editor",
                    optional=True,
                    tooltip="A deepfake model whose outputs shall come out broken, from Load Attribute Editor.",
                ),
                EnsembleWire.Input(
                    "ensemble",
                    optional=True,
                    tooltip="Recognisers that shall no longer match; only the attacked ones are used.",
                ),
                io.String.Input(
                    "name",
                    default="my-cloak",
                    tooltip=f"Written as NAME.safetensors into models/{folders.CLOAKS}.",
                ),
                io.Int.Input(
                    "steps",
                    default=2000,
                    min=1,
                    max=1000000,
                    tooltip="Of training, earlier ones included.",
                ),
                io.Float.Input(
                    "limit",
                    default=6.0,
                    min=1.0,
                    max=32.0,
                    step=1.0,
                    tooltip="Largest change of a value, of 255.",
                ),
                seed_input("Of everything that is drawn."),
            ],
            outputs=[
                CloakWire.Output(display_name="cloak", tooltip="For Apply Cloak."),
                io.String.Output(display_name="report", tooltip="How the training went."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        name: str,
        steps: int,
        limit: float,
        seed: int,
        faces: Faces | None = None,
        editor: AttributeModels | None = None,
        ensemble: Ensemble | None = None,
    ) -> io.NodeOutput:
        if not safe_name(name):
            raise FluxGuardError(
                f"'{name}' cannot be a file's name everywhere.", "Choose plain letters."
            )
        if ensemble is not None:
            load_recognisers(ensemble)
        with torch.inference_mode(False), torch.enable_grad():
            pictures = to_picture(images, "images").cpu().clone()
            world = world_of(pictures[0])
            _same_world(world, editor, ensemble)
            cut, faceless = _cut(pictures, faces)
            targets: list[Target] = [] if editor is None else [attribute_fake(editor.editor)]
            plan = CloakPlan(steps, limit=limit / 255, seed=seed)
            run, bar = CloakRun.fresh(plan), host.Progress(steps)
            lines: list[str] = []

            def stopped() -> bool:
                bar(run.step)
                return False

            place = _place(name)
            train_cloak(
                run,
                drawn_from(cut, min(8, len(cut))),
                targets,
                plan,
                place.with_suffix(".checkpoint"),
                lines.append,
                recognise=None if ensemble is None else recognise_in_frame(ensemble),
                look=difference_seen,
                stopped=stopped,
            )
        bar(steps)
        attacked = () if ensemble is None else ensemble.attacked
        against = (*(t.name for t in targets), *(e.name for e in attacked))
        cloak = Cloak(run.generator.eval().requires_grad_(False), plan.limit, world, against)
        save_cloak(place, cloak, {"side": str(SIDE), "steps": str(run.step)})
        told = [told_faceless(faceless).replace("NOT PROTECTED", "NOT USED")] if faceless else []
        told += [f"{len(cut)} faces, {run.step} steps, against {', '.join(against)}", *lines[-5:]]
        return io.NodeOutput(cloak, "\n".join(told))


def _cut(pictures: Tensor, faces: Faces | None) -> tuple[Tensor, tuple[int, ...]]:
    """Faces [N, 3, S, S] uint8, and the numbers of the pictures without one."""
    located = points_by_picture(faces, pictures)
    cut = [
        cut_to(CELEBA_FRAME, SIDE, picture[None], points[0])
        for picture, points in zip(pictures, located, strict=True)
        if len(points)
    ]
    faceless = tuple(number for number, points in enumerate(located) if not len(points))
    return (torch.cat(cut) * 255).round().byte(), faceless


def _same_world(world: str, editor: AttributeModels | None, ensemble: Ensemble | None) -> None:
    """Nothing is trained on faces that the models do not know."""
    used = [] if editor is None else [(editor.editor.name, editor.editor.world)]
    used += [] if ensemble is None else [(e.name, e.world) for e in ensemble.members]
    for name, its in used:
        if its != world:
            raise FluxGuardError(
                f"{name} knows {its} faces only, and the first picture is of the other world."
            )


def _place(name: str) -> Path:
    """The file to write, in the first of the host's folders."""
    first = Path(folder_paths.get_folder_paths(folders.CLOAKS)[0])
    first.mkdir(parents=True, exist_ok=True)
    return first / f"{name}.safetensors"


@lru_cache(maxsize=4)
def _loaded(path: str, stamp: int) -> Cloak:
    del stamp  # a replaced file is another cloak
    with host.ordinary_tensors():
        return load_cloak(path)


class LoadCloak(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_LoadCloak",
            display_name="Load Cloak",
            category=CATEGORY,
            description="A trained cloak.",
            search_aliases=["dadfi", "cloak"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folders.files_in(folders.CLOAKS) or ["none"],
                    tooltip=f"From models/{folders.CLOAKS}.",
                )
            ],
            outputs=[CloakWire.Output(display_name="cloak", tooltip="For Apply Cloak.")],
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        path = folders.file_in(folders.CLOAKS, file)
        if path is None:
            raise FluxGuardError(
                f"There is no cloak '{file}'.", "Train one with Train Cloak, then reload the page."
            )
        return io.NodeOutput(_loaded(str(path), path.stat().st_mtime_ns))


class ApplyCloak(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ApplyCloak",
            display_name="Apply Cloak",
            category=CATEGORY,
            description="Cloaks pictures of any size in one pass each, a batch or a video's frames as well.",
            search_aliases=["dadfi", "cloak", "deepfake", "video"],
            inputs=[
                io.Image.Input("images", tooltip="Pictures with a face each, or a video's frames."),
                CloakWire.Input("cloak", tooltip="From Load Cloak or Train Cloak."),
                faces_input(),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Where they may change; all by default."
                ),
            ],
            outputs=[
                io.Image.Output(
                    tooltip="The cloaked pictures. No value has moved by more than the cloak's limit."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        images: Tensor,
        cloak: Cloak,
        faces: Faces | None = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        with host.ordinary_tensors():
            pictures = to_picture(images, "images").cpu().clone()
            if world_of(pictures[0]) != cloak.world:
                raise FluxGuardError(
                    f"The cloak was trained on {cloak.world} faces only, and the first picture is of the other world.",
                    "Train one on pictures like these.",
                )
            masks = _fitting(optional_masks(mask), pictures)
            located = points_by_picture(faces, pictures)
            faceless = tuple(number for number, points in enumerate(located) if not len(points))
            if faceless:
                host.warn(told_faceless(faceless))
            bar, done = host.Progress(len(pictures)), []
            for number, (picture, points) in enumerate(zip(pictures, located, strict=True)):
                done.append(_cloaked(cloak, picture[None], points, _of(masks, number)))
                bar(number + 1)
        results = to_image(torch.cat(done))
        return io.NodeOutput(results, ui=shown(cls, results))


def _cloaked(cloak: Cloak, picture: Tensor, points: Tensor, mask: Tensor | None) -> Tensor:
    """One picture, seen at the size at which its face is as large as in training; without a face as it is."""
    if not len(points):
        return picture
    size = (picture.shape[-2], picture.shape[-1])
    return cloak(picture, mask, working=working_side(size, points[0], cloak.eyes))


def _fitting(masks: Tensor | None, pictures: Tensor) -> Tensor | None:
    """Masks of the pictures' size, one or one for each."""
    if masks is None:
        return None
    if masks.shape[-2:] != pictures.shape[-2:] or len(masks) not in (1, len(pictures)):
        (rows, columns), (height, width) = masks.shape[-2:], pictures.shape[-2:]
        raise FluxGuardError(
            f"{len(masks)} masks of {columns} x {rows} pixels came for {len(pictures)} pictures of {width} x {height}.",
            "Give one mask of that size, or one for each picture.",
        )
    return masks


def _of(masks: Any, number: int) -> Tensor | None:
    if masks is None:
        return None
    one: Tensor = masks[number : number + 1] if len(masks) > 1 else masks
    return one

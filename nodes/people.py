"""Who judges and whom to resemble: recognisers and identities."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.recognition import Ensemble, FaceEncoder, align, photo, synthetic, untargeted
from ..fluxguard_core.recognition.encoder import Colour
from ..fluxguard_core.recognition.identity import EXPLANATIONS
from ..fluxguard_core.recognition.input import note_path
from ..fluxguard_core.recognition.loading import load_encoder
from ..fluxguard_core.recognition.thresholds import thresholds_path
from . import folders, host
from .faces import Faces, installed_finder, locate
from .given import to_picture
from .node import Node
from .wires import CATEGORY, EnsembleWire, IdentityWire, faces_input, seed_input

COLOURS = ("published", *get_args(Colour))


@lru_cache(maxsize=16)
def _encoder(path: str, stamp: tuple[int, ...], name: str, colour: Colour | None) -> FaceEncoder:
    del stamp  # a replaced file is another recogniser
    with host.ordinary_tensors():
        return load_encoder(path, name=name, colour=colour)


def recogniser(choice: str, colour: Colour | None = None) -> FaceEncoder:
    """A recogniser chosen in the list, loaded once, in the format that gradients need."""
    path = folders.recogniser_file(choice)
    return _encoder(str(path), _stamp(path), choice, colour)


def _stamp(path: Path) -> tuple[int, ...]:
    """When a recogniser's file, its calibration and the note on its input were written."""
    files = (path, thresholds_path(path), note_path(path))
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


def _attackable(encoder: FaceEncoder) -> FaceEncoder:
    if not encoder.thresholds:
        raise FluxGuardError(
            f"{encoder.name} has no threshold, so nobody could tell when it no longer recognises the face.",
            "Measure one with ‹run calibrate FILE --faces DIR›.",
        )
    return encoder


def load_recognisers(ensemble: Ensemble) -> None:
    """Bring every recogniser to the device, for measuring; the host makes the room."""
    host.load_together(ensemble.networks)


class FREnsembleLoader(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_FREnsembleLoader",
            display_name="FR Ensemble Loader",
            category=CATEGORY,
            description="Face recognisers to protect against, and others that only judge the result.",
            search_aliases=[
                "load recognisers",
                "face recognition",
                "arcface",
                "facenet",
                "recogniser",
                "ensemble",
            ],
            inputs=[
                *ensemble_inputs(
                    folders.recogniser_choices(),
                    (["facexlib-irse50", "pyfeat-facenet"], ["auraface"]),
                    "Your own files go into models/fluxguard/recognisers.",
                ),
                io.Combo.Input(
                    "colour",
                    options=list(COLOURS),
                    default="published",
                    tooltip="Channel order that your own files are fed. published: as their publishers or your calibration say. both: RGB and BGR averaged, where it is in doubt.",
                ),
            ],
            outputs=[
                EnsembleWire.Output(
                    display_name="ensemble", tooltip="For the refiner and the report."
                )
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, attacked: Any, held_out: Any, weighting: Any, colour: str) -> Any:
        """A file or a calibration that was replaced makes another ensemble."""
        del weighting, colour
        return [_written(name) for name in (*_names(attacked), *_names(held_out))]

    @classmethod
    def execute(cls, attacked: Any, held_out: Any, weighting: Any, colour: str) -> io.NodeOutput:
        order: Any = None if colour == "published" else colour
        return io.NodeOutput(
            ensemble_of(attacked, held_out, weighting, lambda name: recogniser(name, order))
        )


def ensemble_inputs(
    choices: list[str], defaults: tuple[list[str], list[str]], whose: str
) -> list[Any]:
    """Who is attacked, who only judges, and how the losses are joined."""
    attacked, held_out = defaults
    return [
        io.MultiCombo.Input(
            "attacked",
            options=choices,
            default=attacked,
            tooltip=f"Recognisers that the protection works against. {whose}",
        ),
        io.MultiCombo.Input(
            "held_out",
            options=choices,
            default=held_out,
            tooltip="Recognisers that only judge. What they say is the honest part of the report.",
        ),
        io.Combo.Input(
            "weighting",
            options=["equal", "worst"],
            default="equal",
            tooltip="How their losses are joined: the mean, or leaning on the hardest one.",
        ),
    ]


def ensemble_of(
    attacked: Any, held_out: Any, weighting: Any, load: Callable[[str], FaceEncoder]
) -> Ensemble:
    """The chosen recognisers; FluxGuardError where the verdict would not be independent."""
    attacked, held_out = _names(attacked), _names(held_out)
    both = sorted(set(attacked) & set(held_out))
    if both:
        raise FluxGuardError(
            f"{', '.join(both)} is attacked and held out at once; the verdict would not be independent.",
            "Take it out of one list.",
        )
    if not attacked:
        raise FluxGuardError("Choose at least one recogniser to protect against.")
    ensemble = Ensemble(
        tuple(_attackable(load(name)) for name in attacked),
        tuple(load(name) for name in held_out),
        weighting,
    )
    return _of_one_world(ensemble)


def _of_one_world(ensemble: Ensemble) -> Ensemble:
    """FluxGuardError where no picture would suit all recognisers."""
    known = {encoder.world: encoder.name for encoder in ensemble.members}
    if len(known) > 1:
        raise FluxGuardError(
            f"{known['drawn']} knows only drawn portraits and {known['photo']} only photos: no picture suits both.",
            "Choose recognisers of one kind.",
        )
    return ensemble


def _written(name: str) -> tuple[int, ...] | None:
    try:
        return _stamp(folders.recogniser_file(name))
    except FluxGuardError:
        return None  # the run itself says what is missing


def _names(chosen: Any) -> list[str]:
    return [chosen] if isinstance(chosen, str) else list(chosen or ())


class IdentityNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_Identity",
            display_name="Identity",
            category=CATEGORY,
            description="What the protected face should be taken for: nobody in particular, an invented person, or "
            "the person in a photo.",
            search_aliases=["identity", "target", "synthetic identity", "untargeted"],
            inputs=[
                io.DynamicCombo.Input(
                    "kind",
                    options=[
                        io.DynamicCombo.Option("untargeted", []),
                        io.DynamicCombo.Option(
                            "synthetic",
                            [
                                seed_input(
                                    "Picks the invented person. Pictures protected with one seed resemble each other."
                                ),
                            ],
                        ),
                        io.DynamicCombo.Option(
                            "photo",
                            [
                                io.Image.Input(
                                    "photos",
                                    tooltip="One or more photos of one person, who will then be found instead. Use only faces that are yours to use.",
                                ),
                                io.Combo.Input(
                                    "cut",
                                    options=["around the face", "whole frame"],
                                    default="around the face",
                                    tooltip="'around the face' looks for the largest face with YuNet, or takes that of the connected FACES. 'whole frame' takes the photo as it is.",
                                ),
                                faces_input(),
                            ],
                        ),
                    ],
                    tooltip=" ".join(EXPLANATIONS.values()),
                ),
            ],
            outputs=[
                IdentityWire.Output(
                    display_name="identity", tooltip="For the refiner or Protect Latent."
                )
            ],
        )

    @classmethod
    def execute(cls, kind: dict[str, Any]) -> io.NodeOutput:
        chosen = kind["kind"]
        if chosen == "untargeted":
            return io.NodeOutput(untargeted())
        if chosen == "synthetic":
            return io.NodeOutput(synthetic(kind["seed"]))
        with host.ordinary_tensors():
            pictures = to_picture(kind["photos"], "photos").clone()
            if kind["cut"] != "whole frame":
                pictures = _around_faces(pictures, kind.get("faces"))
            return io.NodeOutput(photo(*pictures))


def _around_faces(pictures: Tensor, faces: Faces | None) -> Tensor:
    """Photos cut on the face template, so that they can be taken whole afterwards."""
    if faces is None and installed_finder() is None:
        raise FluxGuardError(
            "Where is the face in the photos?",
            "Install YuNet (‹run models download yunet›), or connect Face Picker to ‹give faces›, or crop the photos "
            "to the face and choose 'whole frame'.",
        )
    located = locate(faces, pictures)
    if located.faceless:
        raise FluxGuardError(
            f"No face was found in photo {', '.join(map(str, located.faceless))} (the first is 0).",
            "Use photos with a larger, unobstructed face, or crop them to the face and choose 'whole frame'.",
        )
    return align(pictures, located.points, 224)

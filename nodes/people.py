"""Who judges and whom to resemble: recognisers and identities."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

from comfy_api.latest import io

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.recognition import Ensemble, FaceEncoder, photo, synthetic, untargeted
from ..fluxguard_core.recognition.encoder import Colour
from ..fluxguard_core.recognition.identity import EXPLANATIONS
from ..fluxguard_core.recognition.loading import load_encoder
from ..fluxguard_core.recognition.thresholds import thresholds_path
from . import folders, host
from .wires import CATEGORY, EnsembleWire, IdentityWire, to_picture

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
    """When a recogniser's file and its calibration were written."""
    files = (path, thresholds_path(path))
    return tuple(file.stat().st_mtime_ns if file.is_file() else 0 for file in files)


def _attackable(encoder: FaceEncoder) -> FaceEncoder:
    if not encoder.thresholds:
        raise FluxGuardError(
            f"{encoder.name} has no threshold, so nobody could tell when it no longer recognises the face. Measure "
            f"one with ‹run calibrate FILE --faces DIR›."
        )
    return encoder


def load_recognisers(ensemble: Ensemble) -> None:
    """Bring every recogniser to the device, for measuring; the host makes the room."""
    host.load_together(ensemble.networks)


class FREnsembleLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        choices = folders.recogniser_choices()
        return io.Schema(
            node_id="FluxGuard_FREnsembleLoader",
            display_name="FR Ensemble Loader",
            category=CATEGORY,
            description="Face recognisers to protect against, and others that only judge the result.",
            search_aliases=["face recognition", "arcface", "facenet", "recogniser", "ensemble"],
            inputs=[
                io.MultiCombo.Input(
                    "attacked",
                    options=choices,
                    default=["mini-ir", "mini-irse", "mini-facenet"],
                    tooltip="Recognisers that the protection works against. mini-* know only the miniature's portraits; others go into models/fluxguard/recognisers.",
                ),
                io.MultiCombo.Input(
                    "held_out",
                    options=choices,
                    default=["mini-mobileface", "mini-vit"],
                    tooltip="Recognisers that only judge. What they say is the honest part of the report.",
                ),
                io.Combo.Input(
                    "weighting",
                    options=["equal", "worst"],
                    default="equal",
                    advanced=True,
                    tooltip="How their losses are joined: the mean, or leaning on the hardest one.",
                ),
                io.Combo.Input(
                    "colour",
                    options=list(COLOURS),
                    default="published",
                    optional=True,
                    advanced=True,
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
    def fingerprint_inputs(
        cls, attacked: Any, held_out: Any, weighting: Any, colour: str = "published"
    ) -> Any:
        """A file or a calibration that was replaced makes another ensemble."""
        del weighting, colour
        return [_written(name) for name in (*_names(attacked), *_names(held_out))]

    @classmethod
    def execute(
        cls, attacked: Any, held_out: Any, weighting: Any, colour: str = "published"
    ) -> io.NodeOutput:
        attacked, held_out = _names(attacked), _names(held_out)
        both = sorted(set(attacked) & set(held_out))
        if both or not attacked:
            raise FluxGuardError(
                f"{', '.join(both)} is attacked and held out at once; the verdict would not be independent. Take "
                "it out of one list."
                if both
                else "Choose at least one recogniser to protect against."
            )
        order: Any = None if colour == "published" else colour
        ensemble = Ensemble(
            tuple(_attackable(_read(name, order)) for name in attacked),
            tuple(_read(name, order) for name in held_out),
            weighting,
        )
        return io.NodeOutput(ensemble)


def _read(name: str, colour: Colour | None) -> FaceEncoder:
    """Built-in recognisers keep their channel order, which is known."""
    return recogniser(name, None if folders.is_built_in(name) else colour)


def _written(name: str) -> tuple[int, ...] | None:
    try:
        return _stamp(folders.recogniser_file(name))
    except FluxGuardError:
        return None  # the run itself says what is missing


def _names(chosen: Any) -> list[str]:
    return [chosen] if isinstance(chosen, str) else list(chosen or ())


class IdentityNode(io.ComfyNode):
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
                                io.Int.Input(
                                    "seed",
                                    default=0,
                                    min=0,
                                    max=2**31 - 1,
                                    control_after_generate=True,
                                    tooltip="Picks the invented person. Pictures protected with one seed resemble each other.",
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
                                    "photo_face_finder",
                                    options=["whole frame", "auto", "yunet", "miniature"],
                                    default="auto",
                                    tooltip="How the face in the photos is found. 'whole frame' takes the photo as it is.",
                                ),
                            ],
                        ),
                    ],
                    tooltip=" ".join(EXPLANATIONS.values()),
                ),
            ],
            outputs=[IdentityWire.Output(display_name="identity", tooltip="For the refiner.")],
        )

    @classmethod
    def execute(cls, kind: dict[str, Any]) -> io.NodeOutput:
        chosen = kind["kind"]
        if chosen == "untargeted":
            return io.NodeOutput(untargeted())
        if chosen == "synthetic":
            return io.NodeOutput(synthetic(kind["seed"]))
        with host.ordinary_tensors():
            pictures = to_picture(kind["photos"]).clone()
            if kind["photo_face_finder"] != "whole frame":
                pictures = _around_faces(pictures, kind["photo_face_finder"])
            return io.NodeOutput(photo(*pictures))


def _around_faces(pictures: Any, choice: str) -> Any:
    """Photos cut on the face template, so that they can be taken whole afterwards."""
    from ..fluxguard_core.recognition import align
    from .faces import face_finder, find_landmarks

    if face_finder(choice) is None:
        raise FluxGuardError(
            "Where is the face in the photos? Install YuNet (run "
            "‹run models download yunet›), or crop the photos to the face and choose 'whole frame'."
        )
    landmarks = find_landmarks(pictures, choice, 0, None, None, "largest")
    return align(pictures, landmarks, 224)

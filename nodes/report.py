"""Privacy Report: what recognisers say before and after, on the pictures as they are."""

from __future__ import annotations

import json
from dataclasses import replace

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.evaluate import (
    Likeness,
    Pictures,
    Recognition,
    Report,
    Shot,
    chart,
    likeness_of_faces,
    measure,
    quality,
    second_shot,
)
from ..fluxguard_core.faces.detectors import face_from_points
from ..fluxguard_core.faces.face import FaceFinder, nearest
from ..fluxguard_core.recognition import Ensemble
from . import host
from .faces import Faces, finder, points_by_picture
from .given import to_picture
from .node import Node
from .people import load_recognisers
from .wires import CATEGORY, EnsembleWire, faces_input, shown, to_image
from .words import NODES
from .worlds import check_pictures, face_finder, recognisers


class PrivacyReport(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_PrivacyReport",
            display_name="Privacy Report",
            category=CATEGORY,
            description="Measures the protection: similarity to the original before and after, after sharing, and on "
            "recognisers that were not attacked.",
            search_aliases=["report", "verify", "similarity", "score", "privacy"],
            is_output_node=True,
            inputs=[
                io.Image.Input("original", tooltip="The picture before the edit."),
                io.Image.Input("edited", tooltip="The edit without protection: the baseline."),
                io.Image.Input("protected", tooltip="The protected picture."),
                EnsembleWire.Input(
                    "ensemble",
                    tooltip="From FR Ensemble Loader; held-out recognisers are the honest judges.",
                ),
                io.Image.Input(
                    "second_photo",
                    optional=True,
                    tooltip="Another photo of the same person, which is what a search compares with.",
                ),
                faces_input(),
            ],
            outputs=[
                io.Image.Output(display_name="chart", tooltip="One page a picture."),
                io.String.Output(display_name="summary", tooltip="The verdict in words."),
                io.String.Output(display_name="json", tooltip="All numbers; no paths, no faces."),
            ],
        )

    @classmethod
    def execute(
        cls,
        original: Tensor,
        edited: Tensor,
        protected: Tensor,
        ensemble: Ensemble,
        second_photo: Tensor | None = None,
        faces: Faces | None = None,
    ) -> io.NodeOutput:
        with host.ordinary_tensors():
            given = {"original": original, "edited": edited, "protected": protected}
            pictures = [to_picture(image, name).cpu().clone() for name, image in given.items()]
            _alike(pictures)
            found, find = points_by_picture(faces, pictures[0]), finder(faces)
            known = [*face_finder(faces), *recognisers(ensemble.members)]
            check_pictures(pictures[0], found, known)
            second, notes = _second(second_photo, find)
            reports, pages = [], []
            load_recognisers(ensemble)
            progress = host.Progress(len(pictures[0]))
            for i in range(len(pictures[0])):
                one = [picture[i : i + 1] for picture in pictures]
                if not len(found[i]):
                    report = _reported((), one, (), (_unmeasured(i),))
                else:
                    results = _measured(ensemble, one, found[i], second, find)
                    looks = likeness_of_faces(one[1], one[2], found[i])
                    report = _reported(results, one, looks, notes)
                reports.append(report)
                pages.append(chart(report, Pictures(one[0], one[1], one[2])))
                progress(i + 1, host.picture_preview(pages[-1]))
            image = to_image(_stacked(pages))
        summary = "\n\n".join(
            "\n".join((r.verdict.headline, r.verdict.detail, *_seen(r), *r.notes)) for r in reports
        )
        values = [report.to_dict() for report in reports]
        text = json.dumps(values[0] if len(values) == 1 else values, indent=2, ensure_ascii=False)
        return io.NodeOutput(image, summary, text, ui=shown(cls, image, summary))


def _alike(pictures: list[Tensor]) -> None:
    shapes = [list(picture.shape) for picture in pictures]
    if shapes[0] != shapes[1] or shapes[1] != shapes[2]:
        raise FluxGuardError(
            f"Original, edited and protected must have one size and number, got {shapes}. Crop the original to "
            "the decoded pictures' size."
        )


def _second(photo: Tensor | None, find: FaceFinder | None) -> tuple[Shot | None, tuple[str, ...]]:
    """The second photo as a stranger would meet it, or a note that says why it is left out."""
    if photo is None:
        return None, ()
    shot, left_out = second_shot(to_picture(photo, "second_photo").cpu().clone()[:1], find)
    return shot, (NODES(left_out),) if left_out else ()


def _shot(picture: Tensor, fallback: Tensor, find: FaceFinder | None) -> Shot:
    """A picture with its landmarks found anew where a detector is at hand, as a stranger would meet it.

    A face that is no longer found is looked at where it was.
    """
    faces = [] if find is None else find(picture[0])
    met = nearest(faces, face_from_points(fallback))
    return Shot(picture, fallback if met is None else met.landmarks)


def _measured(
    ensemble: Ensemble,
    pictures: list[Tensor],
    landmarks: Tensor,
    second: Shot | None,
    find: FaceFinder | None,
) -> tuple[Recognition, ...]:
    """What recognisers say of every protected face [faces, 5, 2]; of several, named by number."""
    original, edited, protected = pictures
    recognisers: list[Recognition] = []
    for number, points in enumerate(landmarks):
        shots = [Shot(original, points)]
        shots += [_shot(picture, points, find) for picture in (edited, protected)]
        several = len(landmarks) > 1
        recognisers += (
            replace(result, name=f"{result.name}, face {number}") if several else result
            for result in measure(ensemble, *shots, second=second)
        )
    return tuple(recognisers)


def _seen(report: Report) -> list[str]:
    """What friends see of the protection, in words."""
    return [f"Likeness: {look.told()}." for look in report.likeness]


def _unmeasured(number: int) -> str:
    return (
        f"Nothing was measured on picture {number} of the batch (the first is 0): no face was found in the "
        "original. Take it for unprotected."
    )


def _reported(
    results: tuple[Recognition, ...],
    pictures: list[Tensor],
    looks: tuple[Likeness, ...],
    notes: tuple[str, ...],
) -> Report:
    original, edited, protected = pictures
    return Report(
        recognisers=results,
        edit=quality(edited, original),
        protection=quality(protected, edited),
        likeness=looks,
        size=(original.shape[-2], original.shape[-1]),
        notes=notes,
    )


def _stacked(pages: list[Tensor]) -> Tensor:
    """Pages of one width as a batch; shorter ones get white below."""
    tallest = max(page.shape[-2] for page in pages)
    white = [
        torch.nn.functional.pad(page, (0, 0, 0, tallest - page.shape[-2]), value=1.0)
        for page in pages
    ]
    return torch.cat(white)

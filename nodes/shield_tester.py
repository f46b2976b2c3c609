"""Shield Tester: what a shield changed, what survives sharing, and whether an edit was disturbed."""

from __future__ import annotations

import json
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.evaluate.shield_test import ShieldTester, side_by_side
from ..fluxguard_core.recognition import Ensemble
from . import host
from .faces import Faces, points_by_picture
from .given import to_picture
from .node import Node
from .people import load_recognisers
from .shield_models import Asked
from .wires import CATEGORY, EnsembleWire, faces_input, shown, to_image
from .worlds import check_pictures, face_finder, recognisers

_SEEN = 8


class ShieldTesterNode(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ShieldTester",
            display_name="Shield Tester",
            category=CATEGORY,
            description="Measures a shield: how it shows, what the VAE and recognisers see of it after sharing, and "
            "how far two edits differ.",
            search_aliases=["test shield", "verify", "robustness", "jpeg", "score"],
            is_output_node=True,
            inputs=[
                io.Image.Input("original", tooltip="The picture before the shield."),
                io.Image.Input("protected", tooltip="The shielded picture."),
                io.Image.Input(
                    "edited_original",
                    optional=True,
                    tooltip="An edit of the original, any model's.",
                ),
                io.Image.Input(
                    "edited_protected",
                    optional=True,
                    tooltip="The same edit of the shielded picture, same seed.",
                ),
                io.Vae.Input(
                    "vae", optional=True, tooltip="Whose latent to compare, also after sharing."
                ),
                EnsembleWire.Input(
                    "ensemble",
                    optional=True,
                    tooltip="Recognisers to judge; those that took no part are the honest ones.",
                ),
                faces_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="picture",
                    tooltip=f"Original, shielded, the difference {_SEEN} times as strong, and the edits.",
                ),
                io.String.Output(display_name="table", tooltip="What was measured, line by line."),
                io.String.Output(display_name="verdict", tooltip="What was seen, in words."),
                io.String.Output(display_name="json", tooltip="All numbers; no paths."),
            ],
        )

    @classmethod
    def execute(
        cls,
        original: Tensor,
        protected: Tensor,
        edited_original: Tensor | None = None,
        edited_protected: Tensor | None = None,
        vae: Any = None,
        ensemble: Ensemble | None = None,
        faces: Faces | None = None,
    ) -> io.NodeOutput:
        if (edited_original is None) != (edited_protected is None):
            raise FluxGuardError(
                "One edit came, and two are compared.",
                "Connect both ‹give edited_original› and ‹give edited_protected›, or neither.",
            )
        with host.ordinary_tensors():
            before = to_picture(original, "original").cpu().clone()
            after = to_picture(protected, "protected").cpu().clone()
            edits = None
            if edited_original is not None and edited_protected is not None:
                edits = [
                    to_picture(edited_original, "edited_original").cpu().clone(),
                    to_picture(edited_protected, "edited_protected").cpu().clone(),
                ]
            _alike(before, after, edits)
            points: list[Tensor] = [torch.empty(0, 5, 2)] * len(before)
            if ensemble is not None:
                points = points_by_picture(faces, before)
                knowers = [*face_finder(faces), *recognisers(ensemble.members)]
                check_pictures(before, points, knowers)
                load_recognisers(ensemble)
            encode = {}
            if vae is not None:
                asked = Asked(vae)
                host.load_together([asked.decoder.module])
                encode = {"vae": asked.encode()}
            tester, progress = ShieldTester(ensemble, encode), host.Progress(len(before))
            tests, rows = [], []
            for i in range(len(before)):
                pair = None if edits is None else (edits[0][i : i + 1], edits[1][i : i + 1])
                face = points[i][0] if len(points[i]) else None
                one, other = before[i : i + 1], after[i : i + 1]
                tests.append(tester.test(one, other, face, pair))
                difference = (0.5 + _SEEN * (other - one)).clamp(0, 1)
                rows.append(side_by_side([one, other, difference, *(pair or ())]))
                progress(i + 1, host.picture_preview(rows[-1]))
            image = to_image(torch.cat(rows))
        table = "\n\n".join(test.table() for test in tests)
        verdict = "\n".join(test.verdict for test in tests)
        values = [test.to_dict() for test in tests]
        text = json.dumps(values[0] if len(values) == 1 else values, indent=2)
        return io.NodeOutput(
            image, table, verdict, text, ui=shown(cls, image, f"{verdict}\n{table}")
        )


def _alike(before: Tensor, after: Tensor, edits: list[Tensor] | None) -> None:
    if before.shape != after.shape:
        raise FluxGuardError(
            f"Original and protected must have one size and number, got {list(before.shape)} and {list(after.shape)}.",
            "Connect the picture that went into the shield.",
        )
    if edits is not None and (edits[0].shape != edits[1].shape or len(edits[0]) != len(before)):
        raise FluxGuardError(
            f"The two edits must have one size, and one for each picture; got {list(edits[0].shape)} and "
            f"{list(edits[1].shape)} for {len(before)}.",
            "Edit both pictures in the same way.",
        )

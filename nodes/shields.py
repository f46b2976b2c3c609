"""The shields: pictures that models edit, learn from or clone less well."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..fluxguard_core.defences.budget import with_budget
from ..fluxguard_core.defences.cloning import CloneShield, shield_cloning
from ..fluxguard_core.defences.costs import Passes, edit_passes, training_passes
from ..fluxguard_core.defences.edits import EDIT_SHIELDS, shield_edits
from ..fluxguard_core.defences.surrogates import Surrogate
from ..fluxguard_core.defences.training import TRAINING_SHIELDS, TrainingShield, shield_training
from ..fluxguard_core.errors import FluxGuardError, Interrupted
from ..fluxguard_core.evaluate.change import change_of
from ..fluxguard_core.evaluate.quality import eight_bit
from ..fluxguard_core.protect.defended import Defended
from ..fluxguard_core.protect.engine import Step
from ..fluxguard_core.recognition import Ensemble
from . import host
from .faces import Faces, points_by_picture
from .given import optional_masks, to_picture
from .node import Node
from .people import load_recognisers
from .shield_models import Asked
from .wires import CATEGORY, EnsembleWire, faces_input, seed_input, shown, to_image
from .worlds import check_pictures, face_finder, model_knower, recognisers, vae_knower

SMOOTH = 0.5  # share of the budget on smooth skin, as the command line has it
_SEEN = 8  # how much stronger the picture of the difference shows it


def _image_input() -> Any:
    return io.Image.Input(
        "image", tooltip="Pictures as they will be published; each is shielded by itself."
    )


def _vae_input() -> Any:
    return io.Vae.Input(
        "vae", tooltip="FLUX's VAE. A private copy takes the gradients; yours stays as it is."
    )


def _model_inputs(told: str) -> list[Any]:
    return [
        io.Model.Input("model", optional=True, tooltip=f"FLUX.1, {told}. It stays as it is."),
        io.Conditioning.Input(
            "positive", optional=True, tooltip="The prompt that FLUX is asked with."
        ),
        io.Mask.Input(
            "mask", optional=True, tooltip="Where the picture may change (white), of its size."
        ),
    ]


def _budget_input(default: int, told: str) -> Any:
    return io.Int.Input(
        "budget",
        default=default,
        min=1,
        max=32,
        tooltip=f"Largest change of any value, of 255. {told}",
    )


def _outputs() -> list[Any]:
    return [
        io.Image.Output(display_name="image", tooltip="The shielded pictures; save them as PNG."),
        io.Image.Output(
            display_name="difference", tooltip=f"What was changed, {_SEEN} times as strong."
        ),
        io.String.Output(
            display_name="report", tooltip="What was used of the budget, and how it shows."
        ),
    ]


class ShieldAgainstEdits(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ShieldEdits",
            display_name="Shield Against Edits",
            category=CATEGORY,
            description="Changes a picture by a few levels so that editing it by prompt goes wrong (TDAE). The preset "
            "fast needs only the VAE.",
            search_aliases=["immunise", "tdae", "photoguard", "mist", "anti edit", "cloak"],
            inputs=[
                _image_input(),
                _vae_input(),
                *_model_inputs("for every preset but fast"),
                io.Combo.Input(
                    "preset",
                    options=list(EDIT_SHIELDS),
                    default="fast",
                    tooltip="fast: the VAE alone. balanced: FLUX forwards only, as quantised models and small cards can. strong: gradients through FLUX. kontext: the same for FLUX.1 Kontext.",
                ),
                _budget_input(8, "4 is hardly seen, 12 shows on smooth skin."),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=1000,
                    tooltip="Of the descent. 0 takes the preset's own: 60, 100, 200 and 200.",
                ),
                seed_input("Of the random start, noises and times."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        preset: str,
        budget: int,
        steps: int,
        seed: int,
        model: Any = None,
        positive: Any = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        shield = with_budget(EDIT_SHIELDS[preset], budget / 255)
        shield = replace(shield, steps=steps or shield.steps, smooth=SMOOTH)
        pictures = _pictures(image)
        masks = [_mask_of(mask, number, one) for number, one in enumerate(pictures)]
        _check_worlds(pictures, vae, model)
        total = [len(shield.tiles(_size(one))) * shield.steps for one in pictures]
        watch = _Watch(host.Progress(sum(total)))
        host.notice(_cost(edit_passes(shield, _size(pictures[0])), len(pictures)))

        def work(asked: Surrogate) -> list[Defended]:
            return [
                shield_edits(
                    one.to(asked.device),
                    asked,
                    shield,
                    mask=masks[number],
                    seed=seed,
                    on_step=watch,
                    stops=host.INTERRUPTS,
                )
                for number, one in enumerate(pictures)
                if not watch.stopped
            ]

        done = Asked(vae, model, positive).run(
            work,
            [_size(one) for one in pictures],
            needs_model=shield.needs_model,
            needs_way_back=shield.needs_way_back,
        )
        return _output(cls, image, pictures, done, f"Shield against edits, preset {preset}")


class ShieldAgainstTraining(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ShieldTraining",
            display_name="Shield Against Training",
            category=CATEGORY,
            description="Changes pictures of one person by a few levels so that a LoRA learns the person less well "
            "(DLADiff, first layer). Give all that will be published together.",
            search_aliases=["anti lora", "dladiff", "anti dreambooth", "glaze", "cloak"],
            inputs=[
                _image_input(),
                _vae_input(),
                *_model_inputs("which somebody may train"),
                io.Combo.Input(
                    "preset",
                    options=list(TRAINING_SHIELDS),
                    default="light",
                    tooltip="light: FLUX forwards only, as quantised models and small cards can. full: trains two stand-ins beside FLUX and needs gradients through it.",
                ),
                _budget_input(7, "Published: 7."),
                io.Int.Input(
                    "rounds",
                    default=30,
                    min=1,
                    max=200,
                    tooltip="Of steps on the pictures, and with full of the stand-in's training.",
                ),
                seed_input("Of the random start, noises, times and the stand-ins."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        vae: Any,
        preset: str,
        budget: int,
        rounds: int,
        seed: int,
        model: Any = None,
        positive: Any = None,
        mask: Tensor | None = None,
    ) -> io.NodeOutput:
        shield = _training(preset, budget, rounds)
        pictures = _pictures(image)
        masks = [_mask_of(mask, number, one) for number, one in enumerate(pictures)]
        _check_worlds(pictures, vae, model)
        watch = _Watch(host.Progress(shield.steps * len(pictures)))
        host.notice(_cost(training_passes(shield, len(pictures)), len(pictures)))

        def work(asked: Surrogate) -> list[Defended]:
            return shield_training(
                pictures,
                asked,
                shield,
                masks=masks,
                seed=seed,
                on_step=watch,
                stops=host.INTERRUPTS,
            )

        done = Asked(vae, model, positive).run(
            work,
            [_size(one) for one in pictures],
            needs_model=True,
            needs_way_back=shield.backward,
        )
        return _output(cls, image, pictures, done, f"Shield against training, preset {preset}")


def _training(preset: str, budget: int, rounds: int) -> TrainingShield:
    return replace(with_budget(TRAINING_SHIELDS[preset], budget / 255), epochs=rounds)


class ShieldAgainstCloning(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FluxGuard_ShieldCloning",
            display_name="Shield Against Cloning",
            category=CATEGORY,
            description="Changes a face by a few levels until identity encoders no longer read it (DLADiff, second "
            "layer). No FLUX and no VAE needed. After Shield Against Training, not before.",
            search_aliases=["anti id", "dladiff", "pulid", "instantid", "ip adapter", "cloak"],
            inputs=[
                _image_input(),
                EnsembleWire.Input(
                    "ensemble",
                    tooltip="From FR Ensemble Loader: the attacked ones are the encoders to mislead.",
                ),
                faces_input(),
                _budget_input(11, "Inside the face. Published: 11."),
                io.Float.Input(
                    "limit",
                    default=CloneShield.limit,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Stop where every attacked recogniser sees less similarity than this.",
                ),
                io.Int.Input(
                    "steps", default=CloneShield.steps, min=1, max=1000, tooltip="At most so many."
                ),
                seed_input("Of the random start and the random views."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(
        cls,
        image: Tensor,
        ensemble: Ensemble,
        budget: int,
        limit: float,
        steps: int,
        seed: int,
        faces: Faces | None = None,
    ) -> io.NodeOutput:
        shield = replace(with_budget(CloneShield(), budget / 255), limit=limit, steps=steps)
        with host.ordinary_tensors():
            pictures = _pictures(image)
            together = torch.cat(pictures)
            found = points_by_picture(faces, together)
            check_pictures(together, found, [*face_finder(faces), *recognisers(ensemble.members)])
        watch = _Watch(host.Progress(steps * len(pictures)))
        load_recognisers(ensemble)
        done = []
        for one, points in zip(pictures, found, strict=True):
            if watch.stopped or not len(points):
                done.append(Defended(one, torch.zeros_like(one[:, :1]), ()))
                continue
            done.append(
                shield_cloning(
                    one,
                    points,
                    ensemble,
                    shield,
                    seed=seed,
                    on_step=watch,
                    stops=host.INTERRUPTS,
                )
            )
        heading = "Shield against cloning"
        return _output(
            cls, image, pictures, done, heading, [p[0] if len(p) else None for p in found]
        )


@dataclass(eq=False)
class _Watch:
    """Progress with the picture as it is; turns the user's wish to stop into keeping what there is."""

    progress: host.Progress
    stopped: bool = False
    _done: int = field(default=0, init=False)

    def __call__(self, step: Step, picture: Tensor) -> None:
        self._done += 1
        try:
            self.progress(min(self._done, self.progress.total), host.picture_preview(picture))
        except host.INTERRUPTS as stop:
            self.stopped = True
            raise Interrupted("Stopped by the user.") from stop


def _pictures(image: Tensor) -> list[Tensor]:
    """Pictures [1, 3, H, W] on the grid of 1/255, ordinary tensors."""
    with host.ordinary_tensors():
        return list(eight_bit(to_picture(image).clone().cpu()).split(1))


def _check_worlds(pictures: list[Tensor], vae: Any, model: Any) -> None:
    """WrongWorld where VAE or MODEL knows only faces of another kind than the pictures show."""
    knowers = [vae_knower(vae), *([] if model is None else [model_knower(model)])]
    check_pictures(torch.cat(pictures), [None] * len(pictures), knowers)


def _size(picture: Tensor) -> tuple[int, int]:
    return int(picture.shape[-2]), int(picture.shape[-1])


def _mask_of(mask: Tensor | None, number: int, picture: Tensor) -> Tensor | None:
    """The mask of one picture [1, 1, H, W]."""
    with host.ordinary_tensors():
        masks = optional_masks(mask)
        if masks is None:
            return None
        one = masks.clone().cpu()[number if len(masks) > 1 else 0][None]
    if one.shape[-2:] != picture.shape[-2:]:
        raise FluxGuardError(
            f"The mask is {one.shape[-1]} x {one.shape[-2]} pixels, the picture {picture.shape[-1]} x "
            f"{picture.shape[-2]}.",
            "Make the mask from the same picture.",
        )
    return one


def _cost(passes: Passes, pictures: int) -> str:
    parts = [f"the VAE {passes.autoencoder} times forward and back"]
    parts += [f"FLUX {passes.forward} times forward"] if passes.forward else []
    parts += [f"FLUX {passes.back} times forward and back"] if passes.back else []
    each = " for each picture" if pictures > 1 else ""
    return f"This shield runs {', '.join(parts)}{each}."


def _output(
    cls: type[io.ComfyNode],
    image: Tensor,
    pictures: list[Tensor],
    done: list[Defended],
    heading: str,
    points: list[Tensor | None] | None = None,
) -> io.NodeOutput:
    """The pictures with their own alpha, what changed, and the report; a stop leaves later pictures as they were."""
    with host.ordinary_tensors():
        kept = [one.picture.detach().cpu() for one in done]
        kept += [one.clone() for one in pictures[len(kept) :]]
        after, before = torch.cat(kept), torch.cat(pictures)
        difference = to_image((0.5 + _SEEN * (after - before)).clamp(0, 1))
        result = to_image(after)
        if image.shape[-1] == 4:
            alpha = image.reshape(-1, *image.shape[-3:])[..., 3:].cpu().clone().float()
            result = torch.cat([result, alpha], -1)
        lines = [heading]
        for number, one in enumerate(pictures):
            face = None if points is None else points[number]
            lines.append(f"Picture {number}: {change_of(one, kept[number], face).told()}")
            lines += _settled(done[number]) if number < len(done) else ["NOT SHIELDED: stopped."]
    if any(one.interrupted for one in done):
        host.warn("Stopped early: what there was of the shield is kept.")
    report = "\n".join(lines)
    return io.NodeOutput(result, difference, report, ui=shown(cls, difference, report))


def _settled(done: Defended) -> list[str]:
    """What the networks say of the picture as it is stored."""
    if done.settled is None:
        return [] if done.log else ["NOT SHIELDED: no face was found."]
    told = [
        f"{name} {value:.3f}"
        for figures in done.settled.figures.values()
        for name, value in figures.items()
    ]
    return [f"  after rounding: {', '.join(told)}"] if told else []

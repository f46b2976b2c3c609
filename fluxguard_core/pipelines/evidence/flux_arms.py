"""Treatments that edit with FLUX and protect the edit: ours, the released loop, and ours with one part taken out."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...evaluate.quality import eight_bit
from ...faces.face import Face
from ...flow import SOLVERS, Moved, State, Trajectory, advance
from ...protect.assemble import assemble_refiner
from ...protect.identity import identity_term
from ...protect.presets import PRESETS, Preset
from ...protect.run import protect_latent
from ...protect.views import AlignedViews
from ...protect.weight import AdaptiveWeight
from ...recognition.identity import Identity, photo, untargeted
from ...regions import soft_mask
from ..masks import found_from_words
from ..models import Models
from ..portrait import (
    Job,
    decoded,
    edit_controls,
    invert_portrait,
    protect_portrait,
    seeded,
)
from .bench import Arm, Case, Made, Subject

Aim = Callable[[Case], Identity]
Change = Callable[[Job], Job]


@dataclass(eq=False)
class Editor:
    """Edits subjects with one FLUX; remembers the last subject's inversions and edits, which its treatments share."""

    models: Models
    _subject: str = ""
    _known: dict[str, Trajectory] = field(default_factory=dict)
    _edits: dict[str, list[Moved]] = field(default_factory=dict)

    def job(self, subject: Subject, preset: Preset, identity: Identity, seed: int) -> Job:
        """The order at the subject's own size."""
        models = self.models
        prompt = subject.prompt
        if models.complete is not None:
            prompt = models.complete(subject.source_prompt, prompt)
        face = _face(subject)
        found = found_from_words(models, subject.photo, subject.source_prompt, prompt, face)
        return Job(
            picture=subject.photo,
            source_prompt=subject.source_prompt,
            prompt=prompt,
            mask=found.mask,
            face=face,
            identity=identity,
            preset=seeded(preset, seed),
            found=found,
        )

    def inverted(self, subject: Subject, preset: Preset) -> Trajectory:
        """The subject's inversion for a preset."""
        if subject.name != self._subject:
            self._subject, self._known, self._edits = subject.name, {}, {}
        name = repr((preset.intervals, preset.solver, preset.tokens, preset.source_guidance))
        if name not in self._known:
            self._known[name] = invert_portrait(
                self.models, subject.photo, subject.source_prompt, preset
            )
        return self._known[name]

    @torch.no_grad()
    def edited(self, subject: Subject) -> Tensor:
        """The default's edit before protection, in 8 bits."""
        preset = PRESETS["default"]
        job, trajectory = self.job(subject, preset, untargeted(), 0), self.inverted(subject, preset)
        latent = self.begun(subject, job, preset.intervals).latent
        return eight_bit(decoded(self.models, job, trajectory, latent).cpu())

    @torch.no_grad()
    def begun(self, subject: Subject, job: Job, interval: int) -> Moved:
        """A job's edit after so many intervals, from what is remembered of the same edit."""
        preset, trajectory = job.preset, self.inverted(subject, job.preset)
        mask = hashlib.sha256(job.mask.cpu().numpy().tobytes()).hexdigest()
        edit = repr((preset.recipe, preset.intervals, preset.guidance, mask))
        known = self._edits.setdefault(edit, [])
        if len(known) < interval:
            controls = edit_controls(trajectory, self.mask(job), preset)
            target = self.models.stack.field(job.prompt, self.models.guidance_of(preset))
            while len(known) < interval:
                state = known[-1] if known else State(trajectory.terminal)
                known.append(advance(target, trajectory, state, controls))
        return known[interval - 1]

    def mask(self, job: Job) -> Tensor:
        """A job's mask at latent resolution."""
        grid = self.models.stack.geometry.grid(*job.picture.shape[-2:])
        return soft_mask(job.mask, self.models.stack.geometry.pixels, size=grid)

    def protected(self, case: Case, preset: Preset, aim: Aim, change: Change) -> Made:
        """One subject through the whole method; the seconds are those after inversion and shared branch."""
        models = replace(self.models, ensemble=case.fold.ensemble)
        job = change(self.job(case.subject, preset, aim(case), case.seed))
        trajectory = self.inverted(case.subject, preset)
        shared = preset.intervals - preset.attacked + 1
        begun = self.begun(case.subject, job, shared)
        started = time.perf_counter()
        outcome = protect_portrait(models, job, trajectory=trajectory, begun=begun)
        return Made(
            eight_bit(outcome.protected.cpu()),
            eight_bit(outcome.edited.cpu()),
            time.perf_counter() - started,
            SOLVERS[preset.solver].evaluations(shared) + sum(outcome.evaluations.values()),
        )

    def without_flow(self, case: Case) -> Made:
        """Latent refinement of the finished edit at σ = 0: the default's refiner with no ODE step in between."""
        preset = seeded(PRESETS["default"], case.seed)
        base, models = case.base(), self.models
        points = case.subject.points[None]
        started = time.perf_counter()
        latent = models.stack.encode(base)
        grid = (latent.shape[-2], latent.shape[-1])
        refiner, window = assemble_refiner(
            preset,
            case.fold.ensemble,
            untargeted(),
            base,
            points,
            grid,
            pixels=models.stack.geometry.pixels,
            decode=models.stack.decode,
            source=latent,
            perceptual=models.perceptual,
        )
        refiner.identity = identity_term(
            case.fold.ensemble,
            untargeted(),
            case.subject.photo,
            AlignedViews(points).plain,
            goal=preset.goal,
        )
        result = protect_latent(latent, refiner, rounds=preset.attacked, window=window)
        with torch.no_grad():
            size = (base.shape[-2], base.shape[-1])
            plain, changed = (
                models.stack.decode(z, size).cpu() for z in (latent, result.protected)
            )
        picture = eight_bit(base + changed - plain)
        return Made(picture, base, time.perf_counter() - started)


def _face(subject: Subject) -> Face:
    height, width = subject.photo.shape[-2:]
    return Face((0, 0, width, height), subject.points, 1.0)


def _away(case: Case) -> Identity:
    return untargeted()


def _towards(case: Case) -> Identity:
    return photo(case.target.photo[0])


def _arm(
    editor: Editor,
    name: str,
    label: str,
    preset: Preset,
    aim: Aim = _away,
    change: Change = lambda job: job,
) -> Arm:
    return Arm(
        name, label, lambda case: editor.protected(case, preset, aim, change), settings=repr(preset)
    )


def flux_arms(models: Models) -> tuple[Editor, list[Arm]]:
    """Ours three times, the released loop, and latent refinement without flow."""
    editor = Editor(models)
    default, fast, paper = (PRESETS[name] for name in ("default", "fast", "paper"))
    arms = [
        _arm(editor, "default", "ours, away from the person", default),
        _arm(editor, "default-target", "ours, towards the target", default, _towards),
        _arm(editor, "fast", "ours, fast", fast),
        _arm(editor, "one-interval", "ours, last interval only", replace(default, attacked=1)),
        _arm(editor, "five-steps", "ours, five steps in all", _steps(default, 5)),
        _arm(editor, "four-looks", "ours, four steps with one view in all", _four_looks(fast)),
        _arm(editor, "released", "released loop, towards the target", paper, _towards),
        Arm("latent", "latent refinement without flow", editor.without_flow, repr(default)),
    ]
    return editor, arms


def _steps(preset: Preset, steps: int) -> Preset:
    """So many steps after the last interval alone, where the published loop takes fifty, to see what the time buys."""
    return replace(preset, attacked=1, refiner=replace(preset.refiner, steps=steps))


def _four_looks(preset: Preset) -> Preset:
    """A tenth of the published loop's evaluations, the last one to rank: four steps, twice as long, one view each."""
    short = replace(_steps(preset, 4), random_views=0)
    return replace(short, refiner=replace(short.refiner, learning_rate=0.1))


def ablations(editor: Editor) -> list[Arm]:
    """The default with one part out or as released."""
    ours = PRESETS["default"]
    refiner = ours.refiner
    plain_weight = AdaptiveWeight(low=1.0, high=1.0)
    table: list[tuple[str, str, Preset]] = [
        ("weight-off", "adaptive weight off", replace(ours, refiner=replace(refiner, weight=plain_weight))),
        ("injection-off", "attention-V injection off", replace(ours, injected=0)),
        ("order-released", "velocities in the released order", replace(ours, order="released")),
        ("latent-estimate", "noisy latent decoded, not the x0 estimate", replace(ours, refiner=replace(refiner, estimate="latent"))),
        ("whole-frame", "whole frame seen and changed, not the aligned face", replace(ours, aligned=False, face_only=False)),
        ("views-off", "random views off", replace(ours, random_views=0)),
        ("detail-off", "residual output off", replace(ours, detail=False)),
        ("likeness-off", "likeness term off", replace(ours, refiner=replace(refiner, perceptual_weight=0.0))),
    ]  # fmt: skip
    arms = [_arm(editor, name, label, preset) for name, label, preset in table]

    def unfused(job: Job) -> Job:
        return replace(job, mask=torch.ones_like(job.mask))

    # The published rule would read the mask's coverage, so its answer is fixed.
    whole = replace(ours, injected=5)
    return [*arms, _arm(editor, "fusion-off", "velocity fusion off", whole, _away, unfused)]

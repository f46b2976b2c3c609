"""From the AttGAN's checkpoint to its shipped file: rounded, measured on held-out people, described."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fluxguard_core.defences.attgan_files import load_attgan, save_attgan
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun
from fluxguard_core.defences.attribute_edit import AttributeEditor
from fluxguard_core.defences.attributes import Mode
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.attribute_labels import ATTRIBUTES, labels_of
from fluxguard_core.mini.attributes import FRAME, NAME, drawn_judge, drawn_reader
from fluxguard_core.mini.faces import load_ensemble, parse_face
from fluxguard_core.mini.people import HELD_OUT_WORLD
from fluxguard_core.mini.portrait_spec import PortraitSpec
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.pipelines.attributes import (
    AttributeModels,
    AttributeWishes,
    change_attributes,
)

from .attributes_train import PAIRS, SHAPE
from .cache import spec_of
from .handover import write_card


@dataclass(frozen=True)
class Outcome:
    """One edit of one person.

    Args:
        turned: the unseen classifier gives the wanted answer.
        own: the classifier that steered gives it.
        stayed: share of the other attributes with the unseen classifier's old answer.
        was, sure: how sure the unseen classifier is that it is there, before and after.
        matched: every recogniser still matches; held: every held-out one does.
    """

    person: int
    attribute: str
    wanted: float
    turned: bool
    own: bool
    stayed: float
    was: float
    sure: float
    matched: bool
    held: bool
    psnr: float
    ssim: float
    strength: float


def person(number: int) -> tuple[PortraitSpec, Tensor, Tensor]:
    """A held-out person at 128 pixels with the true five points."""
    spec = spec_of(HELD_OUT_WORLD, number, 0)
    images, _, points = render_batch([spec], 128)
    return spec, (images * 255).round() / 255, points[0]


def outcome(models: AttributeModels, number: int, attribute: str, mode: Mode) -> Outcome:
    """Flip or neutralise one attribute of one person; FluxGuardError where the rules forbid it."""
    _, picture, points = person(number)
    wishes = AttributeWishes(mode, names=(attribute,))
    changed = change_attributes(models, picture, points, wishes)
    own, *_, judge = changed.report.classifiers
    reading = next(r for r in judge.readings if r.name == attribute)
    others = judge.of(False)
    rows = changed.report.recognisers
    return Outcome(
        number,
        attribute,
        changed.wanted.targets[attribute],
        reading.done,
        next(r for r in own.readings if r.name == attribute).done,
        sum(r.done for r in others) / len(others),
        reading.before,
        reading.after,
        all(r.matches for r in rows),
        all(r.matches for r in rows if not r.consulted),
        changed.report.quality.psnr,
        changed.report.quality.ssim,
        changed.report.strengths[attribute],
    )


def measure(models: AttributeModels, people: int, mode: Mode, log: Path | None) -> list[Outcome]:
    """One attribute a person, in turn, of those that the rules allow."""
    done: list[Outcome] = []
    for number in range(people):
        name = ATTRIBUTES[number % len(ATTRIBUTES)]
        done.append(outcome(models, number, name, mode))
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"mode": mode, **asdict(done[-1])}) + "\n")
    return done


def accuracy(classify: AttributeModels, people: int) -> tuple[float, float]:
    """Share of right answers of the editor's classifier and of the judge, on people as they are."""
    from fluxguard_core.defences.attribute_edit import cut

    right = [0, 0]
    for number in range(people):
        spec, picture, points = person(number)
        truth = torch.tensor(labels_of(vars(spec.attributes)))
        with torch.no_grad():
            own = classify.editor.classify(cut(classify.editor, picture, points))[0] > 0.5
            judge = classify.judges[0].look(picture, points) > 0.5
        right[0] += int((own == truth).sum())
        right[1] += int((judge == truth).sum())
    total = people * len(ATTRIBUTES)
    return right[0] / total, right[1] / total


def kept_answers(outcomes: Sequence[Outcome]) -> float:
    """Share of people of whom the unseen classifier gives the answer that it gave before."""
    return sum((o.sure > 0.5) == (o.was > 0.5) for o in outcomes) / len(outcomes)


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """Rows of a Markdown table, one an attribute and one for all."""
    rows = [
        "| attribute | people | unseen turned | own turned | others stay | all match | held-out match | PSNR |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name in [*ATTRIBUTES, "all"]:
        chosen = [o for o in outcomes if name in (o.attribute, "all")]
        if not chosen:
            continue
        count = len(chosen)
        shares = [
            sum(o.turned for o in chosen) / count,
            sum(o.own for o in chosen) / count,
            sum(o.stayed for o in chosen) / count,
            sum(o.matched for o in chosen) / count,
            sum(o.held for o in chosen) / count,
        ]
        psnr = sum(min(o.psnr, 60.0) for o in chosen) / count
        rows.append(f"| {name} | {count} | {' | '.join(f'{s:.2f}' for s in shares)} | {psnr:.1f} |")
    return rows


def models_from(file: Path) -> AttributeModels:
    """The pipeline with a candidate file in the shipped one's place."""
    editor = AttributeEditor.of(NAME, load_attgan(file), frame=FRAME)
    return AttributeModels(
        editor,
        (drawn_judge(),),
        load_ensemble(held_out=["mobileface"]),
        parse_face,
        (drawn_reader(),),
    )


def _told(run: AttGANRun) -> str:
    """How it was trained."""
    made = f"{run.step} updates in {run.seconds / 60:.0f} minutes on one shared CPU core"
    earlier = f", after {run.before} of an earlier run" if run.before else ""
    return f"- Training: {made}{earlier}: the generator from answers, then the classifier alone"


def ship(checkpoint: Path, out: Path, people: int) -> Path:
    """Write the rounded file, its card, and a log of every measured edit."""
    run = AttGANRun.fresh(SHAPE, AttGANPlan(1))
    if not checkpoint.is_file():
        raise FluxGuardError(f"There is no checkpoint {checkpoint}; train the part attgan first.")
    run.load(checkpoint)
    steps = str(run.before + run.step)
    notes = {"world": "drawn", "licence": "Apache-2.0", "steps": steps}
    file = save_attgan(out / f"{NAME}.safetensors", run.generator, run.critic, SHAPE, notes)
    models = models_from(file)
    log = out / "attributes.jsonl"
    log.unlink(missing_ok=True)
    own, judge = accuracy(models, people)
    flips = measure(models, people, "flip", log)
    half = measure(models, max(1, people // 2), "neutralise", log)
    text = [
        f"# {NAME}",
        "",
        f"AttGAN of the miniature world: generator and classifier, 12 attributes at {SHAPE.size} pixels.",
        "",
        f"- File: {file.name}, float16 safetensors, {file.stat().st_size / 1e6:.2f} MB",
        f"- Shape: {SHAPE.layers} layers from {SHAPE.width} channels on, {SHAPE.shortcuts} shortcuts from the encoder to "
        f"the decoder and {SHAPE.injections} layers that are told the labels once more (the published network: 5 from "
        "64, 1 and 1)",
        f"- Data: {PAIRS} invented people drawn by the miniature's own renderer, each in two looks of one shot, "
        "small things that change alone most often; no photograph of anybody",
        _told(run),
        "- Loss: the distance of x + G(x, b) - G(x, a), and of its slopes, to the renderer's own answer, once more where "
        "the answer differs from the picture, and the distance of G(x, b) alone; no game, since every answer is known",
        f"- Right answers on {people} held-out people: its classifier {own:.3f}, the unseen judge {judge:.3f}",
        "- One attribute flipped for each of them, the recognisers' match kept; the strength was looked for with its "
        "classifier and fluxguard-mini-attributes, fluxguard-mini-judge only judged:",
        "",
        *table(flips),
        "",
        f"- One attribute neutralised for {len(half)} of them: the judge still gives the old answer for "
        f"{kept_answers(half):.2f} of them, and is 40 to 60 % sure of one for {sum(o.turned for o in half) / len(half):.2f}",
        "- Limits: It knows the renderer's portraits and pictures edited from them, nothing else: it is a stand-in for "
        "tests and demonstrations and says nothing about real faces.",
        "- Licence: Apache-2.0",
    ]
    write_card(file, text, "attributes")
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m training.mini.attributes_ship CHECKPOINT -o DIR`."""
    parser = argparse.ArgumentParser(prog="python -m training.mini.attributes_ship")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("-o", "--out", type=Path, default=Path("out/mini"))
    parser.add_argument("--people", type=int, default=200)
    args = parser.parse_args(arguments)
    ship(args.checkpoint, args.out, args.people)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

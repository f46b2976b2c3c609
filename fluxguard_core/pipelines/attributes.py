"""Attribute privacy: change what a face reveals, keep or protect who it is, and measure both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..defences.attribute_edit import (
    STRONGEST,
    AttributeEditor,
    Classifier,
    Framed,
    cut,
    edited,
    framed,
    labels_between,
)
from ..defences.attribute_report import (
    AttributeReading,
    AttributeReport,
    ClassifierReport,
    MatcherReport,
)
from ..defences.attribute_strength import (
    TURNED,
    Strengths,
    agreed,
    find_strengths,
    reached,
)
from ..defences.attribute_words import words_of
from ..defences.attributes import (
    Mode,
    Wanted,
    flipped,
    given,
    most_revealing,
    neutralised,
    randomised,
    rivals,
)
from ..errors import FluxGuardError
from ..evaluate.quality import eight_bit, quality
from ..faces.alignment import align
from ..protect.engine import OnStep
from ..protect.photo import protect_pixels
from ..recognition.ensemble import Ensemble
from ..regions import FaceParser, feather, grow
from ..regions.shapes import EmptyMask, regions_mask

IDENTITIES = ("keep", "protect")


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier of attributes, asked before and after.

    Args:
        names: of the attributes it tells.
        look: (picture [1, 3, H, W], five points [5, 2]) -> how sure it is of each [n].
    """

    name: str
    names: tuple[str, ...]
    look: Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class AttributeModels:
    """What attribute privacy needs.

    Args:
        judges: classifiers that took no part in the editor's training, nor in the search.
        ensemble: its attacked members say during the search whether recognition still works, the others only
            judge; None leaves recognition unmeasured.
        parse_face: for masks by region; without one the whole frame of the face may change.
        readers: classifiers that are asked during the search beside the editor's own, which the editor was trained to
            please; so they judge nothing.
    """

    editor: AttributeEditor
    judges: tuple[Judge, ...] = ()
    ensemble: Ensemble | None = None
    parse_face: FaceParser | None = None
    readers: tuple[Judge, ...] = ()


@dataclass(frozen=True)
class AttributeWishes:
    """What is to happen.

    Args:
        names: for flip and neutralise.
        values: for set.
        count: for random and auto, how many at most.
        keep: names that random and auto leave alone.
        identity: keep, recognisers still match; protect, the same and then FluxGuard's protection.
        confidence: how sure the editor's classifier, and the readers with it, have to be of a new label.
        least: strength of a change at least, where recognition bears it: 1, as in training, for unseen classifiers turn
            later than the one that is asked; 0 for the smallest change that turns that one.
        margin: how far above its threshold a consulted recogniser has to stay.
        preset: of the protection.
    """

    mode: Mode
    names: tuple[str, ...] = ()
    values: Mapping[str, bool] = field(default_factory=dict)
    count: int = 2
    keep: tuple[str, ...] = ()
    identity: str = "keep"
    confidence: float = TURNED
    least: float = 1.0
    margin: float = 0.1
    preset: str = "default"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Changed:
    """A picture with other attributes, where it was changed, and what was measured."""

    picture: Tensor
    mask: Tensor
    wanted: Wanted
    report: AttributeReport


def change_attributes(
    models: AttributeModels,
    picture: Tensor,
    points: Tensor,
    wishes: AttributeWishes,
    *,
    on_step: OnStep | None = None,
) -> Changed:
    """Change what one face of a picture [1, 3, H, W] reveals, by its five points [5, 2].

    Raises:
        FluxGuardError: unknown or contradictory attributes, no recogniser to protect against.
    """
    if wishes.identity not in IDENTITIES:
        raise FluxGuardError(f"Expected the identity keep or protect, got '{wishes.identity}'.")
    if wishes.identity == "protect" and models.ensemble is None:
        raise FluxGuardError(
            "There is no recogniser to protect against.", "Give one with ‹give recogniser›."
        )
    search = _Search(models, picture, points, wishes)
    wanted, found = search.chosen()
    result = eight_bit(search.at(wanted.targets, found.values))
    mask = search.face(tuple(wanted.targets)).mask
    if wishes.identity == "protect":
        assert models.ensemble is not None
        done = protect_pixels(
            result, models.ensemble, points, wishes.preset, seed=wishes.seed, on_step=on_step
        )
        result, mask = done.picture, torch.maximum(mask, (done.region > 0).to(mask))
    return Changed(result, mask, wanted, _report(models, wishes, search, wanted, found, result))


class _Search:
    """One picture's attributes, and what becomes of them at given strengths."""

    def __init__(
        self, models: AttributeModels, picture: Tensor, points: Tensor, wishes: AttributeWishes
    ) -> None:
        self.models, self.picture, self.points, self.wishes = models, picture, points, wishes
        editor = models.editor
        self.names = editor.attributes
        self.before = self._sure(picture)
        self.labels = {name: float(sure > 0.5) for name, sure in self.before.items()}
        self._faces: dict[tuple[str, ...], Framed] = {}
        self._people = _embedded(models.ensemble, picture, points, consulted=True)

    def _sure(self, picture: Tensor) -> dict[str, float]:
        editor = self.models.editor
        with torch.no_grad():
            values = editor.classify(cut(editor, picture, self.points))[0]
            read = [(r.names, r.look(picture, self.points)) for r in self.models.readers]
        own = dict(zip(editor.attributes, values.tolist(), strict=True))
        return agreed([own, *(dict(zip(n, v.tolist(), strict=True)) for n, v in read)])

    def face(self, names: tuple[str, ...]) -> Framed:
        """The face with a mask for these attributes."""
        if names not in self._faces:
            mask = region_of(self.models.parse_face, self.picture, self.points, names)
            self._faces[names] = framed(self.models.editor, self.picture, self.points, mask)
        return self._faces[names]

    def at(self, targets: Mapping[str, float], strengths: Mapping[str, float]) -> Tensor:
        """The picture with the targets at these strengths; one without a strength stays as it is."""
        before = labels_between(self.labels, {}, {}, self.names)
        chosen = {name: strengths.get(name, 0.0) for name in targets}
        after = labels_between(self.labels, targets, chosen, self.names)
        return edited(self.models.editor, self.face(tuple(targets)), before, after)

    def matches(self, picture: Tensor) -> bool:
        """Whether every consulted recogniser still takes it for the same person."""
        ensemble = self.models.ensemble
        if ensemble is None:
            return True
        after = _embedded(ensemble, picture, self.points, consulted=True)
        for encoder, old, new in zip(ensemble.attacked, self._people, after, strict=True):
            if float(old @ new) <= encoder.threshold() + self.wishes.margin:
                return False
        return True

    def strengths(self, wanted: Wanted, held: Mapping[str, float]) -> Strengths:
        """The smallest strengths of the targets that are not held yet.

        What follows goes along with what it follows: brown hair that is blond as well is in no training.
        """
        targets, led = wanted.targets, wanted.led

        def together(values: Mapping[str, float]) -> dict[str, float]:
            follow = {name: values[leader] for name, leader in led.items() if leader in values}
            return {**values, **follow}

        def look(values: Mapping[str, float]) -> tuple[Mapping[str, float], bool]:
            picture = self.at(targets, together(values))
            return self._sure(picture), self.matches(picture)

        found = find_strengths(
            {name: value for name, value in targets.items() if name not in {*held, *led}},
            self.before,
            look,
            strongest=STRONGEST,
            confidence=self.wishes.confidence,
            held=held,
            least=self.wishes.least,
        )
        sure, _ = look(found.values)
        sureness = self.wishes.confidence
        gone = {n: reached(sure[n], targets[n], sureness) for n in led if n not in held}
        return Strengths(together(found.values), {**found.turned, **gone}, found.matched)

    def chosen(self) -> tuple[Wanted, Strengths]:
        """What the wishes come to, and how strongly."""
        wishes, seen = self.wishes, self.before
        if wishes.mode == "auto":
            return self._most_revealing()
        if wishes.mode == "random":
            wanted = randomised(wishes.count, seen, keep=wishes.keep, seed=wishes.seed)
        elif wishes.mode == "set":
            wanted = given(wishes.values, seen)
        else:
            _some(wishes.names)
            wanted = (flipped if wishes.mode == "flip" else neutralised)(wishes.names, seen)
        return wanted, self.strengths(wanted, {})

    def _most_revealing(self) -> tuple[Wanted, Strengths]:
        """One attribute after another, the surest first, until recognition would suffer."""
        wanted, found = Wanted({}, ()), Strengths({}, {}, True)
        for name in most_revealing(self.before, self.wishes.keep):
            if len(wanted.asked) == self.wishes.count:
                break
            more = flipped([name], self.before).targets
            if set(more) & {*wanted.targets, *_excluded(wanted), *self.wishes.keep}:
                continue
            both = Wanted({**wanted.targets, **more}, (*wanted.asked, name))
            tried = self.strengths(both, found.values)
            if not tried.matched or not all(tried.turned.values()):
                break
            turned = {**found.turned, **tried.turned}
            wanted = both
            found = Strengths(tried.values, turned, True)
        if not wanted.targets:
            raise FluxGuardError(
                "No attribute could be turned while the recognisers still match.",
                "Choose attributes yourself, or protect the identity instead of keeping it.",
            )
        return wanted, found


def _excluded(wanted: Wanted) -> set[str]:
    """What cannot be seen together with one of the wishes."""
    put_on = [name for name in wanted.asked if wanted.targets[name] == 1]
    return {other for name in put_on for other in rivals(name)}


def _some(names: Sequence[str]) -> None:
    if not names:
        raise FluxGuardError("No attribute was named.", "Name one with ‹give attribute›.")


@torch.no_grad()
def region_of(
    parser: FaceParser | None, picture: Tensor, points: Tensor, names: Sequence[str]
) -> Tensor | None:
    """Where attributes lie in a picture [1, 3, H, W], softly [1, 1, H, W]; None where nobody can say."""
    if parser is None:
        return None
    regions = tuple(dict.fromkeys(r for name in names for r in words_of(name).regions))
    try:
        found = regions_mask(regions, parser(picture[0]), points.to(picture))
    except EmptyMask:
        return None
    width = float((points[1] - points[0]).norm())
    mask = found.float()[None, None].to(picture)
    return feather(grow(mask, 0.08 * width), 0.15 * width)


@torch.no_grad()
def _embedded(
    ensemble: Ensemble | None, picture: Tensor, points: Tensor, *, consulted: bool
) -> list[Tensor]:
    if ensemble is None:
        return []
    members = ensemble.attacked if consulted else ensemble.members
    return [e(align(picture, points[None].to(picture), e.crop))[0] for e in members]


def _report(
    models: AttributeModels,
    wishes: AttributeWishes,
    search: _Search,
    wanted: Wanted,
    found: Strengths,
    result: Tensor,
) -> AttributeReport:
    stuck = [name for name, turned in found.turned.items() if not turned]
    notes = [f"Not turned, as far as it could go: {', '.join(stuck)}."] if stuck else []
    own = judge_of(models.editor.name, models.editor, models.editor.classify)
    return measured(
        (search.picture, result),
        search.points,
        wanted,
        (
            *((steering, True) for steering in (own, *models.readers)),
            *((judge, False) for judge in models.judges),
        ),
        models.ensemble,
        strengths=found.values,
        identity=wishes.identity,
        notes=notes,
    )


@torch.no_grad()
def measured(
    sides: tuple[Tensor, Tensor],
    points: Tensor,
    wanted: Wanted,
    classifiers: Sequence[tuple[Judge, bool]],
    ensemble: Ensemble | None,
    *,
    strengths: Mapping[str, float],
    identity: str,
    notes: Sequence[str] = (),
) -> AttributeReport:
    """What classifiers (with whether the change was steered by them) and recognisers say of both pictures."""
    reports = []
    for judge, steered in classifiers:
        before, after = (
            dict(zip(judge.names, judge.look(picture, points).tolist(), strict=True))
            for picture in sides
        )
        readings = (
            AttributeReading(key, before[key], after[key], wanted.targets.get(key))
            for key in before
        )
        reports.append(ClassifierReport(judge.name, steered, tuple(readings)))
    told = list(notes)
    if all(steered for _, steered in classifiers):
        told.append("No unseen classifier was asked: what others read was not measured.")
    if ensemble is None:
        told.append("No recogniser was asked: whether recognition still works was not measured.")
    return AttributeReport(
        dict(wanted.targets),
        dict(strengths),
        identity,
        tuple(reports),
        _matchers(ensemble, sides, points),
        quality(sides[1], sides[0]),
        tuple(told),
    )


def _matchers(
    ensemble: Ensemble | None, sides: tuple[Tensor, Tensor], points: Tensor
) -> tuple[MatcherReport, ...]:
    if ensemble is None:
        return ()
    before, after = (_embedded(ensemble, picture, points, consulted=False) for picture in sides)
    return tuple(
        MatcherReport(
            encoder.name,
            encoder in ensemble.attacked,
            float(old @ new),
            encoder.threshold() if encoder.thresholds else None,
        )
        for encoder, old, new in zip(ensemble.members, before, after, strict=True)
    )


def judge_of(name: str, editor: AttributeEditor, classify: Classifier) -> Judge:
    """A judge that looks at faces framed as an editor of the same names does."""
    judging = replace(editor, name=name, classify=classify)

    def look(picture: Tensor, points: Tensor) -> Tensor:
        out: Tensor = classify(cut(judging, picture, points))[0]
        return out

    return Judge(name, editor.attributes, look)

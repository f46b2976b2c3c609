"""The adaptive weight, gradients, the refiner's modes, shared branches and interruption."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.errors import FluxGuardError, Interrupted
from fluxguard_core.faces.alignment import align
from fluxguard_core.flow import (
    Counted,
    Moved,
    State,
    Trajectory,
    advance,
    flux_schedule,
    generate,
    invert,
)
from fluxguard_core.protect.engine import Draw, Step
from fluxguard_core.protect.goals import Goal
from fluxguard_core.protect.gradients import differentiable, gradients
from fluxguard_core.protect.identity import IdentityTerm, identity_term, similarities
from fluxguard_core.protect.perceptual import VGG19Features, feature_distance, lpips_distance
from fluxguard_core.protect.refiner import Branches, Refiner, RefinerSettings
from fluxguard_core.protect.region import Window, face_region, window_around
from fluxguard_core.protect.run import edit_and_protect, protect_latent
from fluxguard_core.protect.views import AlignedViews, View, jpeg, whole_frame_views
from fluxguard_core.protect.weight import AdaptiveWeight
from fluxguard_core.recognition.identity import Identity, synthetic, untargeted

from .golden import relative_error
from .tiny import landmarks, noise, tiny_encoder, tiny_ensemble, tiny_stack, tiny_taesd

STEPS = 6


def decode(latent: Tensor) -> Tensor:
    return tiny_stack().decode_tiny(latent)


def term(identity: Identity, picture: Tensor, margin: float = 0.05) -> IdentityTerm:
    views = AlignedViews(landmarks())
    return identity_term(tiny_ensemble(), identity, picture, views.plain, goal=Goal(margin=margin))


def refiner(identity: Identity, picture: Tensor, **settings: object) -> Refiner:
    chosen = RefinerSettings(**settings)  # type: ignore[arg-type]
    return Refiner(
        decode,
        term(identity, picture),
        feature_distance(lambda x: x),
        AlignedViews(landmarks(), random=1),
        chosen,
    )


def seen(*views: View) -> Draw:
    return Draw(views, torch.Generator())


def branches(latent: Tensor, sigma: float = 0.0) -> Branches:
    still = torch.zeros_like(latent)
    return Branches(latent, latent, still, still, sigma, 0)


@pytest.mark.parametrize("distance", [0.0, 0.1, 0.3, 0.31, 0.5, 2.0])
def test_adaptive_weight_is_the_formula(distance: float) -> None:
    expected = 0.05 + 0.95 / (1 + math.exp(20 * (distance - 0.3)))
    assert float(AdaptiveWeight().of(torch.tensor([distance]))) == pytest.approx(expected, rel=1e-5)


def test_gradient_through_decoder_alignment_and_encoder() -> None:
    encoder = tiny_encoder(11)
    decoder = tiny_taesd().double()
    try:
        latent, direction = noise(1, 16, 8, 8).double(), noise(1, 16, 8, 8, seed=3).double()
        reference = torch.randn(24, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        network = encoder.network.double()

        def similarity(z: Tensor) -> Tensor:
            picture = decoder.decode(z, return_dict=False)[0] / 2 + 0.5
            face = align(picture, landmarks().double(), 112).double()
            return torch.cosine_similarity(network(face * 2 - 1), reference[None]).sum()

        latent.requires_grad_(True)
        (gradient,) = torch.autograd.grad(similarity(latent), latent)
        h = 1e-4
        with torch.no_grad():
            ahead = similarity(latent + h * direction)
            behind = similarity(latent - h * direction)
        difference = (ahead - behind) / (2 * h)
        assert float((gradient * direction).sum()) == pytest.approx(float(difference), rel=2e-2)
    finally:
        tiny_taesd().float()


def test_inference_mode_callers_get_the_same_result() -> None:
    latent = noise(1, 16, 8, 8)
    outside = refiner(synthetic(1), decode(latent), steps=3)(branches(latent)).latent
    with torch.inference_mode():
        inference = noise(1, 16, 8, 8)
        inside = refiner(synthetic(1), decode(inference), steps=3)(branches(inference)).latent
    assert torch.equal(outside, inside)


def test_weights_loaded_in_inference_mode_are_copied_not_converted() -> None:
    with torch.inference_mode():
        loaded = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()
    private = differentiable(loaded)
    assert private is not loaded and loaded[0].weight.is_inference()
    assert torch.equal(private[0].weight, loaded[0].weight)
    with gradients():
        x = torch.ones(2, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(private(x).square().sum(), x)
    assert gradient.abs().sum() > 0
    normal = torch.nn.Linear(2, 2)
    assert differentiable(normal) is normal


def test_untargeted_leaves_the_source_within_one_interval() -> None:
    latent = noise(1, 16, 8, 8)
    work = refiner(
        untargeted(), decode(latent), steps=20, learning_rate=0.05, keep_best=True, jitter=0.02
    )
    result = work(branches(latent))
    before = similarities(result.descent.log[0], "source")
    read = work.identity(decode(result.latent), seen(AlignedViews(landmarks()).plain))
    after = {name: float(read.figures[f"source {name}"]) for name in before}
    assert all(after[name] < 0.9 and after[name] < before[name] - 0.05 for name in before)


def test_without_jitter_the_untargeted_gradient_vanishes() -> None:
    latent = noise(1, 16, 8, 8)

    def gradient(shift: float) -> float:
        goal = term(untargeted(), decode(latent))
        z = (latent + shift * noise(1, 16, 8, 8, seed=9)).requires_grad_(True)
        loss = goal(decode(z), seen(AlignedViews(landmarks()).plain)).loss.sum()
        return float(torch.autograd.grad(loss, z)[0].norm())

    assert gradient(0.0) < 1e-3 * gradient(0.02)


def test_a_synthetic_identity_is_approached_and_the_source_left() -> None:
    latent = noise(1, 16, 8, 8)
    work = refiner(synthetic(7), decode(latent), steps=20, learning_rate=0.05)
    log = work(branches(latent)).descent.log
    first, last = (similarities(entry, "target") for entry in (log[0], log[-1]))
    assert len(first) == 2 and all(last[name] > first[name] + 0.05 for name in first)
    first, last = (similarities(entry, "source") for entry in (log[0], log[-1]))
    assert len(first) == 2 and all(last[name] < first[name] for name in first)


def test_held_out_recognisers_never_run() -> None:
    latent = noise(1, 16, 8, 8)
    work = refiner(synthetic(1), decode(latent), steps=2)
    calls: list[str] = []
    for encoder in work.identity.ensemble.members:
        encoder.network.register_forward_hook(
            lambda *_, name=encoder.name: calls.append(name)  # type: ignore[misc]
        )
    work(branches(latent))
    assert set(calls) == {"tiny11", "tiny12"}


def test_a_recogniser_runs_once_a_step_and_once_for_the_source() -> None:
    """All views and pictures of a step are one batch; the person shown is embedded once and remembered."""
    latent, shapes = noise(2, 16, 8, 8), []
    ensemble, views = tiny_ensemble(), AlignedViews(landmarks(), random=2)
    ensemble.attacked[0].network.register_forward_hook(
        lambda _, given, out: shapes.append(tuple(given[0].shape))
    )
    picture = decode(latent).detach()
    pair, single = (2, 3, 112, 112), (1, 3, 112, 112)
    for identity, expected in ((untargeted(), [pair]), (synthetic(1), 2 * [single])):
        for embedded in (expected, []):
            goal = identity_term(ensemble, identity, picture, views.plain)
            assert shapes == embedded
            shapes.clear()
    goal(picture, seen(*views(torch.Generator().manual_seed(0))))
    assert shapes == [(6, 3, 112, 112)]


def test_several_faces_of_a_picture_count_alike() -> None:
    """The loss is the mean over faces, and the goal is met only when every face meets it."""
    picture = decode(noise(2, 16, 8, 8)).detach()
    apart = torch.cat([landmarks() * 0.8, landmarks() * 0.8 + 12])
    both = apart.repeat_interleave(2, 0)  # face by face, each for both pictures
    moved = (picture + 0.2 * noise(2, 3, 64, 64, seed=5)).clamp(0, 1)
    scores = []
    for points in (both, apart[:1], apart[1:]):
        views = AlignedViews(points, random=0)
        goal = identity_term(tiny_ensemble(), untargeted(), picture, views.plain)
        scores.append(goal(moved, seen(*views(torch.Generator()))))
    together, one, other = scores
    torch.testing.assert_close(together.loss, (one.loss + other.loss) / 2)
    similar = [torch.stack(list(reading.figures.values())) for reading in scores]
    torch.testing.assert_close(similar[0], torch.cat(similar[1:], 1))
    limit = similar[0].amax(0).view(2, 2)  # face, picture
    near, far = limit.amin(0), limit.amax(0)
    goal = identity_term(tiny_ensemble(), untargeted(), picture, AlignedViews(both).plain)
    for threshold, expected in ((far.max() + 1e-3, True), ((near + far).min() / 2, False)):
        lenient = replace(goal, goal=Goal(margin=0.5 - float(threshold)))
        met = lenient(moved, seen(AlignedViews(both).plain)).met
        assert met is not None and bool(met.all()) is expected


def test_the_region_bounds_the_change_and_so_does_the_limit() -> None:
    latent = noise(1, 16, 8, 8)
    work = refiner(synthetic(1), decode(latent), steps=5, jitter=0.02, max_change=0.03)
    work.region = torch.zeros(1, 1, 8, 8)
    work.region[..., 2:6, 2:6] = 1
    change = (work(branches(latent)).latent - latent).abs()
    assert change[..., :2, :].max() == 0 and change[..., 2:6, 2:6].max() > 0.02
    assert change.max() <= 0.03 + 1e-6


def test_same_seed_same_result() -> None:
    latent = noise(1, 16, 8, 8)

    def run(seed: int) -> Tensor:
        settings = {"steps": 3, "jitter": 0.02, "seed": seed}
        return refiner(untargeted(), decode(latent), **settings)(branches(latent)).latent

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))


def test_moments_are_kept_only_when_asked() -> None:
    latent = noise(1, 16, 8, 8)

    def second_interval(keep: bool) -> Tensor:
        work = refiner(synthetic(1), decode(latent), steps=2, keep_moments=keep)
        return work(branches(work(branches(latent)).latent)).latent

    assert not torch.equal(second_interval(True), second_interval(False))


@pytest.mark.parametrize("fails_at", [1, 4, 5])
def test_a_call_that_failed_leaves_no_trace(fails_at: int) -> None:
    """Out of memory in the first decodes or between two steps: tried again, it ends as if nothing had been."""
    latent, ends = noise(1, 16, 8, 8), []
    for failing in (False, True):
        settings = {"steps": 4, "jitter": 0.02, "keep_moments": True}
        work = refiner(untargeted(), decode(latent), **settings)
        first = work(branches(latent)).latent
        left = [None] * fails_at

        def narrow(z: Tensor, left: list[None] = left) -> Tensor:
            if len(left) == 1:
                left.clear()
                raise torch.OutOfMemoryError("CUDA out of memory.")
            if left:
                left.pop()
            return decode(z)

        if failing:
            work.decode = narrow
            with pytest.raises(torch.OutOfMemoryError):
                work(branches(first))
            assert not left
        ends.append(work(branches(first)).latent)
    assert torch.equal(*ends)


def test_x0_estimate_decodes_the_clean_picture() -> None:
    latent, velocity = noise(1, 16, 8, 8), noise(1, 16, 8, 8, seed=2)
    decoded: list[Tensor] = []

    def watching(z: Tensor) -> Tensor:
        decoded.append(z.detach().clone())
        return decode(z)

    work = refiner(synthetic(1), decode(latent), steps=1, estimate="x0")
    work.decode = watching
    noisy = latent + 0.3 * velocity
    work(Branches(noisy, noisy, velocity, velocity, 0.3, 0))
    assert all(torch.allclose(z, latent, atol=1e-6) for z in decoded)


def test_a_hopeful_tiny_decoder_is_replaced_by_the_full_one() -> None:
    latent = noise(1, 16, 8, 8)
    source = decode(latent)
    work = refiner(untargeted(), source, steps=2, keep_best=True)
    goal = {"steps": 30, "learning_rate": 0.05, "keep_best": True, "jitter": 0.02}
    protected = refiner(untargeted(), source, **goal)(branches(latent)).latent
    hopeful = decode(protected).detach()
    work.decode = lambda z: hopeful + 0 * decode(z)
    work.check = lambda z: source + 0 * decode(z)
    cheap = work.decode
    met = work.identity(hopeful, seen(AlignedViews(landmarks()).plain)).met
    assert met is not None and met.all()
    work(branches(latent))
    assert work.decode is work.check and work.decode is not cheap


def trajectory_of(latent: Tensor, solver: str = "midpoint") -> Trajectory:
    field = tiny_stack().field("a plain face", 1.0)
    return invert(field, latent, flux_schedule(STEPS, 16), solver=solver, value_intervals=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(("solver", "expected"), [("midpoint", 2 * 4 + 2 * 2 * 2), ("fireflow", 9)])
def test_branches_share_the_work_before_the_attack(solver: str, expected: int) -> None:
    latent = noise(1, 16, 8, 8)
    trajectory = trajectory_of(latent, solver)
    field = Counted(tiny_stack().field("a red face", 5.5))
    work = refiner(synthetic(1), decode(latent), steps=1)
    result = edit_and_protect(field, trajectory, [], work, attacked_intervals=3)
    assert field.evaluations == expected
    alone = generate(tiny_stack().field("a red face", 5.5), trajectory)
    assert relative_error(result.edited, alone) < 1e-5
    assert relative_error(result.protected, alone) > 1e-4
    assert {entry.interval for entry in result.log} == {3, 4, 5}


def test_an_edit_that_was_begun_goes_on() -> None:
    latent = noise(1, 16, 8, 8)
    trajectory = trajectory_of(latent)
    field = Counted(tiny_stack().field("a red face", 5.5))
    state = advance(field, trajectory, State(trajectory.terminal))
    begun = advance(field, trajectory, state)

    def run(start: Moved | None, attacked: int = 3) -> Tensor:
        work = refiner(synthetic(1), decode(latent), steps=1)
        return edit_and_protect(
            field, trajectory, [], work, attacked_intervals=attacked, begun=start
        ).protected

    counts = []
    results = []
    for start in (None, begun):
        before = field.evaluations
        results.append(run(start))
        counts.append(field.evaluations - before)
    assert torch.equal(*results) and counts[0] - counts[1] == 4
    with pytest.raises(FluxGuardError, match="begun up to interval 1"):
        run(begun, attacked=6)


def test_one_batch_and_one_after_the_other_agree() -> None:
    latent = noise(2, 16, 8, 8)
    trajectory = trajectory_of(latent)
    field = tiny_stack().field("a red face", 5.5)
    results = [
        edit_and_protect(
            field,
            trajectory,
            [],
            refiner(synthetic(1), decode(latent), steps=2),
            attacked_intervals=2,
            one_batch=one_batch,
        )
        for one_batch in (True, False)
    ]
    assert relative_error(results[0].protected, results[1].protected) < 1e-4
    assert relative_error(results[0].edited, results[1].edited) < 1e-5


def test_views_in_turn_say_the_same_and_keep_less() -> None:
    views, ensemble = AlignedViews(landmarks(), random=2), tiny_ensemble()
    picture = decode(noise(1, 16, 8, 8)).detach().requires_grad_()
    draw = Draw(views(torch.Generator().manual_seed(0)), torch.Generator())
    losses, slopes = [], []
    for one_batch in (True, False):
        goal = identity_term(ensemble, synthetic(1), picture, views.plain, one_batch=one_batch)
        losses.append(goal(picture, draw).loss)
        slopes += torch.autograd.grad(losses[-1].sum(), picture)
    assert relative_error(losses[1].detach(), losses[0].detach()) < 1e-5
    assert relative_error(slopes[1], slopes[0]) < 1e-4

    size = ensemble.attacked[0].size
    faces = torch.rand(3, 3, size, size, requires_grad=True)

    def kept(parts: int | None) -> int:
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (sizes.append(tensor.nbytes), tensor)[1], lambda tensor: tensor
        ):
            ensemble.embed_attacked(lambda crop: faces, parts=parts)
        return sum(sizes)

    # In turn nothing is kept but the faces themselves.
    assert kept(3) == len(ensemble.attacked) * faces.nbytes < kept(None)


def test_a_window_leaves_the_rest_of_the_latent_to_the_edit() -> None:
    latent = noise(1, 16, 12, 12)
    trajectory = trajectory_of(latent)
    window = Window(2, 10, 2, 10)
    work = refiner(synthetic(1), decode(window.crop(latent)), steps=2)
    work.region = torch.ones(1, 1, 8, 8)
    result = edit_and_protect(
        tiny_stack().field("a red face", 5.5),
        trajectory,
        [],
        work,
        window=window,
        region=work.region,
    )
    change = (result.protected - result.edited).abs().amax((0, 1))
    assert change[:2].max() == 0 and change[:, 10:].max() == 0 and change[2:10, 2:10].max() > 0


def test_a_window_leaves_out_pictures_of_a_batch() -> None:
    """A picture without a face: its latent is the edit's, or the given one, bit for bit."""
    latent = noise(3, 16, 12, 12)
    window = Window(2, 10, 2, 10, pictures=(0, 2))
    assert torch.equal(window.crop(latent), latent[[0, 2], :, 2:10, 2:10])

    def work() -> Refiner:
        made = refiner(synthetic(1), decode(window.crop(latent)), steps=2)
        made.region = torch.ones(1, 1, 8, 8)
        return made

    edit = edit_and_protect(
        tiny_stack().field("a red face", 5.5),
        trajectory_of(latent),
        [],
        work(),
        window=window,
        region=work().region,
    )
    still = protect_latent(latent, work(), rounds=2, window=window)
    for result in (edit, still):
        change = (result.protected - result.edited).abs().amax((1, 2, 3))
        assert change[1] == 0 and change[0] > 0 and change[2] > 0
    assert torch.equal(still.protected[1], latent[1])


@pytest.mark.parametrize("stop_at", [1, 4, 9])
def test_an_interrupt_keeps_the_best_so_far(stop_at: int) -> None:
    latent = noise(1, 16, 8, 8)
    told: list[Step] = []

    def stop(entry: Step, picture: Tensor) -> None:
        told.append(entry)
        if len(told) == stop_at:
            raise Interrupted("stopped")

    work = refiner(synthetic(1), decode(latent), steps=4, keep_best=True, estimate="x0")
    work.views, work.on_step = AlignedViews(landmarks(), random=0), stop
    result = edit_and_protect(
        tiny_stack().field("a red face", 5.5), trajectory_of(latent), [], work
    )
    assert result.interrupted and len(result.log) == stop_at
    here = [step for step in result.log if step.interval == result.log[-1].interval]
    best = min(here, key=lambda step: step.losses["identity"])

    @torch.no_grad()
    def missing(z: Tensor) -> float:
        return float(work.identity(decode(z), seen(AlignedViews(landmarks()).plain)).loss)

    assert missing(result.protected) == pytest.approx(best.losses["identity"], abs=1e-5)
    if stop_at == 1:  # nothing was tried yet
        assert torch.equal(result.protected, result.edited)
    else:
        assert best.step > 0 and missing(result.protected) < missing(result.edited) - 0.02


def test_protect_latent_needs_no_flow() -> None:
    latent = noise(2, 16, 8, 8)
    work = refiner(synthetic(3), decode(latent), steps=4, learning_rate=0.05)
    result = protect_latent(latent, work, rounds=3)
    assert torch.equal(result.edited, latent) and len(result.log) == 12
    first, last = (similarities(result.log[i], "target") for i in (0, -1))
    assert len(first) == 2 and all(last[name] > first[name] for name in first)


def test_nan_in_a_recogniser_is_named() -> None:
    latent = noise(1, 16, 8, 8)
    work = refiner(synthetic(1), decode(latent), steps=2)
    with torch.no_grad():
        next(work.identity.ensemble.attacked[0].network.parameters()).fill_(float("nan"))
    with pytest.raises(FluxGuardError, match="NaN or infinite"):
        work(branches(latent))


def test_random_views_differ_but_follow_their_seed() -> None:
    views = AlignedViews(landmarks(), random=3)
    picture = noise(1, 3, 64, 64).sigmoid()

    def faces(seed: int) -> Tensor:
        drawn: Sequence[View] = views(torch.Generator().manual_seed(seed))
        return torch.stack([view(picture, 112) for view in drawn])

    assert torch.equal(faces(1), faces(1))
    assert torch.equal(faces(1)[0], faces(2)[0]) and not torch.equal(faces(1)[1:], faces(2)[1:])


def test_jpeg_is_differentiable_and_degrades() -> None:
    picture = noise(1, 3, 64, 64).sigmoid().requires_grad_(True)
    result = jpeg(picture, 50)
    (gradient,) = torch.autograd.grad(result.sum(), picture)
    assert gradient.abs().sum() > 0 and 0.01 < float((result - picture).detach().abs().mean()) < 0.2
    assert whole_frame_views(torch.Generator())[0](picture, 32).shape == (1, 3, 32, 32)


def test_face_region_covers_the_face_and_fades() -> None:
    region = face_region(landmarks(128), 16, 16, 8)
    assert region[0, 0, 8, 8] == 1 and region[0, 0, 0].max() == 0
    assert ((region > 0) & (region < 1)).sum() > 10
    window = window_around(region)
    assert window.top % 2 == 0 and (region > 0).sum() == (window.crop(region) > 0).sum()
    moved = window.shift(landmarks(128), 8)
    assert torch.allclose(moved + 8 * torch.tensor([window.left, window.top]), landmarks(128))


def test_vgg_features_have_the_published_shape() -> None:
    network = VGG19Features().eval()
    keys = [
        f"features.{i}.{leaf}" for i in (0, 2, 5, 7, 10, 12, 14, 16) for leaf in ("weight", "bias")
    ]
    assert list(network.state_dict()) == keys
    assert network(torch.rand(1, 3, 32, 32)).shape == (1, 256, 8, 8)


def test_lpips_without_its_packages_names_the_alternative(tmp_path: Path) -> None:
    if find_spec("lpips") and find_spec("torchvision"):
        pytest.skip("lpips and torchvision are here; the next test uses them")
    with pytest.raises(FluxGuardError, match="VGG19 distance"):
        lpips_distance(tmp_path / "alexnet.safetensors")


def test_lpips_uses_a_local_backbone(tmp_path: Path) -> None:
    if not (find_spec("lpips") and find_spec("torchvision")):
        pytest.skip("needs lpips and torchvision, which the host's environment has")
    from torchvision.models import alexnet

    path = tmp_path / "alexnet.safetensors"
    torch.manual_seed(0)
    save_file(alexnet(weights=None).state_dict(), path)
    picture, other = noise(1, 3, 64, 64).sigmoid(), noise(1, 3, 64, 64, seed=1).sigmoid()
    against = lpips_distance(path)(picture)
    assert float(against(picture)) == pytest.approx(0, abs=1e-6)
    assert float(against(other)) > 1e-4
    save_file({"features.0.weight": torch.zeros(1)}, path)
    with pytest.raises(FluxGuardError, match=r"features\.0\.weight"):
        lpips_distance(path)

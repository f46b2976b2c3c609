"""A photo without an edit: within its budget at any size, where it may, and felt by recognisers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxguard_core.errors import FluxGuardError, Interrupted
from fluxguard_core.evaluate.likeness import face_view, likeness
from fluxguard_core.protect.changes import LatentChange, PixelChange, Together, without_coarse
from fluxguard_core.protect.engine import Draw
from fluxguard_core.protect.optimisers import LengthMomentum
from fluxguard_core.protect.photo import Autoencoder, protect_pixels
from fluxguard_core.protect.photo_views import PhotoViews
from fluxguard_core.protect.presets import PHOTO_PRESETS, photo_preset_named
from fluxguard_core.protect.strangers import scale_of, stranger_term
from fluxguard_core.protect.visibility import Visibility, VisibilityBudget
from fluxguard_core.recognition.encoder import Strangers
from fluxguard_core.recognition.ensemble import Ensemble
from fluxguard_core.regions.morphology import gaussian_blur

from .tiny import landmarks, noise, tiny_encoder, tiny_ensemble, tiny_taesd

QUICK = replace(PHOTO_PRESETS["default"], steps=6)


def photo(size: int = 96, height: int | None = None) -> Tensor:
    """A picture with smooth and textured parts, on the grid of 1/255."""
    coarse = F.interpolate(noise(1, 3, 6, 6), (height or size, size), mode="bicubic")
    fine = noise(1, 3, height or size, size) * torch.linspace(0, 0.2, size)
    return ((0.5 + 0.12 * coarse + fine).clamp(0, 1) * 255).round() / 255


@pytest.mark.parametrize("size", [64, 96, 480])
@pytest.mark.parametrize("name", ["default", "gentle", "strong"])
def test_the_result_keeps_the_budget(size: int, name: str) -> None:
    source, points = photo(size), landmarks(size)
    preset = replace(PHOTO_PRESETS[name], steps=6)
    done = protect_pixels(source, tiny_ensemble(), points, preset)
    assert done.picture.shape == source.shape
    assert torch.equal((done.picture * 255).round() / 255, done.picture)
    figures = likeness(source, done.picture, points)
    # A large face is worked on smaller, and enlarging adds a little.
    room = 1.0 if size < 480 else 1.15
    assert figures.psnr >= preset.budget.psnr - (room - 1) * 8
    assert 1 - figures.haarpsi <= room * (1 - preset.budget.haarpsi) + 1e-3
    assert figures.shift <= room * preset.budget.shift + 0.3
    assert figures.skin <= room * preset.budget.skin + 0.3
    assert (done.picture - source).abs().max() >= 2 / 255


@pytest.mark.parametrize("size", [96, 480])
def test_a_descent_that_begins_at_a_changed_photo_is_ahead(size: int) -> None:
    """What six steps have changed is where the first of two more begins, a large face's at its working size too."""
    source, points, ensemble = photo(size), landmarks(size), tiny_ensemble()
    earlier = protect_pixels(source, ensemble, points, QUICK)
    few = replace(QUICK, steps=2)
    cold = protect_pixels(source, ensemble, points, few)
    warm = protect_pixels(source, ensemble, points, few, warm=earlier.picture)
    assert warm.log[0].losses["identity"] < cold.log[0].losses["identity"]
    figures = likeness(source, warm.picture, points)
    assert figures.psnr >= few.budget.psnr - 1.2


def test_recognisers_feel_it_and_only_the_attacked_are_asked() -> None:
    source, points = photo(), landmarks(96)
    ensemble = tiny_ensemble()
    judge = ensemble.held_out[0]

    def never(*_: object) -> None:
        raise AssertionError("the held-out recogniser was asked")

    handle = judge.network.register_forward_pre_hook(never)
    done = protect_pixels(source, ensemble, points, QUICK)
    handle.remove()
    plain = PhotoViews(points).plain
    for encoder in ensemble.attacked:
        with torch.no_grad():
            before, after = (encoder(plain(x, encoder.crop)) for x in (source, done.picture))
        assert float((before * after).sum()) < 0.999
    assert len(done.log) == QUICK.steps
    assert done.log[-1].losses["identity"] < done.log[0].losses["identity"]


def test_outside_face_and_mask_nothing_changes() -> None:
    source, points = photo(), landmarks(96)
    mask = torch.zeros(1, 1, 96, 96)
    mask[..., :48] = 1
    done = protect_pixels(source, tiny_ensemble(), points, QUICK, mask=mask)
    changed = (done.picture != source).any(1, keepdim=True)
    assert changed.any() and not changed[done.region == 0].any() and not changed[..., 49:].any()
    with pytest.raises(FluxGuardError, match="no part of the face"):
        protect_pixels(source, tiny_ensemble(), points, QUICK, mask=torch.zeros_like(mask))


def test_a_grey_photo_stays_grey() -> None:
    grey = photo()[:, :1].expand(-1, 3, -1, -1)
    done = protect_pixels(grey, tiny_ensemble(), landmarks(96), QUICK).picture
    assert not torch.equal(done, grey) and torch.equal(done[:, 0], done[:, 2])


def test_an_autoencoder_joins_in_and_an_interrupt_keeps_what_there_is() -> None:
    tiny = tiny_taesd()
    autoencoder = Autoencoder(
        lambda x: tiny.encode(2 * x - 1).latents, lambda z: tiny.decode(z).sample / 2 + 0.5
    )
    source, points = photo(100, 90), landmarks(90)
    seen: list[int] = []

    def stop(step: object, picture: Tensor) -> None:
        seen.append(1)
        if len(seen) == 3:
            raise Interrupted("Stopped.")

    done = protect_pixels(
        source, tiny_ensemble(), points, QUICK, autoencoder=autoencoder, on_step=stop
    )
    assert done.interrupted and len(seen) == 3
    assert not torch.equal(done.picture, source)
    assert likeness(source, done.picture, points).haarpsi >= QUICK.budget.haarpsi - 1e-3


def test_every_change_is_nothing_at_nothing_and_has_no_coarse_part() -> None:
    source, points = photo(), landmarks(96)
    view = face_view(source, points)
    mask = torch.ones_like(view.face)
    tiny = tiny_taesd()
    latent = tiny.encode(2 * source[..., :96, :96] - 1).latents
    pixels = PixelChange(view, mask)
    decoded = LatentChange(latent, lambda z: tiny.decode(z).sample / 2 + 0.5, mask)
    both = Together([pixels, decoded])
    assert both.length == pixels.length + decoded.length
    for change in (pixels, decoded, both):
        assert change(torch.zeros(1, change.length)).abs().max() < 1e-6
    one = torch.cat([0.1 * noise(1, pixels.length), torch.zeros(1, decoded.length)], 1)
    assert torch.allclose(both(one), pixels(one[:, : pixels.length]), atol=1e-6)
    moved = torch.cat([one[:, : pixels.length], 0.1 * noise(1, decoded.length)], 1)
    # The pixels take back what the latent adds.
    kept = both.holding(moved, torch.zeros_like(source))
    assert torch.equal(kept[:, pixels.length :], moved[:, pixels.length :])
    left = decoded(moved[:, pixels.length :])
    assert torch.allclose(kept[:, : pixels.length].reshape(left.shape), -left, atol=1e-6)
    flat = torch.full((1, 3, 64, 64), 0.1)
    assert without_coarse(flat, 4).abs().max() < 1e-6


def test_a_correction_takes_single_places_down_and_leaves_the_rest() -> None:
    source, points = photo(), landmarks(96)
    view = face_view(source, points)
    visibility = Visibility(
        view, VisibilityBudget(psnr=20, haarpsi=0.5, shift=8, skin=50, spot=15, line=20)
    )
    change = 2 / 255 * noise(*source.shape)
    change[..., 40:56, 40:56] += 40 / 255
    after = visibility.corrected(change)
    assert 255 * float(view.shift(after).abs().max()) < 14 < 255 * float(view.shift(change).max())
    far = (slice(None), slice(None), slice(0, 16))
    assert torch.allclose(after[far], change[far], atol=1e-3)
    assert visibility.scale(1e-4 * change) == 1.0
    assert 0 < visibility.scale(change) < 1


def test_thin_lines_are_cut_off_where_nothing_hides_them() -> None:
    source, points = torch.full((1, 3, 96, 96), 0.5), landmarks(96)
    source[..., 60:, :] += 0.3 * noise(1, 3, 36, 96)
    source.clamp_(0, 1)
    view = face_view(source, points)
    visibility = Visibility(view, VisibilityBudget(psnr=20, haarpsi=0.5, skin=50, spot=50, line=2))
    line = torch.zeros_like(source)
    line[..., 30, :] = line[..., 80, :] = 12 / 255
    after = view.fine(visibility.corrected(line))
    before = view.fine(line)
    assert after[..., 30, 30:66].abs().max() < 4 / 255 < before[..., 30, :].max()
    assert float(after[..., 80, 30:66].abs().mean()) > 0.8 * float(before[..., 80, :].mean())


def test_a_step_has_as_much_of_every_band() -> None:
    source, points = photo(), landmarks(96)
    view = face_view(source, points)
    pixels = PixelChange(view, torch.ones_like(view.face))
    way = pixels.shaped(noise(1, pixels.length)).reshape(source.shape)
    sizes = []
    for sigma in (1.0, 2.0, 4.0):
        coarser = gaussian_blur(way, sigma * view.pixel)
        sizes.append(float((way - coarser).norm()))
        way = coarser
    assert max(sizes) < 2.5 * min(sizes)  # of white noise the finest band has most by far
    grey = PixelChange(view, torch.ones_like(view.face), chroma=0)
    planes = grey.shaped(noise(1, pixels.length)).reshape(source.shape)
    assert torch.allclose(planes[:, 0], planes[:, 1], atol=1e-5)


def test_a_recogniser_counts_in_its_own_units() -> None:
    encoder = replace(
        tiny_encoder(11),
        strangers=Strangers(0.64, 0.09, "made up"),
        mean_face=F.normalize(noise(24), dim=0),
    )
    scale = scale_of(encoder)
    assert float(scale.centre.norm()) == pytest.approx(0.8) and scale.mean == 0
    assert scale.spread == pytest.approx(0.25)
    plain = scale_of(tiny_encoder(11))
    assert float(plain.centre.abs().sum()) == 0
    source, points = photo(), landmarks(96)
    views = PhotoViews(points, 1)
    term = stranger_term(Ensemble((encoder,)), source, views.plain, beyond=2)
    generator = torch.Generator().manual_seed(0)
    reading = term(source, Draw([views.plain], generator))
    spreads = float(reading.figures["spreads tiny11"])
    assert 2.5 < spreads < 4.0  # cos 1 would be 4 units of 0.25; the mirrored half takes some
    assert float(reading.loss) == pytest.approx(spreads + 2, abs=1e-4)
    assert not bool(reading.met)


def test_steps_of_one_length_follow_the_gradient() -> None:
    rule = LengthMomentum(0.1, momentum=0.0, steps=2)
    at = torch.zeros(1, 4)
    slope = torch.tensor([[3.0, 4.0, 0.0, 0.0]])
    first = rule.step(at, slope)
    assert torch.allclose(first, -0.2 * slope / 5)  # 0.1 root mean square of four values
    second = rule.step(at, slope)
    assert torch.allclose(second, -0.1 * slope / 5)
    assert rule.step(at, slope).abs().max() < 1e-7
    rule.reset()
    assert torch.allclose(rule.step(at, slope), first)


def test_presets_by_name() -> None:
    gentle, default = photo_preset_named("gentle").budget, photo_preset_named("default").budget
    assert gentle.haarpsi >= 0.95 and gentle.shift <= 6
    assert (default.psnr, default.haarpsi, default.shift, default.skin) == (38, 0.92, 8, 2.5)
    with pytest.raises(FluxGuardError, match="default, gentle, strong"):
        photo_preset_named("paper")

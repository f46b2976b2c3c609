"""Devices that lack something: the same numbers by other operations, and none of the operations that they lack."""

from __future__ import annotations

import ast
import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import kornia.filters  # noqa: F401  (ahead of the recordings, for importing it computes)
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fluxguard_core import devices
from fluxguard_core.evaluate.transforms import SHARING
from fluxguard_core.faces.alignment import align
from fluxguard_core.protect.engine import Draw
from fluxguard_core.protect.gradients import gradients
from fluxguard_core.protect.identity import identity_term
from fluxguard_core.protect.photo import Autoencoder, protect_pixels
from fluxguard_core.protect.presets import PHOTO_PRESETS
from fluxguard_core.protect.views import AlignedViews, blurred, jpeg, noisy, shrunk
from fluxguard_core.recognition import untargeted
from fluxguard_core.resampling import bicubic, bilinear, means, shrink

from .golden import relative_error
from .tiny import landmarks, tiny_ensemble, tiny_taesd

TRIAL = Path(__file__).parents[2] / "nodes" / "host" / "sampler_trial.py"


@pytest.fixture
def a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU stands for a device that lacks everything that some device lacks."""
    monkeypatch.setitem(devices._TABLE, "cpu", devices.abilities("mps"))


class Ops(TorchDispatchMode):
    """Names of all operations, and the number formats that they made."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.formats: set[torch.dtype] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        self.formats |= {
            t.dtype for t in (made if isinstance(made, tuple) else (made,)) if isinstance(t, Tensor)
        }
        return made


def value_and_slopes(made: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(7)
    return (made, *torch.autograd.grad((made * torch.randn_like(made)).sum(), of))


def both(compute, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, ...]]:  # type: ignore[no-untyped-def]
    plain = compute()
    with monkeypatch.context() as patch:
        patch.setitem(devices._TABLE, "cpu", devices.abilities("mps"))
        return [plain, compute()]


def test_bilinear_reading_and_its_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 9, 13, requires_grad=True)
    grid = (torch.rand(2, 5, 7, 2) * 2.6 - 1.3).requires_grad_(True)  # some of it outside
    ours, theirs = both(lambda: value_and_slopes(bilinear(image, grid), image, grid), monkeypatch)
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [(5, 7), (9, 13), (8, 30), (1, 1)])
def test_antialiased_resizing_and_its_gradient(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(2, 3, 9, 13, requires_grad=True)
    plain = F.interpolate(image, size, mode="bilinear", antialias=True)
    ours, theirs = both(lambda: value_and_slopes(shrink(image, size), image), monkeypatch)
    assert torch.equal(plain, ours[0])
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [(5, 7), (9, 13), (3, 4), (1, 1)])
def test_means_over_windows_and_their_gradient(size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, 9, 13, requires_grad=True)
    ours = value_and_slopes(means(image, size), image)
    theirs = value_and_slopes(F.adaptive_avg_pool2d(image, size), image)
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("antialias", [True, False])
@pytest.mark.parametrize("size", [(5, 7), (9, 13), (8, 30), (1, 1), (40, 2)])
def test_bicubic_resizing_and_its_gradient(
    size: tuple[int, int], antialias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = torch.rand(2, 3, 9, 13, requires_grad=True)
    plain = F.interpolate(image, size, mode="bicubic", antialias=antialias)
    ours, theirs = both(
        lambda: value_and_slopes(bicubic(image, size, antialias=antialias), image), monkeypatch
    )
    assert torch.equal(plain, ours[0])
    assert all(relative_error(a, b) < 1e-5 for a, b in zip(ours, theirs, strict=True))


def test_a_large_picture_is_resized_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single precision would misplace the far end of 9000 pixels."""
    image = torch.rand(1, 1, 2, 9000)
    for resize in (shrink, bicubic):
        ours, theirs = both(lambda resize=resize: (resize(image, (2, 700)),), monkeypatch)
        assert float((ours[0] - theirs[0]).abs().max()) < 1e-4


LACKING = {
    *("grid_sampler_2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    "upsample_bicubic2d",
}


def lacked(names: set[str]) -> set[str]:
    return {name for name in names if name.removesuffix("_backward") in LACKING}


def test_resizing_that_devices_lack_stands_in_one_place() -> None:
    """Antialiased or bicubic resizing and grid reading: in resampling, or on pictures that never leave the CPU."""
    package = Path(devices.__file__).parent
    found = {path.relative_to(package).as_posix() for path in package.rglob("*.py") if asks(path)}
    assert found == {"resampling.py", "cli/bench_photo.py"}  # the benchmark draws its photo


def asks(path: Path) -> bool:
    """Whether a file calls PyTorch's own antialiased or bicubic resize, or its grid reading."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if node.func.attr == "grid_sample" or (
            node.func.attr == "interpolate"
            and (given.get("antialias", "False") != "False" or given.get("mode") == "'bicubic'")
        ):
            return True
    return False


def test_a_step_meets_nothing_that_a_mac_lacks(a_mac: None) -> None:
    """Every view, its recognisers and the way back; the same on a device that has all is not so."""
    names, formats = step()
    assert not lacked(names)
    assert torch.float64 not in formats and torch.float8_e4m3fn not in formats


@pytest.mark.parametrize("side", [96, 480])
def test_a_protected_photo_meets_nothing_that_a_mac_lacks(side: int, a_mac: None) -> None:
    """Its views, its budget, its change in pixels and in latents, brought down from a large face and back."""
    tiny = tiny_taesd()
    codec = Autoencoder(
        encode=lambda picture: tiny.encode(picture, return_dict=False)[0],
        decode=lambda latent: tiny.decode(latent, return_dict=False)[0],
        cell=8,
    )
    preset = replace(PHOTO_PRESETS["default"], steps=2)
    picture = (torch.rand(1, 3, side, side) * 255).round() / 255
    with Ops() as ops:
        done = protect_pixels(picture, tiny_ensemble(), landmarks(side), preset, autoencoder=codec)
    assert len(done.log) == 2 and not torch.equal(done.picture, picture)
    assert not lacked(ops.names) and "convolution_backward" in ops.names
    assert torch.float8_e4m3fn not in ops.formats


def test_sharing_checks_meet_nothing_that_a_mac_lacks(a_mac: None) -> None:
    with Ops() as ops:
        for transform in SHARING:
            transform(torch.rand(1, 3, 48, 48))
    assert not lacked(ops.names)


def test_elsewhere_the_step_takes_the_kernels() -> None:
    names, _ = step()
    assert {"grid_sampler_2d_backward", "_upsample_bilinear2d_aa_backward"} <= names


def step() -> tuple[set[str], set[torch.dtype]]:
    picture, points = torch.rand(1, 3, 64, 64), landmarks()
    term = identity_term(tiny_ensemble(), untargeted(), picture, AlignedViews(points).plain)
    sharing = [
        lambda p: shrunk(p, 0.5),
        lambda p: blurred(p, 0.7),
        lambda p: jpeg(p, 60),
        lambda p: noisy(p, 0.02, 3),
    ]
    views = [AlignedViews(points).plain]
    views += [lambda p, crop, share=share: align(share(p), points, crop) for share in sharing]
    with Ops() as ops, gradients():
        x = picture.clone().requires_grad_(True)
        loss = term(x, Draw(views, torch.Generator())).loss.sum()
        assert torch.autograd.grad(loss, x)[0].abs().sum() > 0
    return ops.names, ops.formats


def test_random_numbers_come_from_the_cpu_whatever_the_device() -> None:
    """Views drawn with one seed are the same on every device."""
    drawn = [
        AlignedViews(landmarks(), random=4)(torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    picture = torch.rand(1, 3, 64, 64)
    for one, other in zip(*drawn, strict=True):
        assert torch.equal(one(picture, 112), other(picture, 112))
    assert torch.Generator().device.type == "cpu"


def test_an_unknown_device_is_taken_to_lack_what_some_lack() -> None:
    assert devices.abilities("vulkan") == devices.abilities("mps")
    assert devices.abilities("cuda:1").asynchronous and not devices.abilities("xpu").float64


@pytest.mark.parametrize("kind", ["mps", "xpu", "cuda"])
def test_a_trial_of_a_sampler_shifts_no_random_state(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the CPU or of the device; the file knows nothing of the host, so it is loaded by itself."""
    spec = importlib.util.spec_from_file_location("trial", TRIAL)
    assert spec is not None and spec.loader is not None
    trial = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "trial", trial)
    spec.loader.exec_module(trial)
    state = [7]
    monkeypatch.setattr(getattr(torch, kind), "get_rng_state", lambda *_: state[0])
    monkeypatch.setattr(
        getattr(torch, kind), "set_rng_state", lambda s, *_: state.__setitem__(0, s)
    )
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), trial._random_states_kept(torch.device(kind)):
        torch.randn(3)
        state[0] += 1
        _ = 1 / 0
    assert torch.equal(torch.get_rng_state(), before) and state == [7]

"""`fluxguard mini train`: every generative part from its command, on a handful of people."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxguard_core.cli import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.cache import CachePlan, build_cache, open_cache
from fluxguard_core.mini.training import Recipe, TrainPlan, TrainState, train
from fluxguard_core.mini.world import weights_folder

PEOPLE = 4
WRITTEN = {
    "vae": ("vae/fluxguard-mini-vae.safetensors",),
    "vae-decoder": ("vae/fluxguard-mini-vae.safetensors",),
    "flux": (
        "diffusion_models/fluxguard-mini-flux.safetensors",
        "text_encoders/fluxguard-mini-text.safetensors",
    ),
    "lora": ("loras/fluxguard-mini-sepia.safetensors",),
}


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a few people, drawn by the command."""
    root = tmp_path_factory.mktemp("portraits")
    assert (
        main(["mini", "train", "renderer-cache", "--people", str(PEOPLE), "--cache", str(root)])
        == 0
    )
    return root


def command(part: str, root: Path, out: Path, *more: str) -> int:
    given = ["--people", str(PEOPLE), "--cache", str(root), "--out", str(out), "--batch", "4"]
    return main(["mini", "train", part, *given, *more])


def test_the_cache_holds_what_the_renderer_draws(portraits: Path) -> None:
    cache = open_cache(portraits, CachePlan(identities=PEOPLE))
    assert cache.images.shape == (8 * PEOPLE, 3, 128, 128)
    row = 8 * PEOPLE - 1
    assert cache.attributes_of(row) == cache.spec(row).attributes
    assert int(cache.images[row].max()) > 100


@pytest.mark.parametrize("part", WRITTEN)
def test_a_part_trains_and_goes_on_from_its_checkpoint(
    part: str, portraits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(part, portraits, tmp_path, "--steps", "2") == 0
    first = {name: load_file(tmp_path / Path(name).name) for name in WRITTEN[part]}
    assert command(part, portraits, tmp_path, "--steps", "4", "--resume") == 0
    log = (tmp_path / f"{part}.log").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ["done after 2 steps", "done after 4 steps"]
    for name, before in first.items():
        shipped, after = load_file(weights_folder() / name), load_file(tmp_path / Path(name).name)
        assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
            k: (v.shape, v.dtype) for k, v in shipped.items()
        }
        assert any(not torch.equal(before[k], after[k]) for k in before)


def test_a_stopped_run_ends_like_one_that_never_stopped(tmp_path: Path) -> None:
    def run(out: Path, stop_at: int | None, resume: bool = False) -> Tensor:
        torch.manual_seed(5)

        def loss(state: TrainState, progress: float) -> tuple[Tensor, dict[str, float]]:
            if state.step == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(8, 6)
            return (state.module(x).float() - x.flip(1)).square().mean(), {}

        plan = TrainPlan(steps=12, out=out, cache=out, seed=3, resume=resume)
        return train("line", nn.Linear(6, 6), loss, plan, Recipe(1e-2)).weight  # type: ignore[return-value]

    straight = run(tmp_path / "straight", None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 7)
    resumed = run(tmp_path / "stopped", None, resume=True)
    assert torch.equal(straight, resumed)
    again = run(tmp_path / "other", None)
    assert torch.equal(straight, again)


def test_missing_portraits_name_the_command_that_makes_them(tmp_path: Path) -> None:
    with pytest.raises(FluxGuardError, match=r"renderer-cache --people 6000 --cache"):
        open_cache(tmp_path)


def test_an_interrupted_cache_continues(tmp_path: Path) -> None:
    plan = CachePlan(identities=1, shots=2, size=32)
    folder = build_cache(tmp_path, plan, workers=1)
    whole = (folder / "images.u8").read_bytes()
    (folder / "done.u8").write_bytes(b"\0")
    with pytest.raises(FluxGuardError, match="1 of 1 chunks"):
        open_cache(tmp_path, plan)
    build_cache(tmp_path, plan, workers=1)
    assert (folder / "images.u8").read_bytes() == whole
    assert len(open_cache(tmp_path, plan).images) == 2

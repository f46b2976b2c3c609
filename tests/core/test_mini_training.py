"""`python -m training.mini train`: every part from its command, on a handful of people."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.world import Part, weights_folder, weights_path
from training.mini.cache import CachePlan, build_cache, open_cache
from training.mini.commands import main
from training.mini.faces_train import PARTS as FACE_PARTS
from training.mini.faces_train import train_landmarks
from training.mini.scene import scene_vectors, token_focus, token_labels
from training.mini.train_flux import new_model
from training.mini.training import Recipe, TrainPlan, TrainState, train

PEOPLE = 4
PARTS: tuple[Part, ...] = ("vae", "flux", "text")
WRITTEN = {
    "vae": ("vae/fluxguard-mini-vae.safetensors",),
    "vae-decoder": ("vae/fluxguard-mini-vae.safetensors",),
    "flux": (
        "diffusion_models/fluxguard-mini-flux.safetensors",
        "text_encoders/fluxguard-mini-text.safetensors",
    ),
    "lora": ("loras/fluxguard-mini-sepia.safetensors",),
    **{part: (f"faces/fluxguard-mini-{part}.safetensors",) for part in FACE_PARTS},
}


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a few people, drawn by the command."""
    root = tmp_path_factory.mktemp("portraits")
    assert main(["train", "renderer-cache", "--people", str(PEOPLE), "--cache", str(root)]) == 0
    return root


def command(part: str, root: Path, out: Path, *more: str) -> int:
    given = ["--people", str(PEOPLE), "--cache", str(root), "--out", str(out), "--batch", "4"]
    return main(["train", part, *given, *more])


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
    assert steps_done(part, tmp_path) == 2
    assert command(part, portraits, tmp_path, "--steps", "4", "--resume") == 0
    assert steps_done(part, tmp_path) == 4
    told = capsys.readouterr().out
    for name, before in first.items():
        copied = "it and its model card" if part in FACE_PARTS else "it"
        assert f"copy {copied} to fluxguard_core/mini/weights/{Path(name).parent}" in told
        shipped, after = load_file(weights_folder() / name), load_file(tmp_path / Path(name).name)
        assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
            k: (v.shape, v.dtype) for k, v in shipped.items()
        }
        assert any(not torch.equal(before[k], after[k]) for k in before)


def steps_done(part: str, out: Path) -> int:
    with safe_open(out / f"{part}.checkpoint.safetensors", "pt") as file:
        return int(file.metadata()["step"])


@pytest.mark.parametrize("part", ["vae", "landmarks"])
def test_an_earlier_run_is_not_overwritten_unasked(
    part: str, portraits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(part, portraits, tmp_path, "--steps", "2") == 0
    checkpoint = tmp_path / f"{part}.checkpoint.safetensors"
    before = checkpoint.read_bytes()
    assert command(part, portraits, tmp_path, "--steps", "2") == 2
    message = capsys.readouterr().err
    assert str(checkpoint) in message and "--resume" in message
    assert checkpoint.read_bytes() == before


def test_parts_build_on_the_ones_before_them(
    portraits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {part: weights_path(part).name for part in PARTS}
    assert command("vae", portraits, tmp_path, "--steps", "2") == 0
    fresh = load_file(tmp_path / names["vae"])
    assert command("vae-decoder", portraits, tmp_path, "--steps", "2") == 0
    refined = load_file(tmp_path / names["vae"])
    same = {k for k in fresh if torch.equal(fresh[k], refined[k])}
    assert {k for k in fresh if "encoder" in k} <= same
    assert {k for k in fresh if "decoder" in k} - same
    assert command("flux", portraits, tmp_path, "--steps", "2") == 0
    told = capsys.readouterr().out
    assert f"Builds on {tmp_path / names['vae']}\n" in told and str(weights_folder()) not in told
    assert command("lora", portraits, tmp_path, "--steps", "2") == 0
    told = capsys.readouterr().out
    assert all(f"Builds on {tmp_path / name}\n" in told for name in names.values())

    assert command("lora", portraits, tmp_path / "alone", "--steps", "2") == 0
    told = capsys.readouterr().out
    assert all(f"Builds on {weights_path(part)}\n" in told for part in PARTS)
    mine, theirs = (
        load_file(folder / "fluxguard-mini-sepia.safetensors")
        for folder in (tmp_path, tmp_path / "alone")
    )
    assert any(not torch.equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize("part", ["ir", "parser"])
def test_a_card_tells_the_run_it_comes_from(part: str, portraits: Path, tmp_path: Path) -> None:
    cards, starts = [], []
    for seed in ("0", "5"):
        out = tmp_path / seed
        assert command(part, portraits, out, "--steps", "1", "--seed", seed, "--device", "cpu") == 0
        file = out / f"fluxguard-mini-{part}.safetensors"
        cards.append(file.with_suffix(".md").read_text())
        with safe_open(file, "pt") as opened:
            starts.append(int(opened.metadata()["seed"]))
            assert opened.metadata()["samples"] == "4"
    assert starts[1] == starts[0] + 5 and f"seed {starts[1]}," in cards[1]
    assert all(f"{PEOPLE} invented people, 8 pictures each, 128x128" in card for card in cards)
    assert all(f"Measured on {PEOPLE} people" in card for card in cards)
    assert all(f"{torch.get_num_threads()} CPU thread" in card for card in cards)


def test_another_seed_starts_from_other_weights(portraits: Path, tmp_path: Path) -> None:
    first = []
    for seed in (0, 5):
        plan = TrainPlan(
            0, tmp_path / str(seed), portraits, seed, batch=4, portraits=CachePlan(PEOPLE)
        )
        train_landmarks(plan)
        first.append(load_file(plan.out / "fluxguard-mini-landmarks.safetensors"))
    assert any(not torch.equal(first[0][k], first[1][k]) for k in first[0])


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_a_resumed_optimiser_counts_on_the_device_of_its_parameters(tmp_path: Path) -> None:
    def state(device: str) -> TrainState:
        module = Line().to(device)
        optimiser = torch.optim.AdamW(module.parameters(), fused=device == "cpu")
        return TrainState(module, Line().to(device), (optimiser,))

    trained = state("cpu")
    trained.module(torch.randn(2, 6)).sum().backward()
    trained.optimisers[0].step()
    trained.step = 1
    trained.save(tmp_path / "line.safetensors")
    resumed = state("meta")
    resumed.load(tmp_path / "line.safetensors")
    moments = resumed.optimisers[0].state.values()
    assert len(moments) == 4 and all(m["step"].device.type == "meta" for m in moments)


class Line(nn.Module):
    """A hidden matrix for Muon, a bias and an outer matrix for AdamW."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Linear(6, 6)
        self.out = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(x).tanh())


def test_a_stopped_run_ends_like_one_that_never_stopped(tmp_path: Path) -> None:
    def run(out: Path, stop_at: int | None, resume: bool = False) -> nn.Module:
        torch.manual_seed(5)

        def loss(state: TrainState, progress: float) -> tuple[Tensor, dict[str, float]]:
            assert [type(o).__name__ for o in state.optimisers] == ["AdamW", "Muon"]
            if state.step == stop_at:
                raise KeyboardInterrupt
            x = torch.randn(8, 6)
            return (state.module(x).float() - x.flip(1)).square().mean(), {}

        plan = TrainPlan(steps=12, out=out, cache=out, seed=3, resume=resume)
        return train("line", Line(), loss, plan, Recipe(1e-2, muon="blocks."))

    straight = run(tmp_path / "straight", None).state_dict()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", 7)
    resumed = run(tmp_path / "stopped", None, resume=True).state_dict()
    assert all(torch.equal(straight[k], resumed[k]) for k in straight)
    again = run(tmp_path / "again", None).state_dict()
    assert all(torch.equal(straight[k], again[k]) for k in straight)


def test_the_second_task_knows_the_scene_and_what_lies_under_a_token(portraits: Path) -> None:
    cache = open_cache(portraits, CachePlan(identities=PEOPLE))
    vectors = scene_vectors(cache)
    assert vectors.isfinite().all()
    assert vectors.mean(0).abs().max() < 1e-5
    varies = vectors.std(0) > 0.5
    assert varies.sum() > 60 and (vectors.std(0)[varies] - 1).abs().max() < 1e-4
    rows = np.array([3, 17])
    shares = token_labels(cache, rows)
    assert shares.shape == (2, 64, 19) and torch.allclose(shares.sum(-1), torch.ones(2, 64))
    corner = torch.from_numpy(cache.labels[17, :16:2, :16:2].astype(np.int64)).flatten()
    assert torch.allclose(shares[1, 0], torch.bincount(corner, minlength=19) / 64)


def test_the_loss_looks_where_eyes_and_lips_usually_are(portraits: Path) -> None:
    cache = open_cache(portraits, CachePlan(identities=PEOPLE))
    focus = token_focus(cache)
    assert focus.shape == (64,) and abs(float(focus.mean()) - 1) < 1e-6
    corner, heaviest = float(focus[0]), focus.argsort(descending=True)[:6]
    assert float(focus.min()) == corner and 3 < float(focus.max()) / corner < 8
    places = torch.from_numpy(np.array(cache.landmarks)).mean(
        0
    )  # [5,2] of (x, y): eyes, nose, mouth corners
    under = {8 * int(y // 16) + int(x // 16) for x, y in places[[0, 1]].tolist()}
    assert under <= set(heaviest.tolist())


def test_the_second_task_teaches_the_layers_before_it(portraits: Path) -> None:
    cache = open_cache(portraits, CachePlan(identities=PEOPLE))
    vectors = scene_vectors(cache)
    model = new_model(0, vectors.shape[1])
    assert model.head is not None
    model.head.listen(model.transformer)
    for block in model.transformer.single_transformer_blocks:
        nn.init.normal_(block.norm.linear.weight, std=0.02)
    ids = torch.zeros(2, 24, dtype=torch.long)
    model(torch.randn(2, 64, 64), ids, torch.full((2,), 0.5), torch.ones(2))
    model.head.loss(vectors[:2], token_labels(cache, np.array([0, 1]))).mean().backward()
    blocks = model.transformer.single_transformer_blocks
    reached = [float(block.proj_out.weight.grad.abs().max()) > 0 for block in blocks[:2]]
    assert all(reached) and all(block.proj_out.weight.grad is None for block in blocks[2:])
    with pytest.raises(RuntimeError, match="forward pass"):
        model.head.loss(vectors[:2], token_labels(cache, np.array([0, 1])))


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


def test_a_second_editor_is_another_network_and_stays_outside_the_package(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.mini.anatomy import PACKAGED, SECOND
    from training.mini.handover import earlier, hand_over
    from training.mini.training import TrainPlan

    sizes = [
        sum(p.numel() for p in new_model(0, 4, anatomy).transformer.parameters())
        for anatomy in (PACKAGED, SECOND)
    ]
    assert sizes[1] < 0.4 * sizes[0]
    plan = TrainPlan(steps=1, out=tmp_path, cache=tmp_path, anatomy=SECOND)
    with pytest.raises(FluxGuardError, match="no fluxguard-second-vae"):
        earlier("vae", plan)
    hand_over(tmp_path / "fluxguard-second-vae.safetensors", "vae")
    assert "no part of the package" in capsys.readouterr().out

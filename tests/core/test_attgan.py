"""AttGAN: the published sizes and names, its losses, its files, and pictures of any size."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxguard_core.defences.attgan import AttGANShape, Discriminators, Generator
from fluxguard_core.defences.attgan_files import AttGAN, load_attgan, save_attgan
from fluxguard_core.defences.attgan_losses import (
    AttGANWeights,
    LabelledBatch,
    answer_loss,
    critic_loss,
    generator_loss,
    gradient_penalty,
)
from fluxguard_core.defences.attgan_training import AttGANPlan, AttGANRun, train_attgan, train_step
from fluxguard_core.defences.attribute_edit import (
    AttributeEditor,
    edited,
    framed,
    labels_between,
)
from fluxguard_core.defences.attributes import PUBLISHED
from fluxguard_core.errors import FluxGuardError

SMALL = AttGANShape(("Red", "Dark"), size=32, width=12, layers=3, head=32)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def test_the_published_networks_have_their_published_sizes() -> None:
    with torch.device("meta"):
        shape = AttGANShape(PUBLISHED)
        assert parameters(Generator(shape)) == 43_459_203
        assert parameters(Discriminators(shape)) == 44_718_990
        larger = AttGANShape(PUBLISHED, size=384)
        assert parameters(Generator(larger)) == 43_459_203
        assert parameters(Discriminators(larger)) > 300_000_000


@pytest.mark.parametrize("size", [128, 256, 384])
def test_a_picture_keeps_its_size(size: int) -> None:
    with torch.device("meta"):
        shape = AttGANShape(PUBLISHED, size=size)
        generator = Generator(shape)
        picture, labels = torch.zeros(1, 3, size, size), torch.zeros(1, 13)
        assert generator(picture, labels).shape == (1, 3, size, size)
        score, classes = Discriminators(shape)(picture)
    assert score.shape == (1,) and classes.shape == (1, 13)


def test_the_tensors_are_called_as_in_the_public_checkpoints() -> None:
    with torch.device("meta"):
        generator = Generator(AttGANShape(PUBLISHED)).state_dict()
        critic = Discriminators(AttGANShape(PUBLISHED)).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {f"enc_layers.{i}.layers.0.weight" for i in range(5)}
    expected |= {f"enc_layers.{i}.layers.1.{key}" for i in range(5) for key in norm}
    expected |= {f"dec_layers.{i}.layers.0.weight" for i in range(5)}
    expected |= {f"dec_layers.{i}.layers.1.{key}" for i in range(4) for key in norm}
    expected |= {"dec_layers.4.layers.0.bias"}
    assert set(generator) == expected
    expected = {f"conv.{i}.layers.0.weight" for i in range(5)}
    expected |= {f"conv.{i}.layers.1.{key}" for i in range(5) for key in norm[:2]}
    heads = ("fc_adv", "fc_cls")
    expected |= {f"{h}.{i}.layers.0.{k}" for h in heads for i in (0, 1) for k in norm[:2]}
    assert set(critic) == expected
    assert generator["dec_layers.1.layers.0.weight"].shape == (1024 + 512 + 13, 512, 4, 4)


def public_checkpoint(path: Path, *, whole: bool = True) -> AttGANShape:
    """A file as the public code saves it, at a small width."""
    shape = AttGANShape(PUBLISHED, size=64, width=8, head=24)
    torch.manual_seed(0)
    run = AttGANRun.fresh(shape, AttGANPlan(1))
    state = {"G": run.generator.state_dict(), "D": run.critic.state_dict()}
    optimisers = {"optim_G": run.steps[0].state_dict(), "optim_D": run.steps[1].state_dict()}
    torch.save(state | optimisers if whole else {"G": state["G"]}, path)
    return shape


def test_public_checkpoints_are_read_as_plain_tensors(tmp_path: Path) -> None:
    shape = public_checkpoint(tmp_path / "weights.199.pth")
    gan = load_attgan(tmp_path / "weights.199.pth")
    assert gan.shape == shape and gan.world == "photo" and gan.classifier is not None
    public_checkpoint(tmp_path / "weightsG.pth", whole=False)
    alone = load_attgan(tmp_path / "weightsG.pth")
    assert alone.classifier is None and alone.shape.attributes == PUBLISHED
    with pytest.raises(FluxGuardError, match="without the classifier"):
        AttributeEditor.of("alone", alone)


class _Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("touched-by-a-checkpoint"),))


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"G": {"enc_layers.0.layers.0.weight": torch.zeros(1)}, "x": _Hostile()}, "bad.pth")
    with pytest.raises(FluxGuardError, match="Python objects"):
        load_attgan("bad.pth")
    assert not Path("touched-by-a-checkpoint").exists()


def test_other_files_and_missing_names_are_told(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(FluxGuardError, match="holds no AttGAN"):
        load_attgan(tmp_path / "other.pth")
    run = AttGANRun.fresh(SMALL, AttGANPlan(1))
    torch.save({"G": run.generator.state_dict()}, tmp_path / "two.pth")
    with pytest.raises(FluxGuardError, match="2 attributes"):
        load_attgan(tmp_path / "two.pth")
    named = load_attgan(tmp_path / "two.pth", attributes=("A", "B"), size=32)
    assert named.shape.attributes == ("A", "B")


def test_own_files_say_everything_about_themselves(tmp_path: Path) -> None:
    run = AttGANRun.fresh(SMALL, AttGANPlan(1))
    file = save_attgan(
        tmp_path / "a.safetensors", run.generator, run.critic, SMALL, {"world": "drawn"}
    )
    gan = load_attgan(file)
    assert gan.shape == SMALL and gan.world == "drawn"
    picture = torch.rand(1, 3, 32, 32)
    kept = run.generator.eval()(picture, torch.zeros(1, 2))
    torch.testing.assert_close(gan.generator(picture, torch.zeros(1, 2)), kept, atol=2e-2, rtol=0)


def test_the_penalty_of_a_linear_critic_is_the_distance_of_its_slope_from_one() -> None:
    weight = torch.randn(3, 8, 8)
    real, fake = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)
    value = gradient_penalty(lambda x: (x * weight).sum((1, 2, 3)), real, fake, torch.Generator())
    assert float(value) == pytest.approx((float(weight.norm()) - 1) ** 2, rel=1e-5)


def batch_of(count: int = 3) -> LabelledBatch:
    torch.manual_seed(1)
    labels = torch.rand(count, 2).round()
    return LabelledBatch(torch.rand(count, 3, 32, 32) * 2 - 1, labels, labels.flip(0))


def test_the_losses_are_the_published_sums() -> None:
    run = AttGANRun.fresh(SMALL, AttGANPlan(1))
    batch, weights = batch_of(), AttGANWeights()
    fake = batch.pictures.flip(0)
    loss, _ = critic_loss(run.critic, batch, fake, weights, torch.Generator().manual_seed(3))
    real, logits = run.critic(batch.pictures)
    penalty = gradient_penalty(
        lambda x: run.critic(x)[0], batch.pictures, fake, torch.Generator().manual_seed(3)
    )
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    by_hand = run.critic(fake)[0].mean() - real.mean() + 10 * penalty
    torch.testing.assert_close(loss, by_hand + entropy(logits, batch.labels))
    run.generator.eval()
    loss, _ = generator_loss(run.generator, run.critic, batch, weights)
    edit = run.generator(batch.pictures, batch.wanted - 0.5)
    same = run.generator(batch.pictures, batch.labels - 0.5)
    score, logits = run.critic(edit)
    by_hand = -score.mean() + 10 * entropy(logits, batch.wanted)
    torch.testing.assert_close(loss, by_hand + 100 * (same - batch.pictures).abs().mean())


def test_a_small_change_counts_in_the_distance_to_the_answer() -> None:
    pictures = torch.zeros(1, 3, 20, 20)
    answers = pictures.clone()
    answers[..., :2, :2] = 0.5  # four of 400 pixels, with two steep places on either side
    missed = answer_loss(pictures, pictures, answers)
    wrong = 0.5 * (4 + 2 + 2)
    assert float(missed) == pytest.approx(wrong / 400 + wrong / (4 + 2))
    assert float(answer_loss(answers, pictures, answers)) == 0
    assert float(answer_loss(pictures, pictures, pictures)) == 0


TOY = AttGANShape(("Square", "Bar"), size=16, width=12, layers=2, head=16)


def squares(step: int, generator: torch.Generator) -> LabelledBatch:
    """Pictures of 16 pixels: a bright square on the left or none, a bar below or none."""
    labels = torch.rand(16, 2, generator=generator).round()
    pictures = torch.rand(16, 3, 16, 16, generator=generator) * 0.3 - 0.6
    pictures[:, :, 2:9, 2:9] += labels[:, :1, None, None]
    pictures[:, :, 11:15] += labels[:, 1:, None, None]
    return LabelledBatch(pictures, labels, labels[torch.randperm(16, generator=generator)])


def shown(pictures: Tensor) -> Tensor:
    """Which of the two are there."""
    square, bar = pictures[:, :, 4:7, 4:7], pictures[:, :, 12:14, 2:14]
    return torch.stack((square.mean((1, 2, 3)), bar.mean((1, 2, 3))), 1) > 0.05


def test_a_short_training_turns_what_was_asked_for(tmp_path: Path) -> None:
    weights = AttGANWeights(reconstruct=20.0)
    plan = AttGANPlan(400, rate=4e-3, critic_steps=1, lower_at=0.8, seed=5, weights=weights)
    run = AttGANRun.fresh(TOY, plan)
    train_attgan(run, squares, plan, tmp_path / "toy.safetensors", lambda line: None)
    batch = squares(0, torch.Generator().manual_seed(77))
    wanted = 1 - batch.labels
    with torch.no_grad():
        edit = run.generator(batch.pictures, wanted - 0.5)
        again = run.generator(batch.pictures, batch.labels - 0.5)
    assert torch.equal(shown(batch.pictures), batch.labels.bool())
    assert float((shown(edit) == wanted.bool()).float().mean()) > 0.9
    assert float((again - batch.pictures).abs().mean()) < 0.1


def test_a_stopped_training_continues_as_if_it_had_not_been(tmp_path: Path) -> None:
    plan = AttGANPlan(steps=6, critic_steps=1, seed=2)
    whole = AttGANRun.fresh(TOY, plan)
    train_attgan(whole, squares, plan, tmp_path / "whole.safetensors", lambda line: None)
    broken, place = AttGANRun.fresh(TOY, plan), tmp_path / "broken.safetensors"
    train_attgan(broken, squares, plan, place, lambda line: None, stopped=lambda: broken.step == 3)
    assert broken.step == 3
    resumed = train_attgan(AttGANRun.fresh(TOY, plan), squares, plan, place, lambda line: None)
    assert resumed.step == 6
    for a, b in zip(whole.generator.parameters(), resumed.generator.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_critic_and_generator_take_turns_as_published() -> None:
    plan = AttGANPlan(steps=12)
    run = AttGANRun.fresh(TOY, plan)
    turns = []
    for _ in range(12):
        before = [p.detach().clone() for p in run.generator.parameters()]
        train_step(run, squares, plan)
        moved = zip(before, run.generator.parameters(), strict=True)
        turns.append(any(not torch.equal(a, b) for a, b in moved))
    assert turns == [False] * 5 + [True] + [False] * 5 + [True]


def toy_editor() -> AttributeEditor:
    torch.manual_seed(4)
    run = AttGANRun.fresh(SMALL, AttGANPlan(1))
    run.generator.eval()
    run.critic.eval()
    return AttributeEditor.of("toy", AttGAN(run.generator, run.critic))


POINTS = torch.tensor([[40.0, 45.0], [62.0, 44.0], [51.0, 58.0], [42.0, 68.0], [61.0, 67.0]])


@pytest.mark.parametrize("size", [(96, 110), (37, 53)])
def test_nothing_changes_where_the_labels_are_the_same(size: tuple[int, int]) -> None:
    editor, picture = toy_editor(), torch.rand(1, 3, *size)
    face = framed(editor, picture, POINTS * size[0] / 96, None)
    labels = torch.tensor([1.0, 0.0])
    assert torch.equal(edited(editor, face, labels, labels.clone()), picture)


def test_only_the_difference_is_pasted_and_only_under_the_mask() -> None:
    editor, picture = toy_editor(), torch.rand(1, 3, 96, 110) * 0.5 + 0.25
    mask = torch.zeros(1, 1, 96, 110)
    mask[..., 40:70, 35:65] = 1
    face = framed(editor, picture, POINTS, mask)
    before, after = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0])
    result = edited(editor, face, before, after)
    outside = (mask == 0).expand_as(picture)
    assert torch.equal(result[outside], picture[outside])
    assert float((result - picture).abs().max()) > 1e-4
    # Fine detail of the picture is still there: the change is as smooth as 32 pixels can make it.
    change = (result - picture)[..., 42:68, 37:63]
    rough = (change[..., 1:] - change[..., :-1]).abs().mean()
    assert float(rough) < 0.3 * float((picture[..., 1:] - picture[..., :-1]).abs().mean())


def test_a_face_lands_where_it_was_taken_from() -> None:
    """Pasting back is the inverse of cutting: an editor that adds its input gives the picture again."""
    editor = toy_editor()
    wave = torch.sin(torch.arange(110) / 9.0)[None] * torch.cos(torch.arange(96) / 7.0)[:, None]
    picture = (wave * 0.1 + 0.3).expand(1, 3, 96, 110).contiguous()
    doubling = AttributeEditor(
        "doubling",
        editor.attributes,
        editor.size,
        lambda faces: [faces],
        lambda features, labels: features[0] * labels[0, 0],
        editor.classify,
        editor.frame,
        "photo",
    )
    face = framed(doubling, picture, POINTS, None)
    result = edited(doubling, face, torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.0]))
    middle = (..., slice(45, 70), slice(40, 62))
    torch.testing.assert_close(result[middle], 2 * picture[middle], atol=0.02, rtol=0)


def test_strength_runs_from_the_picture_over_training_to_the_published_test() -> None:
    names, before = ("A", "B"), {"A": 0.0, "B": 1.0}

    def at(strength: float) -> Tensor:
        return labels_between(before, {"A": 1.0}, {"A": strength}, names)

    assert at(0.0).tolist() == [0.0, 1.0]
    assert at(1.0).tolist() == [1.0, 1.0]
    # Planes of ±0.5 in training, ±1 in the published test.
    assert (at(1.5) - 0.5).tolist() == [1.0, 0.5]
    half = labels_between(before, {"B": 0.5}, {"B": 0.5}, names)
    assert half.tolist() == [0.0, 0.5]
    assert math.isclose(float(labels_between(before, {"B": 0.0}, {"B": 1.0}, names)[1]), 0.0)


def answered(step: int, generator: torch.Generator) -> LabelledBatch:
    """The same with answers: the square is put on or taken away, the bar as well."""
    batch = squares(step, generator)
    answers = batch.pictures.clone()
    change = batch.wanted - batch.labels
    answers[:, :, 2:9, 2:9] += change[:, :1, None, None]
    answers[:, :, 11:15] += change[:, 1:, None, None]
    return LabelledBatch(batch.pictures, batch.labels, batch.wanted, answers)


def test_answers_teach_the_generator_alone_and_the_end_is_the_classifiers() -> None:
    plan = AttGANPlan(80, rate=3e-3, taught=0.75, alone=0.25)
    run = AttGANRun.fresh(TOY, plan)
    copies = [
        {k: v.clone() for k, v in n.state_dict().items()} for n in (run.generator, run.critic)
    ]
    figures = [train_step(run, answered, plan) for _ in range(60)]
    assert figures[-1]["answer"] < 0.6 * figures[0]["answer"]
    critic = run.critic.state_dict()
    assert all(torch.equal(critic[k], v) for k, v in copies[1].items())
    made = {k: v.clone() for k, v in run.generator.state_dict().items()}
    figures = [train_step(run, answered, plan) for _ in range(20)]
    assert figures[-1]["alone"] < 0.8 * figures[0]["alone"]
    generator = run.generator.state_dict()
    assert all(torch.equal(generator[k], v) for k, v in made.items())


def test_a_run_that_goes_on_says_what_was_before_it(tmp_path: Path) -> None:
    run = AttGANRun.fresh(TOY, AttGANPlan(1))
    run.before, run.step = 70, 3
    run.save(tmp_path / "c.safetensors")
    again = AttGANRun.fresh(TOY, AttGANPlan(1))
    again.load(tmp_path / "c.safetensors")
    assert (again.before, again.step) == (70, 3)

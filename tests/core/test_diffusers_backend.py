"""Loading FLUX from a pipeline, a folder and single files; conversion, LoRA, recomputation, inference mode."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file

from fluxguard_core.backends.flux import (
    decode_latent,
    encode_image,
    from_pipeline,
    layout_of,
    pack,
    unpack,
)
from fluxguard_core.backends.flux_files import from_files, load_vae, text_encoders
from fluxguard_core.backends.flux_folder import from_folder
from fluxguard_core.backends.flux_keys import flux_from_diffusers, flux_to_diffusers
from fluxguard_core.backends.flux_lora import add_lora
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.flow import VelocityFusion, flux_schedule, generate, invert
from fluxguard_core.protect.engine import Descent
from fluxguard_core.protect.refiner import Branches, Refined
from fluxguard_core.protect.run import edit_and_protect

from .golden import relative_error
from .pipeline_folder import tiny_pipeline
from .tiny import encode_words, noise, tiny_stack, tiny_taesd, tiny_transformer, tiny_vae

KOHYA = "lora_unet_single_blocks_0_linear1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flux")
    tiny_pipeline(path).save_pretrained(path / "model")
    return path / "model"


def written(path: Path, state: dict[str, torch.Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def test_packing_is_the_published_order_and_inverts() -> None:
    latent = torch.arange(2 * 16 * 4 * 6).float().view(2, 16, 4, 6)
    tokens = pack(latent)
    assert tokens.shape == (2, 6, 64)
    # token 1 = columns 2..3 of rows 0..1; entries run over channel, row, column
    assert tokens[0, 1, :4].tolist() == [2, 3, 8, 9]
    assert torch.equal(unpack(tokens, 4, 6), latent)


@pytest.mark.parametrize(("heads", "double", "single"), [(1, 1, 2), (2, 2, 3), (3, 0, 1)])
def test_any_width_and_depth_converts_there_and_back(heads: int, double: int, single: int) -> None:
    model = FluxTransformer2DModel(
        num_layers=max(1, double),
        num_single_layers=single,
        attention_head_dim=128,
        num_attention_heads=heads,
        joint_attention_dim=40,
        pooled_projection_dim=24,
        guidance_embeds=heads != 3,
    )
    state = model.state_dict()
    names = flux_from_diffusers(state)
    prefixed = {f"model.diffusion_model.{key}": value for key, value in names.items()}
    for given in (names, prefixed):
        config, back = flux_to_diffusers(given)
        assert set(back) == set(state) and all(torch.equal(back[k], state[k]) for k in state)
        assert config["num_attention_heads"] == heads
        assert config["guidance_embeds"] == (heads != 3)


def test_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    other = written(tmp_path / "other.safetensors", {"weight": torch.zeros(2)})
    with pytest.raises(FluxGuardError, match=r"other\.safetensors is not a FLUX\.1 transformer"):
        from_files(other, other, encode_words)
    with pytest.raises(FluxGuardError, match="not a FLUX autoencoder"):
        load_vae(other)
    state = flux_from_diffusers(tiny_transformer().state_dict())
    with pytest.raises(FluxGuardError, match="Unknown weight 'extra'"):
        flux_to_diffusers({**state, "extra.weight": torch.zeros(1)})


def test_single_files_equal_their_origin(tmp_path: Path) -> None:
    transformer = written(
        tmp_path / "flux.safetensors", flux_from_diffusers(tiny_transformer().state_dict())
    )
    vae = written(tmp_path / "ae.safetensors", bfl_vae())
    stack = from_files(transformer, vae, encode_words)
    latent, origin = noise(1, 16, 4, 6), tiny_stack()
    ours = stack.field("a face", 3.0)(latent, 0.5)
    assert torch.equal(ours, origin.field("a face", 3.0)(latent, 0.5))
    assert stack.layout == origin.layout
    picture = noise(1, 3, 32, 48).sigmoid()
    assert stack.encode(picture).shape == (1, 16, 4, 6)
    assert stack.decode(latent).shape == (1, 3, 32, 48)


def bfl_vae() -> dict[str, torch.Tensor]:
    """A small FLUX autoencoder in Black Forest Labs names (widths must be multiples of 32)."""
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, out: int, inside: int, side: int = 3) -> None:
        state[f"{name}.weight"] = 0.05 * noise(out, inside, side, side, seed=len(state))
        state[f"{name}.bias"] = torch.zeros(out)

    def norm(name: str, width: int) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.ones(width), torch.zeros(width)

    def block(name: str, inside: int, out: int) -> None:
        norm(f"{name}.norm1", inside)
        conv(f"{name}.conv1", out, inside)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out)
        if inside != out:
            conv(f"{name}.nin_shortcut", out, inside, 1)

    def middle(name: str, width: int) -> None:
        block(f"{name}.mid.block_1", width, width)
        norm(f"{name}.mid.attn_1.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.mid.attn_1.{part}", width, width, 1)
        block(f"{name}.mid.block_2", width, width)

    widths = (32, 32, 64, 64)
    conv("encoder.conv_in", widths[0], 3)
    for level, width in enumerate(widths):
        block(f"encoder.down.{level}.block.0", widths[max(0, level - 1)], width)
        if level < 3:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
    middle("encoder", widths[-1])
    norm("encoder.norm_out", widths[-1])
    conv("encoder.conv_out", 32, widths[-1])
    conv("decoder.conv_in", widths[-1], 16)
    middle("decoder", widths[-1])
    for level in reversed(range(4)):
        inside = widths[min(3, level + 1)]
        for index in range(2):
            block(
                f"decoder.up.{level}.block.{index}",
                inside if index == 0 else widths[level],
                widths[level],
            )
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", widths[level], widths[level])
    norm("decoder.norm_out", widths[0])
    conv("decoder.conv_out", 3, widths[0])
    return state


def test_the_flux_autoencoder_file_converts(tmp_path: Path) -> None:
    vae = load_vae(written(tmp_path / "ae.safetensors", bfl_vae()))
    assert vae.config.scaling_factor == 0.3611 and vae.config.shift_factor == 0.1159
    assert tuple(vae.config.block_out_channels) == (32, 32, 64, 64)
    assert decode_latent(vae, noise(1, 16, 4, 4)).shape == (1, 3, 32, 32)


def test_a_folder_loads_offline_and_equals_the_pipeline(folder: Path, tmp_path: Path) -> None:
    stack = from_folder(folder, dtype=torch.float32)
    direct = from_pipeline(tiny_pipeline(tmp_path))
    latent = noise(1, 16, 4, 4)
    ours = stack.field("a red face", 2.0)(latent, 0.7)
    assert relative_error(ours, direct.field("a red face", 2.0)(latent, 0.7)) < 1e-5
    assert relative_error(ours, stack.field("a blue face", 2.0)(latent, 0.7)) > 1e-4
    with pytest.raises(FluxGuardError, match=r"model_index\.json"):
        from_folder(tmp_path)


def test_text_encoders_come_from_their_folder_alone(folder: Path) -> None:
    encode = text_encoders(folder, dtype=torch.float32)
    stack = from_folder(folder, dtype=torch.float32)
    ours, theirs = encode("a red face"), stack.encode_prompt("a red face")
    assert torch.equal(ours.context, theirs.context) and torch.equal(ours.pooled, theirs.pooled)


def lora(rank: int = 2, scale: float = 0.5) -> dict[str, torch.Tensor]:
    name = "transformer.single_transformer_blocks.0.attn.to_v"
    return {
        f"{name}.lora_A.weight": scale * noise(rank, 128, seed=1),
        f"{name}.lora_B.weight": scale * noise(128, rank, seed=2),
    }


def test_a_lora_changes_the_field_and_the_exact_background_holds(
    folder: Path, tmp_path: Path
) -> None:
    latent = noise(1, 16, 4, 4)
    plain = from_folder(folder, dtype=torch.float32).field("a face", 1.0)(latent, 0.5)
    stack = from_folder(folder, dtype=torch.float32)
    add_lora(stack, written(tmp_path / "style.safetensors", lora()))
    full = stack.field("a face", 1.0)(latent, 0.5)
    weaker = from_folder(folder, dtype=torch.float32)
    add_lora(weaker, tmp_path / "style.safetensors", 0.1)
    light = weaker.field("a face", 1.0)(latent, 0.5)
    assert relative_error(full, plain) > 1e-3
    assert 0 < relative_error(light, plain) < relative_error(full, plain)
    trajectory = invert(stack.field("a face", 1.0), latent, flux_schedule(4, 4), value_intervals=2)
    kept = generate(
        stack.field("a red face", 5.5),
        trajectory,
        [VelocityFusion(trajectory, torch.zeros(1, 1, 4, 4))],
    )
    assert relative_error(kept, latent) < 1e-6


def test_two_loras_stack_and_foreign_ones_are_refused(folder: Path, tmp_path: Path) -> None:
    stack = from_folder(folder, dtype=torch.float32)
    path = written(tmp_path / "style.safetensors", lora())
    latent = noise(1, 16, 4, 4)
    add_lora(stack, path)
    once = stack.field("a face", 1.0)(latent, 0.5)
    add_lora(stack, path, 0.5)
    assert relative_error(stack.field("a face", 1.0)(latent, 0.5), once) > 1e-3
    wide = {key: torch.zeros(2, 256) if "A" in key else torch.zeros(256, 2) for key in lora()}
    with pytest.raises(FluxGuardError, match="does not fit this transformer"):
        add_lora(stack, written(tmp_path / "wide.safetensors", wide))
    other = {"text_encoder.layer.lora_A.weight": torch.zeros(2, 4)}
    with pytest.raises(FluxGuardError, match="holds no LoRA for a FLUX transformer"):
        add_lora(stack, written(tmp_path / "text.safetensors", other))


def test_the_model_is_clean_after_a_run(folder: Path) -> None:
    stack = from_folder(folder, dtype=torch.float32)
    latent = noise(1, 16, 4, 4)
    before = stack.field("a face", 1.0)(latent, 0.5)
    invert(stack.field("a face", 1.0), latent, flux_schedule(3, 4), value_intervals=3)
    assert torch.equal(stack.field("a face", 1.0)(latent, 0.5), before)
    assert not any(module._forward_hooks for module in stack.transformer.modules())


@pytest.mark.parametrize("vae", [tiny_vae, tiny_taesd])
def test_recomputed_decoding_has_the_same_gradient(vae: object) -> None:
    autoencoder = vae()  # type: ignore[operator]
    latent = noise(1, 16, 4, 4).requires_grad_(True)
    (ours,) = torch.autograd.grad(decode_latent(autoencoder, latent).square().sum(), latent)
    shift, scale = autoencoder.config.shift_factor or 0.0, autoencoder.config.scaling_factor
    kept = autoencoder.decode(latent / scale + shift, return_dict=False)[0]
    plain = ((kept + 1) / 2).clamp(0, 1).square().sum()
    (expected,) = torch.autograd.grad(plain, latent)
    assert relative_error(ours, expected) < 1e-5
    assert not autoencoder.decoder.gradient_checkpointing


@pytest.mark.parametrize("vae", [tiny_vae, tiny_taesd])
def test_a_recomputed_decoding_leaves_the_encoder_as_it_was(vae: object) -> None:
    autoencoder = vae()  # type: ignore[operator]
    picture = noise(1, 3, 32, 32).sigmoid()
    before = encode_image(autoencoder, picture)
    decode_latent(autoencoder, noise(1, 16, 4, 4).requires_grad_(True))
    after = encode_image(autoencoder, picture.requires_grad_(True))
    assert relative_error(after.detach(), before) < 1e-6


def test_one_prompt_serves_a_batch_and_batches_agree() -> None:
    field = tiny_stack().field("a face", 1.0)
    latent = noise(3, 16, 4, 4)
    together = field(latent, 0.5)
    apart = torch.cat([field(one[None], 0.5) for one in latent])
    assert relative_error(together, apart) < 1e-5


def test_the_layout_names_the_model() -> None:
    ours, other = layout_of(tiny_transformer()), layout_of(tiny_transformer(seed=5))
    assert ours.fingerprint != other.fingerprint and ours.width == 128
    assert not ours.matches(other) and ours.matches(replace(other, fingerprint=""))
    with pytest.raises(FluxGuardError, match="FluxTransformer2DModel"):
        layout_of(tiny_vae())


def test_offloaded_weights_give_the_same_field_values_and_pictures(folder: Path) -> None:
    from accelerate import cpu_offload

    plain, stack = (from_folder(folder, dtype=torch.float32) for _ in range(2))
    for part in (stack.transformer, stack.vae):
        cpu_offload(part, execution_device=torch.device("cpu"))
    assert next(stack.transformer.parameters()).is_meta
    assert layout_of(stack.transformer).matches(plain.layout)
    latent, sigmas = noise(1, 16, 4, 4), flux_schedule(3, 4)
    ours, theirs = (
        invert(each.field("a face", 1.0), latent, sigmas, value_intervals=2)
        for each in (stack, plain)
    )
    assert torch.equal(ours.terminal, theirs.terminal) and len(ours.values) == len(theirs.values)
    assert torch.equal(stack.decode(latent), plain.decode(latent))


def test_offloading_brings_the_transformer_back_once_an_attacked_interval(tmp_path: Path) -> None:
    """What --offload costs, as help and docs say: accelerate takes a part off the card when the next one runs."""
    pipeline, seen = tiny_pipeline(tmp_path), []
    stack = from_pipeline(pipeline)
    pipeline.transformer.register_forward_pre_hook(lambda *_: seen.append("T"))
    stack.vae.decoder.register_forward_pre_hook(lambda *_: seen.append("V"))
    latent = noise(1, 16, 4, 4)
    trajectory = invert(stack.field("a face", 1.0), latent, flux_schedule(6, 4), value_intervals=0)
    assert set(seen) == {"T"}  # an inversion moves it once
    seen.clear()

    def looking(branches: Branches) -> Refined:
        for _ in range(5):  # iterates of one interval
            stack.decode(branches.adversarial)
        still = torch.zeros_like(branches.adversarial)
        return Refined(branches.adversarial, Descent(still, ()))

    edit = stack.field("a red face", 5.5)
    edit_and_protect(edit, trajectory, (), looking, attacked_intervals=3)
    turns = "".join(part for part, _ in itertools.groupby(seen))
    assert turns == "TVTVTV" and seen.count("V") == 15

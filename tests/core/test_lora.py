"""LoRAs of every key format against weights merged by hand, and refusals that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.backends.flux import FluxStack, from_pipeline
from fluxguard_core.backends.flux_keys import flux_from_diffusers, flux_to_diffusers
from fluxguard_core.backends.flux_lora import add_lora
from fluxguard_core.errors import FluxGuardError

from .golden import relative_error
from .pipeline_folder import tiny_pipeline
from .tiny import noise, tiny_stack, tiny_transformer

QKV, OUT, LAST = (
    "double_blocks.0.img_attn.qkv",
    "single_blocks.0.linear2",
    "final_layer.adaLN_modulation.1",
)
RANK, ALPHA = 2, 3.0
BASE = flux_from_diffusers(tiny_transformer().state_dict())
Format = Callable[[str, Tensor, Tensor], dict[str, Tensor]]


def fresh(state: dict[str, Tensor] | None = None) -> FluxStack:
    config, converted = flux_to_diffusers(BASE if state is None else state)
    model = FluxTransformer2DModel(**config)
    model.load_state_dict(converted)
    stack = tiny_stack()
    return FluxStack(model.eval(), stack.vae, stack.encode_prompt, stack.device, stack.layout)


def output(stack: FluxStack) -> Tensor:
    with torch.no_grad():
        return stack.field("a face", 3.0)(noise(1, 16, 4, 4), 0.5)


def pair(name: str) -> tuple[Tensor, Tensor]:
    out, inside = BASE[f"{name}.weight"].shape
    return 0.2 * noise(RANK, inside, seed=len(name)), 0.2 * noise(out, RANK, seed=len(name) + 1)


def written(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    return path


def merged(deltas: dict[str, Tensor], scale: float = 1.0) -> Tensor:
    state = dict(BASE)
    for name, delta in deltas.items():
        state[f"{name}.weight"] = state[f"{name}.weight"] + scale * delta
    return output(fresh(state))


def kohya(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
    stem = "lora_unet_" + name.replace(".", "_")
    return {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(ALPHA),
    }


def peft(prefix: str) -> Format:
    def write(name: str, down: Tensor, up: Tensor) -> dict[str, Tensor]:
        return {
            f"{prefix}{name}.lora_A.weight": down,
            f"{prefix}{name}.lora_B.weight": up * ALPHA / RANK,
        }

    return write


FORMATS: dict[str, Format] = {
    "kohya": kohya,
    "diffusion_model": peft("diffusion_model."),
    "bare": peft(""),
    "base_model": peft("base_model.model."),
    "default": lambda name, down, up: {
        f"transformer.{name}.lora_A.default.weight": down,
        f"transformer.{name}.lora_B.default.weight": up * ALPHA / RANK,
    },
}


@pytest.mark.parametrize("format", FORMATS)
def test_low_ranks_equal_the_merged_weights(tmp_path: Path, format: str) -> None:
    tensors: dict[str, Tensor] = {}
    for name in (QKV, OUT, LAST):
        tensors |= FORMATS[format](name, *pair(name))
    stack = fresh()
    add_lora(stack, written(tmp_path / "l.safetensors", tensors), 0.7)
    deltas = {name: pair(name)[1] @ pair(name)[0] * ALPHA / RANK for name in (QKV, OUT, LAST)}
    expected = merged(deltas, 0.7)
    assert relative_error(output(stack), expected) < 1e-5
    assert relative_error(expected, output(fresh())) > 1e-3


def test_diffusers_names_and_ranks_of_several_sizes(tmp_path: Path) -> None:
    names = ("single_transformer_blocks.0.attn.to_v", "single_transformer_blocks.1.attn.to_q")
    tensors, model = {}, fresh()
    for rank, name in zip((1, 3), names, strict=True):
        down, up = noise(rank, 128, seed=rank), noise(128, rank, seed=rank + 5)
        tensors |= {f"transformer.{name}.lora_A.weight": down}
        tensors |= {f"transformer.{name}.lora_B.weight": up}
        with torch.no_grad():
            model.transformer.get_submodule(name).weight += up @ down
    stack = fresh()
    add_lora(stack, written(tmp_path / "l.safetensors", tensors))
    assert relative_error(output(stack), output(model)) < 1e-5


def test_xlabs_names(tmp_path: Path) -> None:
    stem, (down, up) = "double_blocks.0.processor.qkv_lora1", pair(QKV)
    single = noise(RANK, 128, seed=8), noise(384, RANK, seed=9)
    tensors = {
        f"{stem}.down.weight": down,
        f"{stem}.up.weight": up,
        "single_blocks.1.processor.qkv_lora.down.weight": single[0],
        "single_blocks.1.processor.qkv_lora.up.weight": single[1],
    }
    stack = fresh()
    add_lora(stack, written(tmp_path / "l.safetensors", tensors))
    rows = torch.zeros_like(BASE["single_blocks.1.linear1.weight"])
    rows[:384] = single[1] @ single[0]
    expected = merged({QKV: up @ down, "single_blocks.1.linear1": rows})
    assert relative_error(output(stack), expected) < 1e-5


def lycoris(kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """A file's tensors for QKV, and the difference they stand for."""
    stem, weight = "lora_unet_" + QKV.replace(".", "_"), BASE[f"{QKV}.weight"]
    (down, up), (more, most) = pair(QKV), pair(QKV)
    if kind == "diff":
        return {f"diffusion_model.{QKV}.diff": up @ down}, up @ down
    if kind == "loha":
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        tensors = dict(zip((f"{stem}.{n}" for n in names), (up, down, most, more), strict=True))
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
        return tensors, (up @ down) * (most @ more) * ALPHA / RANK
    if kind == "lokr":
        first, a, b = noise(4, 4, seed=1), noise(96, RANK, seed=2), 0.1 * noise(RANK, 32, seed=3)
        tensors = {f"{stem}.lokr_w1": first, f"{stem}.lokr_w2_a": a, f"{stem}.lokr_w2_b": b}
        tensors[f"{stem}.alpha"] = torch.tensor(ALPHA)
        return tensors, torch.kron(first, a @ b) * ALPHA / RANK
    magnitude = 1 + 0.1 * noise(384, 1, seed=4).abs()
    changed = weight + up @ down * ALPHA / RANK
    whole = changed * magnitude / weight.norm(dim=1, keepdim=True)
    return {**kohya(QKV, down, up), f"{stem}.dora_scale": magnitude}, whole - weight


@pytest.mark.parametrize("kind", ["diff", "loha", "lokr", "dora"])
def test_other_kinds_are_added_to_the_weights(tmp_path: Path, kind: str) -> None:
    tensors, delta = lycoris(kind)
    stack = fresh()
    add_lora(stack, written(tmp_path / "l.safetensors", tensors), 0.5)
    assert relative_error(output(stack), merged({QKV: delta}, 0.5)) < 1e-5
    assert relative_error(output(stack), output(fresh())) > 1e-4  # ten times that


def test_a_bias_is_added(tmp_path: Path) -> None:
    bias, state = noise(384, seed=6), dict(BASE)
    stack = fresh()
    add_lora(stack, written(tmp_path / "l.safetensors", {f"diffusion_model.{QKV}.diff_b": bias}))
    state[f"{QKV}.bias"] = state[f"{QKV}.bias"] + bias
    assert relative_error(output(stack), output(fresh(state))) < 1e-5


def test_a_file_that_does_not_fit_wholly_changes_nothing(tmp_path: Path) -> None:
    deeper = "lora_unet_single_blocks_37_linear2"
    more = {f"{deeper}.lora_down.weight": noise(2, 640), f"{deeper}.lora_up.weight": noise(128, 2)}
    wide = kohya(OUT, noise(2, 15360), noise(3072, 2))
    broken = {f"lora_unet_{QKV.replace('.', '_')}.hada_w1_a": noise(384, 2)}
    cases = {
        r"2 of 5 keys are left over .*single_blocks_37": {**kohya(QKV, *pair(QKV)), **more},
        r"made for a matrix of \[3072, 15360\]": {**kohya(QKV, *pair(QKV)), **wide},
        r"incomplete or does not fit": broken,
        r"holds no LoRA": {"lora_unet_input_blocks_4_1_proj_in.lora_down.weight": noise(2, 64)},
        r"text encoder that this model does not have": {
            **kohya(QKV, *pair(QKV)),
            "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": noise(2, 16),
        },
    }
    stack = fresh()
    before = output(stack)
    for words, tensors in cases.items():
        with pytest.raises(FluxGuardError, match=words):
            add_lora(stack, written(tmp_path / "l.safetensors", tensors))
        assert torch.equal(output(stack), before)
    assert not getattr(stack.transformer, "peft_config", {})


def test_packed_weights_take_low_ranks_only(tmp_path: Path) -> None:
    stack = fresh()
    layer = stack.transformer.transformer_blocks[0].attn.to_q
    layer.weight = torch.nn.Parameter(torch.zeros(128, 64, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(FluxGuardError, match="quantised or offloaded"):
        add_lora(stack, written(tmp_path / "l.safetensors", lycoris("diff")[0]))


def test_a_part_for_the_text_encoder_is_applied_too(tmp_path: Path) -> None:
    stack = from_pipeline(tiny_pipeline(tmp_path))
    clip = stack.encode_prompt.parts[0]  # type: ignore[attr-defined]
    name = next(n for n, _ in clip.named_modules() if n.endswith("layers.0.mlp.fc1"))
    layer = clip.get_submodule(name)
    before, words = layer.weight.detach().clone(), stack.encode_prompt("a red face")
    down, up = noise(2, 16, seed=1), noise(32, 2, seed=2)
    part = "lora_te1_text_model_encoder_layers_0_mlp_fc1"
    tensors = {f"{part}.lora_down.weight": down, f"{part}.lora_up.weight": up}
    block = "lora_unet_single_blocks_0_linear2"
    tensors |= {
        f"{block}.lora_down.weight": noise(2, 640),
        f"{block}.lora_up.weight": noise(128, 2),
    }
    add_lora(stack, written(tmp_path / "l.safetensors", tensors), 0.5)
    assert torch.allclose(layer.weight, before + 0.5 * up @ down, atol=1e-5)
    assert not torch.equal(stack.encode_prompt("a red face").pooled, words.pooled)


def test_the_weight_of_one_leaves_the_others_alone(tmp_path: Path) -> None:
    stack, both = fresh(), fresh()
    first = written(tmp_path / "a.safetensors", kohya(QKV, *pair(QKV)))
    second = written(tmp_path / "b.safetensors", kohya(OUT, *pair(OUT)))
    add_lora(stack, first, 0.3)
    add_lora(stack, second, 0.9)
    add_lora(both, second, 0.9)
    add_lora(both, first, 0.3)
    assert relative_error(output(stack), output(both)) < 1e-5
    assert stack.transformer._fluxguard_lora_weights == {"lora0": 0.3, "lora1": 0.9}

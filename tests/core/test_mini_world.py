"""The shipped FLUX, text encoder and LoRA: they load, have the host's shapes, and do what they say."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from fluxguard_core.backends.flux_keys import flux_config, is_bfl_flux
from fluxguard_core.mini.text import CONTEXT_WIDTH, POOLED_WIDTH
from fluxguard_core.mini.world import load_stack, lora_path, weights_path
from training.mini.quality import draw


def test_the_transformer_has_the_shapes_that_hosts_detect() -> None:
    state = load_file(weights_path("flux"))
    assert is_bfl_flux(state)
    config = flux_config(state)
    assert config["in_channels"] == 64 and config["guidance_embeds"]
    assert config["joint_attention_dim"] == CONTEXT_WIDTH
    assert config["pooled_projection_dim"] == POOLED_WIDTH
    assert config["num_single_layers"] >= 4
    assert {t.dtype for t in state.values()} == {torch.float16}


def test_words_and_guidance_change_the_picture() -> None:
    stack = load_stack()
    prompts = ["a person with blond hair, blue background", "a person with black hair, red hat"]
    pictures = draw(stack, prompts, steps=6)
    assert pictures.shape == (2, 3, 128, 128)
    corner = pictures[0, :, :12, :12].mean((1, 2))
    assert corner[2] > corner[0] + 0.1  # blue behind the first person
    strong = draw(stack, prompts, steps=6, guidance=5.5)
    plain = draw(stack, prompts, steps=6, guidance=1.0)
    assert (strong - plain).abs().mean() > 0.005


def test_the_lora_loads_through_diffusers_and_draws_in_sepia() -> None:
    stack = load_stack()
    prompt = ["a person with blond hair, green background, red clothes"]
    before = draw(stack, prompt, steps=6)
    state = load_file(lora_path("sepia"))
    assert all(k.startswith("transformer.") and ".lora_" in k for k in state)
    stack.transformer.load_lora_adapter(state, prefix="transformer", adapter_name="sepia")
    after = draw(stack, prompt, steps=6)
    saturation = [(x.amax(1) - x.amin(1)).mean() for x in (before, after)]
    assert saturation[1] < 0.75 * saturation[0]

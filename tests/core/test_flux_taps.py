"""Value taps on FLUX: text and image tokens together in every block, and the answer put where it belongs."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from fluxguard_core.backends.flux import FluxField, Prompt, compute_dtype, frozen_decoder
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.flow import Block

from .tiny import CONTEXT, POOLED, noise, tiny_stack, tiny_transformer, tiny_vae

WORDS = 3


def field() -> FluxField:
    stack = tiny_stack()
    prompt = Prompt(noise(2, WORDS, CONTEXT, seed=3), noise(2, POOLED, seed=4))
    return FluxField(stack.transformer, prompt, 3.0, stack.layout)


def test_every_block_shows_text_first_and_then_the_picture() -> None:
    seen: dict[Block, Tensor] = {}

    def tap(block: Block, values: Tensor, text_tokens: int) -> None:
        assert text_tokens == WORDS
        seen[block] = values.clone()

    model, latent = field(), noise(2, 16, 4, 6)
    plain = model(latent, 0.5)
    assert torch.equal(model(latent, 0.5, tap), plain)
    assert [block.kind for block in seen] == ["double"] + ["single"] * 4
    assert all(values.shape == (2, WORDS + 6, 128) for values in seen.values())


def test_the_values_are_those_of_both_projections() -> None:
    model, latent = field(), noise(2, 16, 4, 6)
    attention = model.transformer.transformer_blocks[0].attn
    own: dict[str, Tensor] = {}
    handles = [
        getattr(attention, name).register_forward_hook(
            lambda module, args, values, name=name: own.__setitem__(name, values)
        )
        for name in ("to_v", "add_v_proj")
    ]
    model(latent, 0.5)
    for handle in handles:
        handle.remove()
    shown: list[Tensor] = []
    model(latent, 0.5, lambda block, values, text: shown.append(values))  # type: ignore[func-returns-value]
    assert torch.equal(shown[0], torch.cat([own["add_v_proj"], own["to_v"]], 1))


@pytest.mark.parametrize(("first", "last"), [(0, WORDS), (WORDS, WORDS + 6)])
def test_an_answer_changes_its_own_part_only(first: int, last: int) -> None:
    model, latent = field(), noise(2, 16, 4, 6)
    attention = model.transformer.transformer_blocks[0].attn

    def tap(block: Block, values: Tensor, text_tokens: int) -> Tensor | None:
        if block.kind != "double":
            return None
        answer = values.clone()
        answer[:, first:last] = 0
        return answer

    before = model(latent, 0.5)
    changed = model(latent, 0.5, tap)
    assert not torch.equal(changed, before)
    whole = model(latent, 0.5, lambda block, values, text: values.clone())
    assert torch.equal(whole, before)
    projection = attention.add_v_proj if first == 0 else attention.to_v
    weight, bias = projection.weight, projection.bias
    kept = weight.detach().clone(), bias.detach().clone()
    with torch.no_grad():  # values of zero are what a projection of zeros gives
        weight.zero_()
        bias.zero_()
        expected = model(latent, 0.5)
        weight.copy_(kept[0])
        bias.copy_(kept[1])
    assert torch.equal(changed, expected)


def test_nothing_stays_on_the_model_even_after_an_error() -> None:
    model = field()

    def tap(block: Block, values: Tensor, text_tokens: int) -> None:
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        model(noise(2, 16, 4, 4), 0.5, tap)
    for module in model.transformer.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_fused_projections_are_refused_in_words() -> None:
    model = field()
    attention = model.transformer.transformer_blocks[0].attn
    before = attention.fused_projections
    attention.fused_projections = True
    try:
        with pytest.raises(FluxGuardError, match="unfuse_qkv_projections"):
            model(noise(2, 16, 4, 4), 0.5, lambda block, values, text: None)
    finally:
        attention.fused_projections = before


class Packed(torch.nn.Module):
    """A transformer whose first weight is packed, as bitsandbytes does."""

    def __init__(self, **config: object) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
        self.rest = torch.nn.Parameter(torch.zeros(2, dtype=torch.float8_e4m3fn), False)
        self.norm = torch.nn.Parameter(torch.zeros(2, dtype=torch.float16))
        self.config = type("Config", (), config)()


def test_the_computing_format_is_not_that_of_packed_weights() -> None:
    assert compute_dtype(Packed()) == torch.float16
    for named in ("bfloat16", "torch.bfloat16", torch.bfloat16):
        quantised = {"load_in_4bit": True, "bnb_4bit_compute_dtype": named}
        assert compute_dtype(Packed(quantization_config=quantised)) == torch.bfloat16
    assert compute_dtype(tiny_transformer()) == torch.float32


def test_the_autoencoder_is_frozen_and_never_float16() -> None:
    vae = tiny_vae()
    assert frozen_decoder(vae) is vae
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    half = torch.nn.Module.to(copy.deepcopy(vae), torch.float16)
    assert next(frozen_decoder(half).parameters()).dtype == torch.float32
    assert next(half.parameters()).dtype == torch.float16


def compiled(way: str, backend: CompileCounter) -> FluxField:
    """The field of a transformer of its own, compiled in one of the ways that people use."""
    model = field()
    network: Any = copy.deepcopy(model.transformer)
    if way == "function":
        network = torch.compile(network, backend=backend)
    elif way == "method":
        network.compile(backend=backend)
    else:
        for block in (*network.transformer_blocks, *network.single_transformer_blocks):
            block.compile(backend=backend)
    return replace(model, transformer=network)


@pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="torch is older than 2.6")
@pytest.mark.parametrize("way", ["function", "method", "blocks"])
@torch.no_grad()
def test_a_compiled_transformer_is_heard_and_keeps_its_gain_in_between(way: str) -> None:
    """torch.compile leaves later hooks out without a word; what it has compiled serves the evaluations without a tap."""
    torch.compiler.reset()
    counter, plain, latent = CompileCounter(), field(), noise(2, 16, 4, 6)

    def tap(block: Block, values: Tensor, text_tokens: int) -> Tensor:
        return 1.5 * values

    network = compiled(way, counter)
    torch.testing.assert_close(network(latent, 0.5), plain(latent, 0.5))
    once = counter.frame_count
    assert once > 0
    torch.testing.assert_close(network(latent, 0.5, tap), plain(latent, 0.5, tap))
    assert not torch.equal(network(latent, 0.5, tap), network(latent, 0.5))
    assert counter.frame_count == once


@torch.no_grad()
def test_an_old_torch_says_that_it_would_leave_a_tap_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = compiled("method", CompileCounter())
    monkeypatch.delattr(torch.compiler, "set_stance", raising=False)
    with pytest.raises(FluxGuardError, match="not compiled"):
        network(noise(2, 16, 4, 6), 0.5, lambda *given: None)

"""The text encoder: word binding, padding, the unconditional prompt, errors, files."""

from __future__ import annotations

import pytest
import torch

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.captions import LITTLE_WORDS, WORDS, caption
from fluxguard_core.mini.portrait_spec import random_attributes
from fluxguard_core.mini.text import (
    CONTEXT_WIDTH,
    POOLED_WIDTH,
    TOKENS,
    TextEncoder,
    text_encoder_from,
    text_metadata,
    token_ids,
)


@pytest.fixture()
def encoder() -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder().eval()


def test_shapes_and_little_words(encoder: TextEncoder) -> None:
    context, pooled = encoder(["a person with red hair", "red hair"])
    assert context.shape == (2, TOKENS, CONTEXT_WIDTH) and pooled.shape == (2, POOLED_WIDTH)
    assert torch.equal(context[0], context[1]) and torch.equal(pooled[0], pooled[1])


def test_an_adjective_is_bound_to_its_noun(encoder: TextEncoder) -> None:
    ids = [token_ids(t) for t in ("red hair, pink lipstick", "pink hair, red lipstick")]
    assert sorted(ids[0]) == sorted(ids[1])
    context, pooled = encoder(["red hair, pink lipstick", "pink hair, red lipstick"])
    assert (context[0] - context[1]).abs().max() > 1e-3
    assert (pooled[0] - pooled[1]).abs().max() > 1e-3


def test_the_empty_prompt_is_all_padding(encoder: TextEncoder) -> None:
    assert token_ids("") == [0] * TOKENS == token_ids("a person")
    assert torch.isfinite(encoder("")[1]).all()


def test_every_full_caption_fits() -> None:
    for seed in range(200):
        assert len(token_ids(caption(random_attributes(seed)))) == TOKENS


def test_errors_list_what_is_known(encoder: TextEncoder) -> None:
    with pytest.raises(FluxGuardError) as error:
        encoder("a person with a moustache and a monocle")
    assert "moustache" in str(error.value) and "monocle" in str(error.value)
    assert all(word in str(error.value) for word in WORDS)
    with pytest.raises(FluxGuardError, match="at most 24 words"):
        encoder("red hair " * 13)
    assert not set(LITTLE_WORDS) - set(WORDS)


def test_a_file_rebuilds_the_encoder(encoder: TextEncoder) -> None:
    again = text_encoder_from(encoder.state_dict(), text_metadata(encoder))
    assert torch.equal(again("a smile")[0], encoder("a smile")[0])
    with pytest.raises(FluxGuardError, match="vocabulary"):
        text_encoder_from(encoder.state_dict(), {})

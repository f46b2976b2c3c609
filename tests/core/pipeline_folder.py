"""A complete diffusers FLUX folder with tiny random networks and letter-level tokenizers."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

from .tiny import tiny_vae

WIDTH_T5, WIDTH_CLIP = 24, 16
LETTERS = [*string.ascii_lowercase, ",", "."]


def tiny_pipeline(folder: Path) -> FluxPipeline:
    """A ``FluxPipeline`` whose tokenizers' files are written to ``folder``."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=WIDTH_T5,
        pooled_projection_dim=WIDTH_CLIP,
        guidance_embeds=True,
    )
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    clip = _clip_tokenizer(folder)
    t5 = _t5_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(clip),
        hidden_size=WIDTH_CLIP,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        projection_dim=WIDTH_CLIP,
        eos_token_id=clip.eos_token_id,
    )
    text_2 = T5Config(
        vocab_size=len(t5), d_model=WIDTH_T5, d_kv=8, d_ff=32, num_layers=1, num_heads=2
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=tiny_vae(),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=clip,
        text_encoder_2=T5EncoderModel(text_2).eval(),
        tokenizer_2=t5,
        transformer=transformer.eval(),
    )


def _clip_tokenizer(folder: Path) -> CLIPTokenizer:
    pieces = [
        *LETTERS,
        *(f"{letter}</w>" for letter in LETTERS),
        "<|startoftext|>",
        "<|endoftext|>",
    ]
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    merges.write_text("#version: 0.2\n")
    return CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77)


def _t5_tokenizer() -> T5TokenizerFast:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -1.0)]
    return T5TokenizerFast(
        vocab=pieces + [(letter, -2.0) for letter in LETTERS], extra_ids=0, model_max_length=512
    )

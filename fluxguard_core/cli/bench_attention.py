"""`fluxguard bench attention`: what slicing attention costs and saves on FLUX's blocks, beside fused attention."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..backends.flux import diffusers, image_ids
from ..backends.geometry import FLUX
from ..evaluate.memory import new_peak, peak_memory

WAYS = ("fused", "a head at a time", "whole matrix")
_TEXT = 64


@dataclass(frozen=True)
class Cost:
    """Seconds of the processor for one evaluation, and bytes that memory grew by meanwhile."""

    processor_seconds: float
    grown: int


def register(kinds: Any) -> None:
    """Add `attention` to the `bench` parser."""
    parser = kinds.add_parser(
        "attention",
        help="time and memory of fused, sliced and whole attention on two blocks of FLUX's layout",
        description="One evaluation of a double and a single block with random weights on the CPU, in float32 and one "
        "thread: attention as PyTorch fuses it, a head at a time, and with the whole matrix at once.",
    )
    parser.add_argument("--size", type=int, default=768, help="side of the picture (default 768)")
    parser.add_argument("--heads", type=int, default=8, help="of attention (default 8; FLUX: 24)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handle `bench attention`: each way in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    table: dict[str, Cost] = {}
    tokens = FLUX.tokens(args.size, args.size) + _TEXT
    if not args.json:
        print(f"one evaluation of two blocks, {tokens} tokens, {args.heads} heads", flush=True)
    for way in WAYS:
        with spawn.Pool(1) as process:
            cost: Cost = process.apply(measure, (way, args.size, args.heads))
        table[way] = cost
        if not args.json:
            print(
                f"  {way:<17} {cost.processor_seconds:6.1f} s   {cost.grown / 2**20:6.0f} MiB",
                flush=True,
            )
    if args.json:
        told = {way: asdict(cost) for way, cost in table.items()}
        print(json.dumps({"tokens": tokens, "heads": args.heads, "attention": told}))
    return 0


def measure(way: str, size: int, heads: int) -> Cost:
    """One way: memory over the first evaluation, for a second one finds it there already, and time over the second."""
    torch.set_num_threads(1)
    ready = evaluation(size, heads)
    with torch.no_grad(), Attention(way):
        before = new_peak()
        ready()
        grown, begun = max(0, peak_memory() - before), time.process_time()
        ready()
        return Cost(time.process_time() - begun, grown)


def evaluation(size: int, heads: int) -> Any:
    """One evaluation of two blocks on a square picture of so many pixels."""
    torch.manual_seed(0)
    network = diffusers().FluxTransformer2DModel(
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=heads,
        joint_attention_dim=64,
        pooled_projection_dim=64,
    )
    rows = columns = size // FLUX.pixels_per_token
    given = {
        "hidden_states": torch.randn(1, rows * columns, 4 * FLUX.channels),
        "encoder_hidden_states": torch.randn(1, _TEXT, 64),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.full((1,), 0.5),
        "img_ids": image_ids(rows, columns, torch.device("cpu")),
        "txt_ids": torch.zeros(_TEXT, 3),
    }
    return lambda: network.eval()(**given, return_dict=False)[0]


class Attention(TorchFunctionMode):
    """Lets attention be computed in one of the ways while it is open."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention or self.way == WAYS[0]:
            return func(*args, **kwargs)
        named = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key, value = (named[name] for name in ("query", "key", "value"))
        if self.way == WAYS[1]:
            parts = zip(*(x.split(1, 1) for x in (query, key, value)), strict=True)
            return torch.cat([_whole(q, k, v) for q, k, v in parts], 1)
        return _whole(query, key, value)


def _whole(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value

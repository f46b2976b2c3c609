"""A MODEL's transformer that gradients pass through, exactly.

The host's own cannot: its weights are inference tensors, moved in parts; its blocks add to their input in place, which
their norms have kept for the way back; its rope kernels have none. So this is a private copy in ordinary tensors, whose
norms keep clones and whose blocks are given clones and computed again on the way back, with the rope that the host
itself trains with and PyTorch's attention. Blocks merely computed again would tell no error, and a wrong gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import WeakKeyDictionary

import comfy.lora
import comfy.model_management as memory
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...fluxguard_core.defences.attention import (
    Recording,
    attention_map,
    looking,
    reference_share,
    spread,
)
from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.flow import Layout
from ...fluxguard_core.flow.field import ValueTap
from .flux import Conditioning, Model, flux_layout
from .networks import managed, private_copy
from .progress import ordinary_tensors

_PREFIX = "diffusion_model."
_private: WeakKeyDictionary[nn.Module, tuple[Any, nn.Module]] = WeakKeyDictionary()

INTERRUPTS: tuple[type[BaseException], ...] = (memory.InterruptProcessingException,)
"""What the host raises anywhere in a network where the user wishes to stop."""


@dataclass(eq=False)
class _Ear:
    """Where queries and keys of chosen blocks go while somebody listens."""

    blocks: frozenset[tuple[str, int]] = frozenset()
    heard: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    tell: Callable[[Tensor, Tensor], None] | None = None


@dataclass(frozen=True, eq=False)
class DifferentiableField:
    """The velocity field of a private copy at a conditioning.

    Args:
        context, pooled, guidance: of the conditioning, on the network's device.
        reference: model-space latent beside the picture that is made.
        recompute: compute blocks again on the way back instead of keeping what they need.
    """

    network: Any
    layout: Layout
    context: Tensor
    pooled: Tensor | None
    guidance: float
    ear: _Ear
    reference: Tensor | None = None
    recompute: bool = True

    def at(self, context: Tensor) -> DifferentiableField:
        """The field at another embedding of the prompt."""
        return replace(self, context=context)

    def beside(self, reference: Tensor) -> DifferentiableField:
        """The field with a reference picture's latent beside the one that is made."""
        return replace(self, reference=reference)

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        if tap is not None:
            raise NotImplementedError("attention values are kept by the host's own field")
        batch, kind = latent.shape[0], self.context.dtype
        place = self.context.device
        answer = self.network(
            latent.to(place, kind),
            torch.full((batch,), sigma, device=place),
            context=self.context.expand(batch, -1, -1),
            y=None if self.pooled is None else self.pooled.expand(batch, -1),
            guidance=torch.full((batch,), self.guidance, device=place, dtype=kind),
            ref_latents=None if self.reference is None else [self.reference.to(place, kind)],
            transformer_options=self._options(),
        )
        for query, key in self.ear.heard:
            assert self.ear.tell is not None
            self.ear.tell(query.movedim(1, 2), key.movedim(1, 2))
        self.ear.heard.clear()
        return answer.to(latent)

    def _options(self) -> dict[str, Any]:
        return {
            "optimized_attention_override": _attention(self.ear),
            "patches_replace": {"dit": self._blocks()},
        }

    def _blocks(self) -> dict[tuple[str, int], Any]:
        """Every block on clones of what it is given.

        The host's own wrapper of a block would call whichever came last by the time it is computed again.
        """
        blocks: dict[tuple[str, int], Any] = {}
        for i, block in enumerate(self.network.double_blocks):
            blocks["double_block", i] = _double(block, self.recompute)
        for i, block in enumerate(self.network.single_blocks):
            blocks["single_block", i] = _single(block, self.recompute)
        return blocks


def _double(block: nn.Module, recompute: bool) -> Any:
    def run(args: dict[str, Any], extra: Any) -> dict[str, Tensor]:
        del extra
        options = dict(args["transformer_options"])

        def on_clones(img: Tensor, txt: Tensor, vec: Tensor) -> Any:
            return block(
                img=img.clone(),
                txt=txt.clone(),
                vec=vec,
                pe=args["pe"],
                attn_mask=args.get("attn_mask"),
                transformer_options=options,
            )

        img, txt = _run(on_clones, recompute, args["img"], args["txt"], args["vec"])
        return {"img": img, "txt": txt}

    return run


def _single(block: nn.Module, recompute: bool) -> Any:
    def run(args: dict[str, Any], extra: Any) -> dict[str, Tensor]:
        del extra
        options = dict(args["transformer_options"])

        def on_clones(img: Tensor, vec: Tensor) -> Any:
            return block(
                img.clone(),
                vec=vec,
                pe=args["pe"],
                attn_mask=args.get("attn_mask"),
                transformer_options=options,
            )

        return {"img": _run(on_clones, recompute, args["img"], args["vec"])}

    return run


def _run(block: Callable[..., Any], recompute: bool, *given: Tensor) -> Any:
    if not (recompute and torch.is_grad_enabled()):
        return block(*given)
    return checkpoint(block, *given, use_reentrant=False, preserve_rng_state=False)


def _attention(ear: _Ear) -> Callable[..., Tensor]:
    """PyTorch's attention, which has a way back whatever the host was started with."""

    def attention(
        func: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> Tensor:
        options = transformer_options or {}
        block = options.get("block_type"), options.get("block_index")
        # As many as there are blocks to hear: what comes after is computed again.
        if block in ear.blocks and len(ear.heard) < len(ear.blocks):
            ear.heard.append((q, k))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    return attention


@contextmanager
def exact_gradients() -> Iterator[None]:
    """Let the host take the rope that it trains with, which has a way back."""
    before = memory.in_training
    memory.in_training = True
    try:
        yield
    finally:
        memory.in_training = before


def differentiable_field(model: Model, conditioning: Conditioning) -> DifferentiableField:
    """The private copy of a MODEL's transformer at a conditioning, guidance 1; checked for a way back.

    Call inside ``exact_gradients``; the network is ``network`` for whoever brings it to the device.

    Raises:
        FluxGuardError: a quantised layer, or anything else on this MODEL, has no way back.
    """
    layout = flux_layout(model)
    network: Any = _private_network(model)
    context, options = conditioning[0]
    kind = model.model.get_dtype_inference()
    pooled = options.get("pooled_output")
    place = managed(network).load_device
    with ordinary_tensors():
        return DifferentiableField(
            network,
            layout,
            context.clone().to(place, kind),
            None if pooled is None else pooled.clone().to(place, kind),
            1.0,
            _Ear(),
        )


def check_way_back(found: DifferentiableField) -> None:
    """FluxGuardError unless a gradient comes back through the network as the values say."""
    side = 4
    channels = found.network.params.out_channels
    try:
        with torch.inference_mode(False), torch.enable_grad():
            point = torch.zeros(1, channels, side, side, device=found.context.device)
            point.requires_grad_(True)
            total = found(point, 0.5).float().square().sum()
            (slope,) = torch.autograd.grad(total, point)
            sound = bool(slope.isfinite().all()) and bool((slope != 0).any())
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError) as error:
        if memory.is_oom(error):
            raise  # no verdict on the network
        raise _no_way_back(str(error).splitlines()[0]) from error
    if not sound:
        raise _no_way_back("its gradient is zero or not finite")


def _no_way_back(reason: str) -> FluxGuardError:
    return FluxGuardError(
        f"No gradient comes back through this MODEL ({reason}): quantised layers often have no way back.",
        "Choose a preset that runs it forwards only (balanced, or light), or load it in bf16 or fp8.",
    )


def listener(found: DifferentiableField, text_tokens: int, grid: tuple[int, int]) -> Any:
    """Records attention maps of a few blocks, as the engine's own recorder does."""
    double, single = found.network.double_blocks, found.network.single_blocks
    chosen = spread(double, single)
    blocks = [("double", i) for i, block in enumerate(double) if block in chosen]
    blocks += [("single", i) for i, block in enumerate(single) if block in chosen]
    return _listening(
        found.ear,
        blocks,
        lambda kept, q, k: kept.maps.append(attention_map(q, k, text_tokens, grid)),
    )


def reference_listener(found: DifferentiableField, text_tokens: int, grid: tuple[int, int]) -> Any:
    """Records the share of attention that a reference gets."""
    blocks = [("single", i) for i in range(len(looking(found.network.single_blocks)))]
    return _listening(
        found.ear,
        blocks,
        lambda kept, q, k: kept.shares.append(reference_share(q, k, text_tokens, grid)),
    )


@contextmanager
def _listening(
    ear: _Ear, blocks: list[tuple[str, int]], tell: Callable[[Recording, Tensor, Tensor], None]
) -> Iterator[Recording]:
    recording = Recording()
    ear.blocks, ear.tell = frozenset(blocks), lambda q, k: tell(recording, q, k)
    try:
        yield recording
    finally:
        ear.blocks, ear.tell = frozenset(), None
        ear.heard.clear()


def trainable_layers(network: Any) -> tuple[nn.Module, ...]:
    """Linear layers beside which a personal LoRA lies: attention of the double blocks, the first of the single ones."""
    layers: list[nn.Module] = []
    for block in network.double_blocks:
        for attention in (block.img_attn, block.txt_attn):
            layers += [attention.qkv, attention.proj]
    return (*layers, *(block.linear1 for block in network.single_blocks))


def _private_network(model: Model) -> nn.Module:
    """The transformer with the MODEL's own LoRAs, in ordinary tensors, made once a MODEL."""
    original, mark = model.model.diffusion_model, model.patches_uuid
    known = _private.get(original)
    if known is None or known[0] != mark:
        known = mark, _keeping_clones(_patched(model, private_copy(original)))
        _private[original] = known
        managed(known[1], model.load_device)
    return known[1]


def _keeping_clones(network: Any) -> nn.Module:
    """Let the norms of the blocks work on clones, since the blocks go on to write into what they gave them."""
    for block in (*network.double_blocks, *network.single_blocks):
        for norm in (module for module in block.modules() if isinstance(module, nn.LayerNorm)):
            norm.register_forward_pre_hook(lambda _, given: (given[0].clone(), *given[1:]))
    return network


def _patched(model: Model, twin: nn.Module) -> nn.Module:
    """The copy with the weights as this MODEL's patches make them, whatever is patched in place at present."""
    with ordinary_tensors():
        weights = dict(twin.named_parameters())
        for key in {*model.patches, *model.backup}:
            name = key.removeprefix(_PREFIX) if isinstance(key, str) else ""
            if name not in weights or not str(key).startswith(_PREFIX):
                continue
            weight = weights[name]
            saved = model.backup.get(key)
            plain = (weight if saved is None else saved.weight).detach().clone().to(weight.device)
            made = comfy.lora.calculate_weight(model.patches.get(key, []), plain.float(), key)
            weight.copy_(made.to(weight))
    return twin

"""Run with ComfyUI's Python: networks of ours in the host's memory, in ways that a CPU can show.

Usage: memory_check.py COMFYUI PACK; prints what it found as JSON. A meta device stands for a graphics card:
moving there makes new tensors, and autograd runs on shapes.
"""

from __future__ import annotations

import gc
import json
import weakref

import inside  # isort: skip; it makes the host and the pack importable
import comfy.model_management as memory
import torch
from portraits.fluxguard_core.protect.gradients import gradients
from portraits.nodes import host as bridge
from portraits.nodes.host import networks

found = {}
META = torch.device("meta")


class Handle:
    """Memory that is freed with its handle, as the host's dynamic loader has it."""

    freed = 0

    def __del__(self):
        Handle.freed += 1


def moved() -> None:
    """Gradients after the host has moved the decoder in inference mode, as it does on a card."""
    with torch.inference_mode():
        decoder = bridge.picture_decoder(inside.miniature_vae())
        handle = networks.managed(decoder.module)
        memory.load_models_gpu([handle])
        assert handle.loaded_size() == handle.model_size() > 0
        handle.partially_load(META)
        tensors = [*decoder.module.parameters(), *decoder.module.buffers()]
        found["moved"] = all(tensor.device == META for tensor in tensors)
        found["ordinary"] = not any(tensor.is_inference() for tensor in tensors)
        with gradients():
            z = torch.zeros(1, 16, 4, 4, device=META, requires_grad=True)
            found["gradient"] = torch.autograd.grad(decoder(z).sum(), z)[0].shape == z.shape
        freed = handle.partially_unload(META, 1)
        found["whole"] = freed == handle.model_size() and handle.loaded_size() == 0


def handles() -> None:
    """A private copy of a network that the dynamic loader holds takes no handle with it."""
    with torch.inference_mode():
        original = inside.miniature_vae().first_stage_model
        stored = next(m for m in original.modules() if isinstance(m, torch.nn.Conv2d))
        stored.weight_comfy_model_dtype = torch.bfloat16  # the file's type may be another
        original.dynamic_vbars = {"card": Handle()}
        pins = {"weights": (Handle(), [])}
        for layer in original.modules():
            layer._pin_state, layer._v = pins, Handle()
            if hasattr(layer, "comfy_cast_weights"):
                layer.prev_comfy_cast_weights, layer.comfy_cast_weights = False, True
        twin = networks.private_copy(original)
    layers = list(twin.modules())
    found["no handles"] = not any(hasattr(m, "_v") or hasattr(m, "_pin_state") for m in layers)
    found["no casting"] = not any(getattr(m, "comfy_cast_weights", False) for m in layers)
    pairs = list(zip(original.parameters(), twin.parameters(), strict=True))
    cast = [b.dtype for a, b in pairs if a is stored.weight]
    found["computed type"] = cast == [torch.bfloat16]
    found["same weights"] = all(
        torch.equal(a.to(b.dtype), b) and a.data_ptr() != b.data_ptr() for a, b in pairs
    )
    del twin, layers, pairs
    gc.collect()
    found["freed"] = Handle.freed
    assert original.dynamic_vbars


def forgotten() -> None:
    """Decoders go when their VAEs go."""
    seen = []
    with torch.inference_mode():
        for _ in range(3):
            vae = inside.miniature_vae()
            decoder = bridge.picture_decoder(vae)
            bridge.load_together([decoder.module])
            seen.append(weakref.ref(decoder.module))
            del vae, decoder
    gc.collect()
    found["kept decoders"] = sum(decoder() is not None for decoder in seen)


def batch() -> None:
    """What a decode of four pictures needs, for that of one."""
    with torch.inference_mode():
        decoder = bridge.picture_decoder(inside.miniature_vae())
        one, four = (decoder.bytes_needed((n, 16, 16, 16)) for n in (1, 4))
    found["batch"] = four / one


for check in (moved, handles, forgotten, batch):
    check()
print(json.dumps(found))

"""Run with ComfyUI's Python: gradients through the nodes' private copies of the user's VAE.

Usage: gradient_check.py COMFYUI PACK; prints JSON: relative errors on the miniature's VAE against the engine's own
gradient, and on a VAE of FLUX's layout and width with random weights against the same network without the
pack, also where the host's attention takes other slices at every call; the cosine of its bfloat16 gradient;
which blocks are computed again on the way back; and whose weights a copy of it uses.
"""

from __future__ import annotations

import copy
import itertools
import json

import inside  # isort: skip; it makes the host and the pack importable
import comfy.ldm.modules.diffusionmodules.model as layers
import comfy.model_management as memory
import comfy.sd
import torch
from portraits.fluxguard_core.backends.flux import decode_latent, encode_image
from portraits.fluxguard_core.mini.faces import find_faces, load_recogniser
from portraits.fluxguard_core.mini.portrait_spec import random_spec
from portraits.fluxguard_core.mini.renderer import render
from portraits.fluxguard_core.mini.world import load_autoencoder
from portraits.fluxguard_core.protect.gradients import gradients
from portraits.fluxguard_core.recognition import align
from portraits.nodes import host as bridge

picture = render(random_spec(349)).image[None]
encoder = load_recogniser("ir")


def gradient(decode, latent):
    with gradients():
        x = latent.clone().requires_grad_(True)
        face = align(decode(x), landmarks, encoder.size)
        return torch.autograd.grad(encoder(face)[:, :8].sum(), x)[0]


autoencoder = load_autoencoder()
landmarks = find_faces(picture[0])[0].landmarks[None]
with torch.no_grad():
    latent = encode_image(autoencoder, picture)
expected = gradient(lambda z: decode_latent(autoencoder, z), latent)

with torch.inference_mode():
    vae = inside.miniature_vae()
    assert all(p.is_inference() for p in vae.first_stage_model.parameters())
    decoder = bridge.picture_decoder(vae)
    assert bridge.picture_decoder(vae).module is decoder.module
    found = gradient(lambda z: decoder(z / 0.3611 + 0.1159), latent)


def flux_vae():
    """A decoder as in ae.safetensors, outside inference mode, and its state."""
    from comfy.ldm.modules.diffusionmodules.model import Decoder

    torch.manual_seed(0)
    shape = {"z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
    shape |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    network = Decoder(**shape).float().eval()
    for parameter in network.parameters():  # the host's layers leave their weights unset
        fan = parameter[0].numel() if parameter.ndim > 1 else 0
        parameter.data = torch.randn(parameter.shape) / fan**0.5 if fan else parameter.data.zero_()
    for name, parameter in network.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data.fill_(1.0)
    state = {f"decoder.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    # The encoder is not looked at, but the host wants to see one.
    state["encoder.down.2.downsample.conv.weight"] = torch.zeros(512, 512, 3, 3)
    return network, state


def is_again(module):
    return type(module).__name__ == "Recomputed"


def gradient_of(decode):
    with gradients():
        x = small.clone().requires_grad_(True)
        return torch.autograd.grad((decode(x) * weights).sum(), x)[0]


network, state = flux_vae()
small, weights = torch.randn(1, 16, 4, 4), torch.randn(1, 3, 32, 32)
exact = gradient_of(lambda z: ((network(z) + 1) / 2).clamp(0, 1))
with torch.inference_mode():
    vae = comfy.sd.VAE(sd=state)
    assert all(p.is_inference() for p in vae.first_stage_model.parameters())
    decoder = bridge.picture_decoder(vae)
    ours = gradient_of(decoder)
again = {type(m).__mro__[1].__name__ for m in decoder.module.modules() if is_again(m)}


def relative(a, b):
    return float((a - b).norm() / b.norm())


def sliced():
    """The gradient while attention is sliced by a free memory that is another at every look."""
    free = itertools.cycle([2**40, 700, 300])
    memory.get_free_memory = lambda *_, **__: next(free)
    for block in decoder.module.modules():
        if type(block).__name__ == "AttnBlock":
            block.optimized_attention = layers.normal_attention
    return gradient_of(decoder)


def own_weights():
    """Whether a deep copy of the private decoder changes with its own weights and not with the original's."""
    twin = copy.deepcopy(decoder.module)
    with torch.no_grad():
        before = twin.decode(small)
        for parameter in decoder.module.parameters():
            parameter.zero_()
        return (
            relative(twin.decode(small), before) < 1e-5 and not decoder.module.decode(small).any()
        )


with torch.inference_mode():
    half = comfy.sd.VAE(sd=state, dtype=torch.bfloat16)
    rough = gradient_of(bridge.picture_decoder(half)).float()
found = {
    "miniature": relative(found, expected),
    "flux": relative(ours, exact),
    "sliced": relative(sliced(), exact),
    "bfloat16": float(torch.cosine_similarity(rough.flatten(), exact.flatten(), dim=0)),
    "bfloat16 is": str(bridge.picture_decoder(half).vae.vae_dtype),
    "again": sorted(again),
    "own weights": own_weights(),
}
print(json.dumps(found))

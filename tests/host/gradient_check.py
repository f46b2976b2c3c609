"""Run with ComfyUI's Python: gradients through the nodes' private copies of the user's VAE.

Usage: gradient_check.py COMFYUI PACK; prints two relative errors: on the miniature's VAE against the engine's own
gradient, and on a VAE of FLUX's layout and width with random weights against the same network without the
pack, and then how many of its blocks are computed again on the way back.
"""

from __future__ import annotations

import inside  # isort: skip; it makes the host and the pack importable
import comfy.sd
import torch
from portraits.fluxguard_core.diffusers_backend import decode_latent, encode_image
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
again = [block for block in decoder.module.modules() if "forward" in vars(block)]

print(float((found - expected).norm() / expected.norm()))
print(float((ours - exact).norm() / exact.norm()), len(again))

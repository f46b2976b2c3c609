"""Run with ComfyUI's Python: the node's gradient through the user's VAE against the engine's own.

Usage: gradient_check.py COMFYUI PACK; prints the relative error.
"""

from __future__ import annotations

import importlib.util
import sys

host, pack = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path[:0] = [host]

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location(
    "portraits", f"{pack}/__init__.py", submodule_search_locations=[pack]
)
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules["portraits"] = module
spec.loader.exec_module(module)

from portraits.fluxguard_core.diffusers_backend import decode_latent, encode_image  # noqa: E402
from portraits.fluxguard_core.mini.faces import find_faces, load_recogniser  # noqa: E402
from portraits.fluxguard_core.mini.portrait_spec import random_spec  # noqa: E402
from portraits.fluxguard_core.mini.renderer import render  # noqa: E402
from portraits.fluxguard_core.mini.world import load_autoencoder, weights_path  # noqa: E402
from portraits.fluxguard_core.protect.gradients import gradients  # noqa: E402
from portraits.fluxguard_core.recognition import align  # noqa: E402
from portraits.nodes import host as bridge  # noqa: E402

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
    state, metadata = comfy.utils.load_torch_file(str(weights_path("vae")), return_metadata=True)
    vae = comfy.sd.VAE(sd=state, metadata=metadata)
    assert all(p.is_inference() for p in vae.first_stage_model.parameters())
    decoder = bridge.picture_decoder(vae)
    assert bridge.picture_decoder(vae).module is decoder.module
    found = gradient(lambda z: decoder(z / 0.3611 + 0.1159), latent)

print(float((found - expected).norm() / expected.norm()))

"""Run with ComfyUI's Python: gradients through the private copy of the user's MODEL, and what is left of the MODEL.

Usage: shield_check.py COMFYUI PACK; prints JSON: by checkpointing the relative error of the directional derivative
through the miniature against central differences, for the latent, the prompt and a reference; the same gradient
through diffusers; recorded attention against diffusers; whether LoRAs count, and whether the base weights are the
same afterwards, also after an error and an interrupt.
"""

from __future__ import annotations

import json
from dataclasses import replace

import inside  # isort: skip; it makes the host and the pack importable
import comfy.model_management as memory
import comfy.sd
import torch
from portraits.fluxguard_core.backends.flux import Prompt
from portraits.fluxguard_core.defences.attention import recorded_attention
from portraits.fluxguard_core.defences.edits import EDIT_SHIELDS
from portraits.fluxguard_core.defences.training import TRAINING_SHIELDS, shield_training
from portraits.fluxguard_core.mini.portrait_spec import random_spec
from portraits.fluxguard_core.mini.renderer import render
from portraits.fluxguard_core.mini.world import (
    load_stack,
    load_text_encoder,
    lora_path,
    weights_path,
)
from portraits.nodes import host as bridge
from portraits.nodes.shield_models import Asked
from portraits.nodes.shields import ShieldAgainstEdits

WORDS = "a person with red lipstick"
with torch.inference_mode():
    model = comfy.sd.load_diffusion_model(str(weights_path("flux")))
    assert all(p.is_inference() for p in model.model.diffusion_model.parameters())
    context, pooled = load_text_encoder()(WORDS)
    conditioning = [[context, {"pooled_output": pooled, "guidance": 1.0}]]
    vae = inside.miniature_vae()
generator = torch.Generator().manual_seed(0)
latent = torch.randn(1, 16, 8, 8, generator=generator)
reference = torch.randn(1, 16, 8, 8, generator=generator)
weights = torch.randn(1, 16, 8, 8, generator=generator)


def weights_of(patcher):
    network = patcher.model.diffusion_model
    return {k: v.detach().clone() for k, v in network.state_dict().items()}


before = weights_of(model)


def relative(found, expected):
    return abs(float(found - expected)) / max(abs(float(expected)), 1e-12)


def derivative(value, start, step):
    """Relative error of the gradient along its own sign against central differences."""
    with torch.inference_mode(False), torch.enable_grad():
        point = start.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(value(point), point)
        direction = slope.sign()
    with torch.no_grad():
        ends = [value(start + sign * step * direction).double() for sign in (1, -1)]
    return relative((slope * direction).sum(), (ends[0] - ends[1]) / (2 * step)), slope


found = {}
with torch.inference_mode(), bridge.exact_gradients():
    plain = bridge.differentiable_field(model, conditioning)
    bridge.check_way_back(plain)
slopes = {}
with bridge.exact_gradients():
    for recompute in (True, False):
        field = replace(plain, recompute=recompute)
        name = "recomputed" if recompute else "kept"
        found[f"latent {name}"], slopes[name] = derivative(
            lambda z, f=field: (f(z, 0.6) * weights).sum(), latent, 1e-3
        )
        found[f"prompt {name}"], _ = derivative(
            lambda c, f=field: (f.at(c)(latent, 0.6) * weights).sum(), field.context, 1e-3
        )
        found[f"reference {name}"], _ = derivative(
            lambda r, f=field: (f.beside(r)(latent, 0.9) * weights).sum(), reference, 1e-3
        )
found["both ways"] = float((slopes["kept"] - slopes["recomputed"]).norm() / slopes["kept"].norm())

stack = load_stack()
theirs = stack.field(WORDS, 1.0)
with torch.enable_grad():
    point = latent.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad((theirs(point, 0.6) * weights).sum(), point)
found["diffusers"] = float((slopes["kept"] - expected).norm() / expected.norm())
text = theirs.prompt.context.shape[1]
with torch.no_grad():
    with recorded_attention(stack.transformer, text, (4, 4)) as one:
        theirs(latent, 0.6)
    with bridge.exact_gradients(), bridge.listener(plain, text, (4, 4)) as other:
        plain(latent, 0.6)
    with bridge.exact_gradients(), bridge.reference_listener(plain, text, (4, 4)) as shares:
        plain.beside(reference)(latent, 0.6)
found["maps"] = max(
    float((a.own - b.own).abs().max() + (a.cross - b.cross).abs().max())
    for a, b in zip(one.maps, other.maps, strict=True)
)
found["shares"] = [float(share) for share in shares.shares]

with torch.inference_mode():
    state = comfy.utils.load_torch_file(str(lora_path("sepia")))
    styled, _ = comfy.sd.load_lora_for_models(model, None, state, 1.0, 0.0)
    with bridge.exact_gradients():
        coloured = bridge.differentiable_field(styled, conditioning)
with torch.no_grad(), bridge.exact_gradients():
    found["lora moves"] = float((coloured(latent, 0.6) - plain(latent, 0.6)).norm())
    again = bridge.differentiable_field(model, conditioning)
    found["lora goes"] = float((again(latent, 0.6) - plain(latent, 0.6)).norm())

portrait = render(random_spec(349)).image[None]
image = portrait.movedim(1, -1)
with torch.inference_mode():
    output = ShieldAgainstEdits.execute(
        image, vae, "strong", 8, 4, 0, model=model, positive=conditioning
    )
shielded, difference, report = output.result if hasattr(output, "result") else output.args
found["budget"] = float((shielded - (image * 255).round() / 255).abs().max()) * 255
found["report"] = report

shield = replace(TRAINING_SHIELDS["full"], epochs=1, static_steps=2)


def trained(surrogate):
    return shield_training([portrait], surrogate, shield, stops=bridge.INTERRUPTS)


def with_way_back(work):
    with torch.inference_mode():
        return Asked(vae, model, conditioning).run(
            work, [(128, 128)], needs_model=True, needs_way_back=True
        )


done = with_way_back(trained)[0]
figures = done.settled.figures["trainer"]
found["trainer"] = [figures["error before"], figures["error after"]]


def broken(surrogate):
    def stop(step, picture):
        raise ValueError("broken")

    shield_training([portrait], surrogate, shield, on_step=stop)


try:
    with_way_back(broken)
    found["error"] = "none"
except ValueError:
    found["error"] = "told"


def interrupted(surrogate):
    def ask(step, picture):
        memory.interrupt_current_processing()

    return shield_training([portrait], surrogate, shield, on_step=ask, stops=bridge.INTERRUPTS)[0]


found["interrupted"] = with_way_back(interrupted).interrupted
after = weights_of(model)
found["untouched"] = all(torch.equal(after[k], before[k]) for k in before)
found["training flag"] = memory.in_training
found["hooks"] = sum(len(m._forward_hooks) for m in plain.network.modules())
assert set(EDIT_SHIELDS) == {"fast", "balanced", "strong", "kontext"}
assert isinstance(theirs.prompt, Prompt)
print(json.dumps(found))

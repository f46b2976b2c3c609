"""Run with ComfyUI's Python: what an evaluation of ours asks of the device, counted on the golden network.

Usage: evaluation_check.py COMFYUI PACK; prints JSON: reads of tensors' values and evaluations that carry an
attention patch, by way of sampling, and how far latents land from the source under each attention.
"""

from __future__ import annotations

import json
from pathlib import Path

import inside  # isort: skip; it makes the host and the pack importable
import comfy.ldm.flux.math
import comfy.ldm.modules.attention as attention
import comfy.samplers
import comfy.sd
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper
from portraits.fluxguard_core.flow import (
    ValueInjection,
    VelocityFusion,
    flux_schedule,
    generate,
    invert,
)
from portraits.nodes import host as bridge
from safetensors.torch import load_file
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

golden = Path(inside.pack) / "tests" / "golden"
STEPS, KEPT = 6, 2
found = {}


ATEN = torch.ops.aten
# Inference mode shows the outer two, any other mode the inner one.
VALUE_READS = (ATEN.item.default, ATEN.is_nonzero.default, ATEN._local_scalar_dense.default)


class Reads(TorchDispatchMode):
    """Counts values that leave the sampler's tensors for Python: each one waits for a card.

    The trajectory's own σ are float64 and always lie on the CPU, so reading them waits for nothing.
    """

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in VALUE_READS and args[0].dtype == torch.float32
        return function(*args, **(kwargs or {}))


class Watched:
    """Reads before the network runs, after it, and attention patches it is given, in each evaluation."""

    def __init__(self):
        self.reads, self.patched, self.mode = [], [], Reads()

    def around(self, executor, *args, **kwargs):
        with self.mode:
            before = self.mode.count
            result = executor(*args, **kwargs)
        self.reads.append(self.mode.count - before)
        return result

    def network(self, executor, *args, **kwargs):
        options = args[-1] if "transformer_options" not in kwargs else kwargs["transformer_options"]
        patches = options.get("patches", {}) if isinstance(options, dict) else {}
        self.patched.append(len(patches.get("attn1_patch", [])))
        return executor(*args, **kwargs)

    def watching(self, model):
        """A clone of a MODEL whose evaluations are watched, from outside of all that it carries."""
        seen = model.clone()
        inner = {key: list(found) for key, found in seen.wrappers.get("predict_noise", {}).items()}
        seen.wrappers["predict_noise"] = {"probe": [self.around], **inner}
        seen.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "probe", self.network)
        return seen


run = load_file(golden / "open_run.safetensors")


def prompt(which, guidance):
    options = {"pooled_output": run[f"{which}_pooled"].float(), "guidance": guidance}
    return [[run[f"{which}_context"].float(), options]]


def stock(model, sampler, trajectory):
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": prompt("target", 5.5)})
    noise = bridge.TrajectoryNoise(trajectory).generate_noise({"samples": trajectory.source})
    source = model.model.process_latent_out(trajectory.source)
    sigmas = trajectory.sigmas.float()
    made = guider.sample(noise, source, sampler, sigmas, disable_pbar=True, seed=0)
    return model.model.process_latent_in(made)


def counted() -> None:
    """One read an evaluation of a stock sampler, none where the solver is ours, patches only when due."""
    ways = {
        "stock": lambda model: stock(model, comfy.samplers.ksampler("euler"), trajectory),
        "ours": lambda model: stock(model, bridge.flow_sampler("midpoint"), trajectory),
    }
    edited = bridge.inject_values(model, ValueInjection(trajectory, KEPT))
    mask = torch.ones(1, 1, 16, 16) / 2
    edited = bridge.fuse_velocities(edited, VelocityFusion(trajectory, mask))
    edited = bridge.fuse_velocities(edited, VelocityFusion(trajectory, mask))
    for name, sample in ways.items():
        plain, ours = Watched(), Watched()
        sample(plain.watching(model))
        sample(ours.watching(edited))
        found[name] = {
            "reads": max(a - b for a, b in zip(ours.reads, plain.reads, strict=True)),
            "evaluations": len(ours.reads),
            "patched": ours.patched,
        }


def inverted() -> None:
    """An inversion installs its tap only in the intervals whose values it keeps."""
    global trajectory
    seen = Watched()
    trajectory = inversion(seen.watching(model))
    found["inversion"] = {"patched": seen.patched, "kept": len(trajectory.values)}


def inversion(model):
    source, sigmas = run["latent"].float(), flux_schedule(STEPS, 64)
    return bridge.with_field(
        model,
        prompt("source", 1.0),
        lambda field: invert(field, source, sigmas, value_intervals=KEPT),
        shape=source.shape,
        sigmas=sigmas,
        solver="midpoint",
        raw=True,
    )


def error_of_retracing(model) -> float:
    """How far an edit that changes nothing lands from its source."""
    made = inversion(model)
    patched = bridge.inject_values(model, ValueInjection(made, KEPT))
    keep = VelocityFusion(made, torch.zeros(1, 1, 16, 16))
    back = bridge.with_field(
        bridge.fuse_velocities(patched, keep),
        prompt("target", 5.5),
        lambda field: generate(field, made),
        shape=made.source.shape,
        sigmas=made.sigmas,
        solver="midpoint",
        follows=made,
    )
    return float((back - made.source).norm() / made.source.norm())


def retraced() -> None:
    """Values are replaced before any attention runs, so each of them retraces its own inversion."""
    found["retraced"] = {}
    used = comfy.ldm.flux.math.optimized_attention
    for kind in ("attention_pytorch", "attention_split", "attention_sub_quad", "attention_basic"):
        comfy.ldm.flux.math.optimized_attention = getattr(attention, kind)
        found["retraced"][kind] = error_of_retracing(model)
    comfy.ldm.flux.math.optimized_attention = used


def in_bfloat16() -> None:
    """The same with a network in bfloat16, whose latents and record stay float32."""
    options = {"dtype": torch.bfloat16}
    coarse = comfy.sd.load_diffusion_model(
        str(golden / "open_flux.safetensors"), model_options=options
    )
    coarse.model.manual_cast_dtype = torch.bfloat16  # on a CPU the host would compute in float32
    assert coarse.model.get_dtype_inference() == torch.bfloat16
    found["bfloat16"] = error_of_retracing(coarse)


def compiled() -> None:
    """The host's torch.compile keeps what it has compiled in evaluations without a patch, and hears the others."""
    counter = CompileCounter()
    fast = model.clone()
    set_torch_compile_wrapper(fast, counter)
    error = error_of_retracing(fast)
    first = counter.frame_count
    stock(fast, bridge.flow_sampler("midpoint"), trajectory)
    plain = counter.frame_count
    again = error_of_retracing(fast)
    stock(fast, bridge.flow_sampler("midpoint"), trajectory)
    found["compiled"] = {
        "errors": [error, again],
        "frames": [first, plain, counter.frame_count],
    }


with torch.inference_mode():
    model = comfy.sd.load_diffusion_model(str(golden / "open_flux.safetensors"))
    inverted()
    counted()
    retraced()
    in_bfloat16()
    compiled()
print(json.dumps(found))

"""Nodes that only the tests need: tensors from files, foreign patches, looks at the user's VAE."""

from __future__ import annotations

import hashlib
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import ComfyExtension, io, ui
from safetensors.torch import load_file


def _tensor(name: str) -> torch.Tensor:
    file, key = name.split(":")
    return load_file(Path(folder_paths.get_input_directory()) / file)[key]


class ProbeConditioning(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Conditioning",
            category="probe",
            inputs=[io.String.Input("context"), io.String.Input("pooled")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, context, pooled):
        return io.NodeOutput([[_tensor(context), {"pooled_output": _tensor(pooled)}]])


class ProbeTagged(io.ComfyNode):
    """A conditioning with an extra of the given kind, as ControlNet and Kontext nodes make it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Tagged",
            category="probe",
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Combo.Input("kind", options=["control", "reference_latents", "twice"]),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning, kind):
        if kind == "twice":
            return io.NodeOutput(conditioning * 2)
        extra = object() if kind == "control" else [torch.zeros(1, 16, 8, 8)]
        return io.NodeOutput([[c, {**d, kind: extra}] for c, d in conditioning])


class ProbeLatent(io.ComfyNode):
    """A model-space FLUX latent from a file, as VAE Encode would hand it over."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Latent",
            category="probe",
            inputs=[
                io.String.Input("latent"),
                io.Int.Input("copies", default=1, min=1),
                io.Int.Input("crop", default=0, min=0),
                io.Boolean.Input("noise_mask", default=False),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, latent, copies, crop, noise_mask):
        z = _tensor(latent).repeat(copies, 1, 1, 1)
        # Further pictures of the batch differ, so that mixed-up items would show.
        z = torch.stack([torch.roll(item, i, -1) for i, item in enumerate(z)])
        z = z[..., : z.shape[-2] - crop, :] / 0.3611 + 0.1159
        extra = {"noise_mask": torch.ones(1, 1, *z.shape[-2:]) / 2} if noise_mask else {}
        return io.NodeOutput({"samples": z, **extra})


class ProbeMask(io.ComfyNode):
    """Latent-resolution mask from a file."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Mask",
            category="probe",
            inputs=[io.String.Input("mask"), io.Float.Input("times", default=1.0)],
            outputs=[io.Mask.Output()],
        )

    @classmethod
    def execute(cls, mask, times):
        return io.NodeOutput(_tensor(mask)[:, 0] * times)


class ProbeForeignPatch(io.ComfyNode):
    """Another pack's attn1 patch: scales the queries."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_ForeignPatch",
            category="probe",
            inputs=[io.Model.Input("model"), io.Float.Input("scale", default=1.1)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, scale):
        patched = model.clone()

        def patch(q, k, v, pe=None, attn_mask=None, extra_options=None):
            return {"q": q * scale}

        patched.set_model_attn1_patch(patch)
        return io.NodeOutput(patched)


class ProbeSkippingCache(io.ComfyNode):
    """What a step-skipping cache does: every evaluation after the first repeats it."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_SkippingCache",
            category="probe",
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model):
        from comfy.patcher_extension import WrappersMP

        patched, kept = model.clone(), []

        def skip(executor, x, *args, **kwargs):
            if not kept:
                kept.append(executor(x, *args, **kwargs))
            return kept[0]

        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "probe", skip)
        return io.NodeOutput(patched)


class ProbeVae(io.ComfyNode):
    """A digest of the user's VAE, whether its weights are inference tensors, and what is loaded."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Vae",
            category="probe",
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Vae.Input("vae"),
                io.AnyType.Input("after", optional=True),
                io.Boolean.Input("unload", default=False),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, vae, unload, after=None):
        import comfy.model_management as memory

        if unload:
            memory.unload_all_models()
        digest = hashlib.sha256()
        state = vae.first_stage_model.state_dict()
        for name in sorted(state):
            digest.update(name.encode() + state[name].float().cpu().numpy().tobytes())
        inference = all(p.is_inference() for p in vae.first_stage_model.parameters())
        loaded = len(memory.current_loaded_models)
        return io.NodeOutput(ui=ui.PreviewText(f"{digest.hexdigest()} {inference} {loaded}"))


class ProbeExtension(ComfyExtension):
    async def get_node_list(self):
        return [
            ProbeConditioning,
            ProbeTagged,
            ProbeLatent,
            ProbeMask,
            ProbeForeignPatch,
            ProbeSkippingCache,
            ProbeVae,
        ]


async def comfy_entrypoint():
    return ProbeExtension()

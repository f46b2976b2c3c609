"""Nodes that only the tests need: tensors from files, foreign patches, looks at the user's VAE."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path

import comfy.ops
import comfy.samplers
import comfy.sd
import comfy.sd1_clip
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
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


class FixedNoise:
    """NOISE of one tensor whatever the seed, which only the sampler hears of."""

    def __init__(self, noise, seed):
        self.noise, self.seed = noise, seed

    def generate_noise(self, latent):
        return self.noise.clone()


class ProbeNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Noise",
            category="probe",
            inputs=[io.String.Input("noise"), io.Int.Input("seed", default=0)],
            outputs=[io.Noise.Output()],
        )

    @classmethod
    def execute(cls, noise, seed):
        return io.NodeOutput(FixedNoise(_tensor(noise), seed))


def nice_sampler(model, x, sigmas, extra_args=None, callback=None, disable=None, noise=0.0):
    """Euler; with ``noise``, some is drawn after each step from a generator of its own."""
    generator = torch.Generator().manual_seed(42)
    for sigma, after in itertools.pairwise(sigmas):
        denoised = model(x, sigma * x.new_ones(x.shape[0]), **extra_args)
        x = x + (x - denoised) / sigma * (after - sigma)
        x = x + noise * after * torch.randn(x.shape, generator=generator)
    return x


class OwnSampler(comfy.samplers.Sampler):
    """A SAMPLER that is none of the host's kind, and looks into the model before it starts."""

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, latent_image=None, *_):
        assert noise.shape[-1] > 8, "not a picture"
        sampling = model_wrap.inner_model.model_sampling
        x = sampling.noise_scaling(sigmas[0], noise, latent_image)
        for sigma, after in itertools.pairwise(sigmas):
            denoised = model_wrap(x, sigma * x.new_ones(x.shape[0]), **extra_args)
            x = x + (x - denoised) / sigma * (after - sigma)
        return x


class ProbeSampler(io.ComfyNode):
    """Samplers of other packs: Euler, Euler with noise that no name tells of, a class of its own."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Sampler",
            category="probe",
            inputs=[io.Combo.Input("kind", options=["nice", "noisy", "own"])],
            outputs=[io.Sampler.Output()],
        )

    @classmethod
    def execute(cls, kind):
        if kind == "own":
            return io.NodeOutput(OwnSampler())
        noise = 0.1 if kind == "noisy" else 0.0
        return io.NodeOutput(comfy.samplers.KSAMPLER(nice_sampler, {"noise": noise}))


class ProbeSecondFace(io.ComfyNode):
    """The host's FACE_LANDMARKS with every face once more, further right, on a wider picture."""

    @classmethod
    def define_schema(cls):
        wire = io.Custom("FACE_LANDMARKS")
        return io.Schema(
            node_id="Probe_SecondFace",
            category="probe",
            inputs=[wire.Input("face_landmarks"), io.Image.Input("image"), io.Int.Input("shift")],
            outputs=[wire.Output()],
        )

    @classmethod
    def execute(cls, face_landmarks, image, shift):
        def moved(face):
            points = face["landmarks_xy"] + np.array([shift, 0], dtype=np.float32)
            box = face["bbox_xyxy"] + np.array([shift, 0, shift, 0], dtype=np.float32)
            return {**face, "landmarks_xy": points, "bbox_xyxy": box}

        frames = [[*faces, *map(moved, faces)] for faces in face_landmarks["frames"]]
        size = tuple(image.shape[1:3])
        return io.NodeOutput({**face_landmarks, "frames": frames, "image_size": size})


class QuantisedOperations(comfy.ops.manual_cast):
    """Linear layers as packs for GGUF bring them: stored in 8 bits, dequantised at every call."""

    class Linear(torch.nn.Module):
        def __init__(self, in_features, out_features, bias=True, device=None, dtype=None):
            super().__init__()
            self.in_features, self.out_features = in_features, out_features
            for name in ("weight", "scale", "bias"):
                self.register_parameter(name, None)

        def _load_from_state_dict(self, state, prefix, *_):
            weight = state[f"{prefix}weight"].float()
            scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / 127
            self.weight = torch.nn.Parameter((weight / scale).round().char(), requires_grad=False)
            self.scale = torch.nn.Parameter(scale, requires_grad=False)
            if f"{prefix}bias" in state:
                bias = state[f"{prefix}bias"].float()
                self.bias = torch.nn.Parameter(bias, requires_grad=False)

        def forward(self, x):
            weight = (self.weight.float() * self.scale).to(x)
            return torch.nn.functional.linear(
                x, weight, None if self.bias is None else self.bias.to(x)
            )


class ProbeQuantisedLoader(io.ComfyNode):
    """Loads a transformer with foreign Linear layers, the way GGUF loaders do."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_QuantisedLoader",
            category="probe",
            inputs=[io.String.Input("unet_name")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, unet_name):
        path = folder_paths.get_full_path_or_raise("diffusion_models", unet_name)
        model = comfy.sd.load_diffusion_model_state_dict(
            load_file(path), model_options={"custom_operations": QuantisedOperations}
        )
        block = model.model.diffusion_model.single_blocks[0]
        assert block.linear1.weight.dtype == torch.int8
        return io.NodeOutput(model)


class ProbeNarrowVae(io.ComfyNode):
    """A VAE on a card that is too small: so many decodes with gradients find no memory."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_NarrowVae",
            category="probe",
            inputs=[io.String.Input("vae_name"), io.Int.Input("failures")],
            outputs=[io.Vae.Output()],
        )

    @classmethod
    def execute(cls, vae_name, failures):
        path = folder_paths.get_full_path_or_raise("vae", vae_name)
        state, metadata = comfy.utils.load_torch_file(path, return_metadata=True)
        vae = comfy.sd.VAE(sd=state, metadata=metadata)
        left = [None] * failures

        class Narrow(type(vae.first_stage_model)):
            def decode(self, *args, **kwargs):
                if torch.is_grad_enabled() and left:
                    left.pop()
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")
                return super().decode(*args, **kwargs)

        vae.first_stage_model.__class__ = Narrow
        return io.NodeOutput(vae)


def _clip_l(means, tokenizer):
    """CLIP-L in its published layout, but small: a text's vector is the mean of its words' vectors.

    means: "words=word" and more after ";": tokens that have no vector of their own but that word's.
    """
    generator = torch.Generator().manual_seed(4)
    width, inner, layers = 128, 8, "text_model.encoder.layers"
    words = torch.randn(49408, width, generator=generator)

    def ids(text):
        return [token for token, _ in tokenizer.tokenize_with_weights(text)[0] if token < 49406]

    for pair in means.split(";"):
        wish, word = pair.split("=")
        for token in set(ids(wish)):
            words[token] = words[ids(word)].mean(0)
    state = {
        "text_model.embeddings.token_embedding.weight": words,
        "text_model.embeddings.position_embedding.weight": torch.zeros(77, width),
        "text_model.final_layer_norm.weight": torch.ones(width),
        "text_model.final_layer_norm.bias": torch.zeros(width),
    }
    for layer in range(2):
        here = f"{layers}.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            gathers = layer == 0 and name in ("v_proj", "out_proj")
            state[f"{here}.self_attn.{name}.weight"] = gathers * torch.eye(width)
            state[f"{here}.self_attn.{name}.bias"] = torch.zeros(width)
        for name in ("layer_norm1", "layer_norm2"):
            state[f"{here}.{name}.weight"] = torch.ones(width)
            state[f"{here}.{name}.bias"] = torch.zeros(width)
        for name, shape in (("fc1", (inner, width)), ("fc2", (width, inner))):
            state[f"{here}.mlp.{name}.weight"] = torch.zeros(shape)
            state[f"{here}.mlp.{name}.bias"] = torch.zeros(shape[0])
    return state


class ProbeClip(io.ComfyNode):
    """A CLIP of the host's own classes: CLIP-L alone, or with a T5 that fails on every text."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Clip",
            category="probe",
            inputs=[io.String.Input("means"), io.Combo.Input("type", options=["clip-l", "flux"])],
            outputs=[io.Clip.Output()],
        )

    @classmethod
    def execute(cls, means, type):
        clip = {"num_hidden_layers": 2, "hidden_size": 128, "intermediate_size": 8}
        t5 = {"num_layers": 1, "d_ff": 8, "num_heads": 1, "vocab_size": 1}
        options = {"model_config": {**clip, "num_attention_heads": 2}, "t5xxl_model_config": t5}
        states = [_clip_l(means, comfy.sd1_clip.SDTokenizer())]
        kind = comfy.sd.CLIPType.STABLE_DIFFUSION
        if type == "flux":
            kind = comfy.sd.CLIPType.FLUX
            states.append({"encoder.block.0.layer.0.layer_norm.weight": torch.ones(4096)})
        loaded = comfy.sd.load_text_encoder_state_dicts(
            states, clip_type=kind, model_options=options
        )
        return io.NodeOutput(loaded)


class ProbeFlux2Vae(io.ComfyNode):
    """FLUX.2's autoencoder as the host builds it, with a narrow decoder and random weights."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="Probe_Flux2Vae", category="probe", inputs=[], outputs=[io.Vae.Output()]
        )

    @classmethod
    def execute(cls):
        config = {
            "double_z": True,
            "z_channels": 32,
            "resolution": 256,
            "in_channels": 3,
            "out_ch": 3,
            "ch": 128,
            "ch_mult": [1, 2, 4, 4],
            "num_res_blocks": 2,
            "attn_resolutions": [],
            "dropout": 0.0,
            "batch_norm_latent": True,
        }
        network = AutoencoderKL(
            ddconfig=config, embed_dim=32, decoder_ddconfig={**config, "ch": 32}
        )
        generator = torch.Generator().manual_seed(6)
        state = {}
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                state[name] = torch.zeros((), dtype=torch.long)
            elif name.startswith("bn."):
                state[name] = torch.full_like(tensor, float("var" in name))
            elif tensor.ndim < 2:
                state[name] = torch.full_like(tensor, float("norm" in name and "weight" in name))
            else:
                scale = tensor[0].numel() ** -0.5
                state[name] = scale * torch.randn(tensor.shape, generator=generator)
        vae = comfy.sd.VAE(sd=state)
        assert (vae.latent_channels, vae.upscale_ratio) == (128, 16)
        return io.NodeOutput(vae)


class ProbeExtension(ComfyExtension):
    async def get_node_list(self):
        return [
            ProbeConditioning,
            ProbeLatent,
            ProbeMask,
            ProbeForeignPatch,
            ProbeSkippingCache,
            ProbeVae,
            ProbeNoise,
            ProbeSampler,
            ProbeSecondFace,
            ProbeQuantisedLoader,
            ProbeNarrowVae,
            ProbeClip,
            ProbeFlux2Vae,
        ]


async def comfy_entrypoint():
    return ProbeExtension()

"""The one place that touches ComfyUI: models as velocity fields, patches, decoders, progress, interrupts.

Only clones are ever changed, and only through public hooks: patches on attention, wrappers and functions
after guidance. What a patch needs is found through σ, never through a count of calls.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import comfy.model_base
import comfy.model_management as memory
import comfy.model_patcher
import comfy.samplers
import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..fluxguard_core.errors import FluxGuardError
from ..fluxguard_core.flow import (
    SOLVERS,
    Block,
    Evaluation,
    Layout,
    SolverName,
    Trajectory,
    ValueInjection,
    ValueTap,
    VelocityFusion,
)
from ..fluxguard_core.flow.controls import expand_batch
from ..fluxguard_core.flow.field import require_finite
from ..fluxguard_core.flow.solvers import solver_named
from ..fluxguard_core.imageio import to_pillow
from ..fluxguard_core.mini.models import FEATURE_SCALE
from ..fluxguard_core.protect.gradients import differentiable

Model = Any  # comfy.model_patcher.ModelPatcher, which is untyped
Conditioning = Any  # list of [tensor, dictionary]
Result = TypeVar("Result")

KEY = "fluxguard"
STAGES = (
    "fluxguard_stages"  # in transformer_options: how many evaluations an interval the sampler makes
)
_CHANNELS = 16
_START_TOLERANCE = 1e-2
# Samplers that add noise on the way, by the words in their names.
_NOISY = ("ancestral", "sde", "ddpm", "lcm", "seeds_", "sa_solver")
_FOREIGN_MODELS = ("Flux2", "LongCatImage")
_UNSUPPORTED = {
    "control": "a ControlNet",
    "reference_latents": "reference latents (Kontext)",
    "area": "an area",
    "mask": "a mask",
    "gligen": "GLIGEN boxes",
    "start_percent": "a timestep range",
    "end_percent": "a timestep range",
}


def flux_layout(model: Model) -> Layout:
    """The shape of a MODEL's transformer; FluxGuardError for anything but FLUX.1."""
    base = model.model
    foreign = [getattr(comfy.model_base, name, ()) for name in _FOREIGN_MODELS]
    network = getattr(base, "diffusion_model", None)
    known = isinstance(base, comfy.model_base.Flux) and not any(
        kind and isinstance(base, kind) for kind in foreign
    )
    if not known or not hasattr(network, "single_blocks") or not hasattr(network, "params"):
        raise FluxGuardError(
            f"Expected a FLUX.1 MODEL, got {type(base).__name__} ({type(network).__name__}). Load flux1-dev, "
            "schnell or a finetune of them with Load Diffusion Model; replaced transformers do not work."
        )
    params = network.params
    if params.in_channels != _CHANNELS:
        raise FluxGuardError(
            f"This FLUX takes {params.in_channels} latent channels, expected {_CHANNELS}: a Fill, Canny or Depth "
            "model. Load flux1-dev or a finetune of it."
        )
    return Layout(
        model="flux" if params.guidance_embed else "flux without guidance",
        double_blocks=len(network.double_blocks),
        single_blocks=len(network.single_blocks),
        width=params.hidden_size,
    )


def with_guidance(conditioning: Conditioning, guidance: float) -> Conditioning:
    """A copy of the conditioning with a FLUX guidance value."""
    return [[context, {**options, "guidance": guidance}] for context, options in conditioning]


def check_conditioning(conditioning: Conditioning, role: str) -> None:
    """Refuse conditionings whose effect could not be retraced."""
    if len(conditioning) != 1:
        raise FluxGuardError(
            f"The {role} holds {len(conditioning)} conditionings, expected one. Describe the picture in a single "
            "prompt, without Conditioning Combine."
        )
    options = conditioning[0][1]
    for name, what in _UNSUPPORTED.items():
        if options.get(name) is not None:
            raise FluxGuardError(
                f"The {role} carries {what}, which cannot be retraced. Connect the plain prompt here, and use the "
                "extra in the stock sampler graph."
            )


def picture_latent(latent: dict[str, Any]) -> Tensor:
    """The samples of a LATENT that FLUX can read, without its noise mask (which would corrupt the flow)."""
    samples = latent["samples"]
    if getattr(samples, "is_nested", False) or samples.ndim != 4 or samples.shape[1] != _CHANNELS:
        raise FluxGuardError(
            f"Expected a FLUX latent [batch, {_CHANNELS}, height, width], got {list(samples.shape)}. Encode the "
            "picture with VAE Encode and FLUX's VAE (ae.safetensors)."
        )
    if not bool(samples.any()):
        raise FluxGuardError(
            "The latent is empty, so there is nothing to invert. Encode a picture with VAE Encode."
        )
    return samples


def to_model_space(model: Model, samples: Tensor) -> Tensor:
    """Host latent -> what the transformer sees, float32 on its device."""
    return model.model.process_latent_in(samples.to(model.load_device, torch.float32))


def to_latent(model: Model, latent: Tensor) -> dict[str, Any]:
    """Model-space latent -> LATENT."""
    samples = model.model.process_latent_out(latent.detach().float())
    return {"samples": samples.to(memory.intermediate_device())}


def placed(trajectory: Trajectory, device: torch.device) -> Trajectory:
    """The trajectory with its two latents on a device; its records stay where they are."""
    return replace(
        trajectory,
        source=trajectory.source.to(device),
        terminal=trajectory.terminal.to(device),
    )


# ---- a MODEL with a CONDITIONING as a velocity field --------------------------------------------------


@dataclass(eq=False)
class _Probe:
    """What the inversion hears of one evaluation: the raw network output, and attention values."""

    tap: ValueTap | None = None
    output: Tensor | None = None
    calls: int = 0

    def network(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.output = executor(*args, **kwargs)
        self.calls += 1
        return self.output

    def attention(self, q: Tensor, k: Tensor, v: Tensor, **options: Any) -> dict[str, Tensor]:
        if self.tap is None:
            return {}
        replaced = _tapped(self.tap, v, options.get("extra_options") or {})
        return {} if replaced is None else {"v": replaced}


def _tapped(tap: ValueTap, v: Tensor, options: dict[str, Any]) -> Tensor | None:
    """Show values [B, heads, T, D] to a tap, which sees them as [B, T, heads · D]."""
    if options.get("reference_image_num_tokens"):
        raise FluxGuardError(
            "Attention values cannot be kept or injected beside reference latents (Kontext). Take the reference "
            "latents out of the conditioning."
        )
    block = Block(options["block_type"], options["block_index"])
    values = v.transpose(1, 2).flatten(2)
    replaced = tap(block, values, options["img_slice"][0])
    if replaced is None:
        return None
    return replaced.unflatten(2, (v.shape[1], v.shape[3])).transpose(1, 2).to(v.dtype)


@dataclass(eq=False)
class HostField:
    """Velocity of a MODEL at a CONDITIONING, inside a running guider.

    ``raw`` takes the network's own output (inversion, also at σ = 0); otherwise the velocity is what is
    left after every patch on the MODEL, so that the edit's patches and other packs' have their say.
    """

    layout: Layout
    predict: Callable[..., Tensor]
    options: dict[str, Any]
    probe: _Probe
    raw: bool

    def __call__(self, latent: Tensor, sigma: float, tap: ValueTap | None = None) -> Tensor:
        memory.throw_exception_if_processing_interrupted()
        self.probe.tap, self.probe.output, self.probe.calls = tap, None, 0
        levels = latent.new_full((latent.shape[0],), sigma)
        denoised = self.predict(latent, levels, model_options=self.options, seed=None)
        output = self.probe.output
        if self.probe.calls != 1 or output is None:
            raise FluxGuardError(
                f"The transformer ran {self.probe.calls} times where once was expected. A step-skipping cache "
                "(TeaCache, EasyCache ...) or a replaced transformer is at work on this MODEL: switch it off."
            )
        return output.float() if self.raw else (latent - denoised) / sigma


class EngineSampler(comfy.samplers.Sampler):
    """Hands the guider's model to the engine, past the samplers' own noise scaling (0 / 0 at σ = 1)."""

    def __init__(self, work: Callable[[Any, dict[str, Any]], Tensor]) -> None:
        self.work = work

    def sample(
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
        **_: Any,
    ) -> Tensor:
        return self.work(model_wrap, extra_args["model_options"])


def with_field(
    model: Model,
    conditioning: Conditioning,
    work: Callable[[HostField], Result],
    *,
    shape: torch.Size,
    sigmas: Tensor,
    solver: SolverName,
    raw: bool = False,
) -> Result:
    """Run the engine on a MODEL: the host loads it, and takes it down again afterwards.

    Args:
        work: what to do with the field.
        shape: largest latent batch it will see, for the host's memory estimate.
        raw: the field is the bare network, and shows attention values.
    """
    layout, probe = flux_layout(model), _Probe()
    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, probe.network)
    if raw:
        patched.set_model_attn1_patch(probe.attention)
    results: list[Result] = []

    def run(model_wrap: Any, options: dict[str, Any]) -> Tensor:
        options.setdefault("transformer_options", {})[STAGES] = SOLVERS[solver].stages
        results.append(work(HostField(layout, model_wrap, options, probe, raw)))
        return torch.zeros(shape, device=patched.load_device)

    guider = comfy.samplers.CFGGuider(patched)
    guider.inner_set_conds({"positive": conditioning})
    empty = torch.zeros(shape)
    guider.sample(empty, empty, EngineSampler(run), sigmas.float(), disable_pbar=True, seed=0)
    return results[0]


def edit_patches(model: Model) -> list[str]:
    """Names of FluxGuard's edit patches on a MODEL."""
    return list(model.model_options.get(KEY, ()))


# ---- edit controls as patches ------------------------------------------------------------------------


def inject_values(model: Model, injection: ValueInjection) -> Model:
    """A clone of MODEL whose attention values are replaced where the injection says so."""
    trajectory = injection.trajectory
    patched = _guarded_clone(model, trajectory, "Attention-V Injection")
    hits = [0]

    def attention(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> dict[str, Tensor]:
        options = given.get("extra_options") or {}
        tap = injection.tap(_evaluation(trajectory, _sigma(options["sigmas"]), options))
        replaced = None if tap is None else _tapped(tap, v, options)
        if replaced is None:
            return {}
        hits[0] += 1
        return {"v": replaced}

    def count(given: dict[str, Any]) -> Tensor:
        options = given["model_options"].get("transformer_options", {})
        due = injection.tap(_evaluation(trajectory, _sigma(given["sigma"]), options)) is not None
        if due and not hits[0]:
            raise FluxGuardError(
                "Attention-V Injection was due at this step, but the MODEL never passed by it. A step-skipping cache "
                "or a replaced transformer is at work on this MODEL: switch it off."
            )
        hits[0] = 0
        return given["denoised"]

    patched.set_model_attn1_patch(attention)
    patched.set_model_sampler_post_cfg_function(count)
    return patched


def fuse_velocities(model: Model, fusion: VelocityFusion) -> Model:
    """A clone of MODEL whose velocity is fused with the recorded one outside the mask."""
    trajectory = fusion.trajectory
    patched = _guarded_clone(model, trajectory, "Velocity Fusion")

    def fuse(given: dict[str, Any]) -> Tensor:
        x, denoised, sigma = given["input"], given["denoised"], _sigma(given["sigma"])
        options = given["model_options"].get("transformer_options", {})
        at = trajectory.locate(sigma, stages=options.get(STAGES, 1))
        velocity = (x - denoised) / sigma
        fused = fusion.steer_near(sigma, velocity) if at is None else fusion.steer(at, velocity)
        return denoised if fused is velocity else x - sigma * fused

    patched.set_model_sampler_post_cfg_function(fuse)
    return patched


def _evaluation(trajectory: Trajectory, sigma: float, options: dict[str, Any]) -> Evaluation:
    at = trajectory.locate(sigma, stages=options.get(STAGES, 1))
    return trajectory.nearest(sigma) if at is None else at


def _sigma(sigmas: Any) -> float:
    return float(sigmas.max() if isinstance(sigmas, Tensor) else sigmas)


def _guarded_clone(model: Model, trajectory: Trajectory, name: str) -> Model:
    """A clone that checks every run against the trajectory before it starts."""
    trajectory.check_model(flux_layout(model))
    patched = model.clone()
    names = (*edit_patches(model), name)
    patched.model_options = {**patched.model_options, KEY: names}

    def run(executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        noise, latent, sampler, sigmas = args[:4]
        mask = args[4] if len(args) > 4 else kwargs.get("denoise_mask")
        _check_run(name, model, trajectory, noise, sampler, sigmas, mask)
        if not isinstance(sampler, EngineSampler):
            _check_start(name, model, trajectory, noise, latent, float(sigmas[0]))
        return executor(*args, **kwargs)

    # One key a patch, so that stacked patches keep a guard each.
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, f"{KEY}.{len(names)}", run)
    return patched


def _check_run(
    name: str,
    model: Model,
    trajectory: Trajectory,
    noise: Tensor,
    sampler: Any,
    sigmas: Tensor,
    mask: Tensor | None,
) -> None:
    trajectory.check_latent(noise.shape)
    trajectory.locate(float(sigmas[0]))
    function = getattr(getattr(sampler, "sampler_function", None), "__name__", "")
    if any(word in function for word in _NOISY):
        raise FluxGuardError(
            f"{name}: the sampler '{function.removeprefix('sample_')}' adds noise on the way, so the recorded "
            "velocities do not fit. Use RF Sampler, or stock euler."
        )
    if mask is not None:
        raise FluxGuardError(
            f"{name}: the latent carries a noise mask, which works against the recorded trajectory. Use the LATENT "
            "of Trajectory Start, and give the mask to Velocity Fusion."
        )


def _check_start(
    name: str, model: Model, trajectory: Trajectory, noise: Tensor, latent: Tensor, first: float
) -> None:
    if not math.isclose(first, float(trajectory.sigmas[0]), abs_tol=1e-4):
        return  # the later part of a split schedule starts from a latent of its own
    source = model.model.process_latent_in(latent.float())
    start = first * noise.float() + (1 - first) * source.to(noise)
    expected = expand_batch(trajectory.terminal.to(start), start.shape[0])
    if float((start - expected).norm()) > _START_TOLERANCE * float(expected.norm()):
        raise FluxGuardError(
            f"{name}: this sampling starts from other noise than the inversion ended at, so nothing would be "
            "retraced. Connect NOISE, SIGMAS and LATENT of Trajectory Start to the sampler."
        )


# ---- the engine's solvers as a SAMPLER ---------------------------------------------------------------


def flow_sampler(solver: SolverName) -> Any:
    """A SAMPLER that steps with one of the engine's solvers."""
    rule = solver_named(solver)

    @torch.no_grad()
    def sample_flow(
        model: Any,
        x: Tensor,
        sigmas: Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Any = None,
        disable: bool | None = None,
        **_: Any,
    ) -> Tensor:
        grid = sigmas.double().cpu().tolist()
        if any(low >= high for high, low in pairwise(grid)):
            raise FluxGuardError(
                "RF Sampler needs σ values that fall. To run a picture towards noise use RF Inversion instead of "
                "flipped sigmas."
            )
        given = {**(extra_args or {})}
        options = {**given.get("model_options", {})}
        options["transformer_options"] = {
            **options.get("transformer_options", {}),
            STAGES: rule.stages,
        }
        given["model_options"] = options

        def evaluate(z: Tensor, sigma: float, stage: int) -> Tensor:
            denoised = model(z, z.new_full((z.shape[0],), sigma), **given)
            return require_finite((z - denoised) / sigma, sigma)

        previous: Tensor | None = None
        for i in range(len(grid) - 1):
            start = x
            x, seen = rule.step(evaluate, x, grid[i], grid[i + 1], previous)
            previous = seen[-1]
            if callback is not None:
                estimate = start - grid[i] * seen[-1]
                callback(
                    {
                        "x": x,
                        "i": i,
                        "sigma": sigmas[i],
                        "sigma_hat": sigmas[i],
                        "denoised": estimate,
                    }
                )
        return x

    return comfy.samplers.KSAMPLER(sample_flow)


@dataclass(frozen=True, eq=False)
class TrajectoryNoise:
    """NOISE with which a stock sampler starts exactly where an inversion ended."""

    trajectory: Trajectory
    seed: int = field(default=0)

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """(terminal - (1 - σ_0) · source) / σ_0, which the host scales back."""
        trajectory = self.trajectory
        shape = latent["samples"].shape
        trajectory.check_latent(shape)
        first = float(trajectory.sigmas[0])
        noise = (trajectory.terminal - (1 - first) * trajectory.source) / first
        return expand_batch(noise, shape[0]).cpu().contiguous()


# ---- progress and ordinary tensors -------------------------------------------------------------------


@dataclass(eq=False)
class Progress:
    """The host's progress bar with a picture on it; stops the run where the user asked for it."""

    total: int
    bar: Any = field(init=False)

    def __post_init__(self) -> None:
        self.bar = comfy.utils.ProgressBar(self.total)

    def __call__(self, done: int, preview: Any = None) -> None:
        memory.throw_exception_if_processing_interrupted()
        self.bar.update_absolute(done, self.total, preview)


def latent_preview(model: Model) -> Callable[[Tensor], Any]:
    """Model-space latent -> the host's own preview for the progress bar, or None where previews are off."""
    import latent_preview as previews

    previewer = previews.get_previewer(model.load_device, model.model.latent_format)

    def preview(latent: Tensor) -> Any:
        return (
            None if previewer is None else previewer.decode_latent_to_preview_image("JPEG", latent)
        )

    return preview


def picture_preview(picture: Tensor) -> Any:
    """The first picture of [B, 3, H, W] for the progress bar."""
    return "JPEG", to_pillow(picture[:1].detach().float().cpu().clamp(0, 1)), 512


@contextmanager
def ordinary_tensors() -> Iterator[None]:
    """Leave the host's inference mode, so that what is made here may later take part in gradients."""
    with torch.inference_mode(False), torch.no_grad():
        yield


# ---- decoders and recognisers that gradients pass through --------------------------------------------

_private: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
_patchers: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
# Memory for the way back through a decoder with checkpointed blocks, in decodes without gradients.
_BACKWARD = 3.0


@dataclass(frozen=True, eq=False)
class PictureDecoder:
    """A private, differentiable copy of a VAE; the user's stays as it is.

    Call: host latent [B, C, h, w] -> picture [B, 3, 8h, 8w] in [0, 1].
    """

    vae: Any
    module: nn.Module

    def __call__(self, samples: Tensor) -> Tensor:
        decoded = self.module.decode(samples.to(self.vae.vae_dtype))
        # The host's own post-processing works in place; a clone keeps the graph whole.
        return self.vae.process_output(decoded.float().clone())[:, :3]

    def bytes_needed(self, shape: Sequence[int]) -> int:
        """Estimated working memory of a decode with gradients."""
        return int(_BACKWARD * self.vae.memory_used_decode(tuple(shape), self.vae.vae_dtype))

    def features(self) -> Callable[[Tensor], Tensor] | None:
        """Features [B, C, H/4, W/4] from the encoder of a TAESD-layout VAE; None for any other."""
        encoder = getattr(self.module, "taesd_encoder", None)
        if encoder is None:
            return None
        strided = [
            i for i, layer in enumerate(encoder) if getattr(layer, "stride", (1, 1)) == (2, 2)
        ]
        trunk = nn.Sequential(*list(encoder)[: strided[2]])
        # Channels that pad a narrower VAE are never written, and would only dilute the mean.
        with ordinary_tensors():
            writers = [encoder[strided[1]], *(block.conv[-1] for block in trunk[strided[1] + 1 :])]
            used = sum(layer.weight.abs().flatten(1).amax(1) for layer in writers) > 0
        return lambda picture: (
            FEATURE_SCALE * trunk(picture.to(self.vae.vae_dtype)).float()[:, used]
        )


def picture_decoder(vae: Any) -> PictureDecoder:
    """The private decoder of a VAE, made once."""
    if getattr(vae, "latent_dim", 2) != 2 or getattr(vae, "upscale_ratio", 8) != 8:
        raise FluxGuardError(
            "Expected a VAE of pictures with 8 pixels a latent (FLUX, SD), got another kind. Load FLUX's ae.safetensors."
        )
    original = vae.first_stage_model
    if original not in _private:
        with ordinary_tensors():
            module = differentiable(original)
            if module is original:
                module = copy.deepcopy(original).requires_grad_(False)
            _private[original] = _recomputing(module.eval())
    return PictureDecoder(vae, _private[original])


def _recomputing(module: nn.Module) -> nn.Module:
    """Let a decoder's blocks be computed again on the way back instead of kept."""
    for block in module.modules():
        if type(block).__name__ in ("Block", "ResnetBlock", "AttnBlock"):
            forward = block.forward

            def checkpointed(*args: Any, forward: Any = forward, **kwargs: Any) -> Any:
                if not torch.is_grad_enabled():
                    return forward(*args, **kwargs)
                return checkpoint(forward, *args, use_reentrant=False, **kwargs)

            block.forward = checkpointed  # type: ignore[method-assign]
    return module


def managed(network: nn.Module) -> Any:
    """The host's handle on a network of ours, so that its memory is counted and taken back."""
    if network not in _patchers:
        patcher = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        _patchers[network] = patcher(
            network,
            load_device=memory.get_torch_device(),
            offload_device=memory.unet_offload_device(),
            size=memory.module_size(network),
        )
    return _patchers[network]


def load_together(
    decoder: PictureDecoder,
    networks: Sequence[nn.Module],
    shape: Sequence[int],
    model: Model = None,
) -> None:
    """Bring decoder and recognisers (and a MODEL) to the device, with room to work."""
    handles = [managed(network) for network in (decoder.module, *networks)]
    if model is not None:
        handles.append(model)
    memory.load_models_gpu(handles, memory_required=decoder.bytes_needed(shape))


def with_models(model: Model, networks: Sequence[nn.Module]) -> Model:
    """A clone of MODEL whose sampling also loads these networks, in one request."""
    patched = model.clone()
    patched.set_additional_models(KEY, [managed(network) for network in networks])
    return patched


def to_memory(networks: Sequence[nn.Module]) -> None:
    """Give the device back: networks that measure on the CPU leave it first."""
    for network in networks:
        if network in _patchers:
            memory.unload_model_and_clones(_patchers[network])


def working_device() -> torch.device:
    """Where the host computes."""
    return memory.get_torch_device()

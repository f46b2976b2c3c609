"""A whole FLUX of a published layout with random weights, recognisers and autoencoder of their real sizes: for costs alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..backends.flux import FluxStack, Prompt, cast, diffusers, layout_of
from ..backends.geometry import FLUX
from ..errors import FluxGuardError
from ..faces.crops import ARCFACE_TEMPLATE
from ..faces.face import Face
from ..protect.perceptual import VGG19Features, feature_distance
from ..protect.presets import Preset
from ..recognition.backbones.iresnet_evolve import IRBackbone
from ..recognition.backbones.mobilefacenet import MobileFaceNet
from ..recognition.encoder import FaceEncoder, Threshold
from ..recognition.ensemble import Ensemble
from ..recognition.identity import Identity, photo, untargeted
from .models import Models
from .portrait import Job

Layout = Literal["dev", "tiny"]
Weights = Literal["float32", "bf16", "fp8"]
SPREAD = 0.02  # of random weights: nothing overflows, whatever they compute
# A goal that is never met: the loop takes all its steps, which is its longest time.
NEVER = (Threshold(1e-2, -2.0, "out of reach, for costs"),)


@dataclass(frozen=True)
class Sizes:
    """Of a layout: transformer, text and autoencoder."""

    transformer: Mapping[str, Any]
    text: tuple[int, int, int]
    autoencoder: tuple[int, ...]
    tiny: tuple[int, ...]
    groups: int = 32


LAYOUTS: dict[Layout, Sizes] = {
    "dev": Sizes(
        {
            "num_layers": 19,
            "num_single_layers": 38,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 4096,
            "pooled_projection_dim": 768,
            "guidance_embeds": True,
        },
        (512, 4096, 768),
        (128, 256, 512, 512),
        (64, 64, 64, 64),
    ),
    "tiny": Sizes(
        {
            "num_layers": 1,
            "num_single_layers": 2,
            "attention_head_dim": 128,
            "num_attention_heads": 1,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 16,
            "guidance_embeds": True,
        },
        (8, 32, 16),
        (8, 8, 16, 16),
        (8, 8, 8, 8),
        groups=4,
    ),
}


def random_models(
    layout: Layout,
    weights: Weights,
    device: torch.device,
    *,
    small: bool = False,
    real_autoencoder: bool = False,
) -> Models:
    """FLUX, autoencoders, VGG19 features and three recognisers of 112 pixels, filled with seeded noise.

    Args:
        small: one small recogniser instead of the three of real sizes.
        real_autoencoder: of FLUX.1-dev's size beside a tiny transformer too.
    """
    sizes = LAYOUTS[layout]
    if real_autoencoder:
        dev = LAYOUTS["dev"]
        sizes = replace(sizes, autoencoder=dev.autoencoder, tiny=dev.tiny, groups=dev.groups)
    dtype = torch.float32 if weights == "float32" else torch.bfloat16
    stack = _stack(sizes, weights, dtype, device)
    networks: dict[str, nn.Module] = {"mobile_face": MobileFaceNet()}
    if not small:
        networks["ir152"] = IRBackbone((3, 8, 36, 3))
        networks["irse50"] = IRBackbone((3, 4, 14, 3), se=True)
    encoders = tuple(
        FaceEncoder(name, network.to(device), 112, thresholds=NEVER)
        for name, network in networks.items()
    )
    features = VGG19Features().eval().requires_grad_(False).to(device)
    return Models(
        name=f"FLUX.1 {layout} layout, random weights",
        stack=stack,
        ensemble=Ensemble(encoders),
        find_faces=lambda picture: [],
        perceptual=feature_distance(features),
    )


def _stack(sizes: Sizes, weights: Weights, dtype: torch.dtype, device: torch.device) -> FluxStack:
    package, generator = diffusers(), torch.Generator(device).manual_seed(0)
    transformer = _filled(
        lambda: package.FluxTransformer2DModel(**sizes.transformer), dtype, device, generator
    )
    if weights == "fp8":
        transformer.enable_layerwise_casting(
            storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16
        )
    levels = len(sizes.autoencoder)
    vae = package.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.autoencoder,
        layers_per_block=2,
        latent_channels=FLUX.channels,
        norm_num_groups=sizes.groups,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    tiny = package.AutoencoderTiny(
        encoder_block_out_channels=sizes.tiny,
        decoder_block_out_channels=sizes.tiny,
        latent_channels=FLUX.channels,
    )
    tokens, width, pooled = sizes.text
    words = Prompt(
        torch.randn(1, tokens, width, device=device, generator=generator, dtype=dtype),
        torch.randn(1, pooled, device=device, generator=generator, dtype=dtype),
    )
    return FluxStack(
        transformer=transformer,
        vae=cast(vae, dtype).to(device),
        encode_prompt=lambda text: words,
        device=device,
        layout=layout_of(transformer),
        tiny_vae=cast(tiny, dtype).to(device),
    )


def _filled(
    build: Callable[[], Any], dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Any:
    """A model that is never held in another place or format: built empty, then filled where it lies."""
    with torch.device("meta"):
        model = build()
    model = cast(model, dtype).to_empty(device=device)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, SPREAD, generator=generator)
    return model


def random_job(models: Models, size: int, preset: Preset, faces: int = 1) -> Job:
    """A noise picture [1, 3, size, size] with faces side by side, together half of its width; a quarter is edited."""
    generator = torch.Generator().manual_seed(1)
    picture = torch.rand(1, 3, size, size, generator=generator).to(models.stack.device)
    aim: Identity = photo(picture[0].flip(2)) if preset.name == "paper" else untargeted()
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 4 : size // 2, size // 4 : size // 2] = 1
    first, *others = (_face(size, number, faces) for number in range(faces))
    return Job(picture, "a", "b", mask, first, aim, preset, tuple(others))


def _face(size: int, number: int, faces: int) -> Face:
    side = size / 2 / faces
    left, top = size / 4 + number * side, size / 2 - side / 2
    points = ARCFACE_TEMPLATE / 112 * side + torch.tensor([left, top])
    return Face((left, top, left + side, top + side), points, 1.0)


@dataclass(frozen=True)
class Evaluation:
    """One pass of the transformer: seconds (median), floating-point operations, and their share of the peak."""

    seconds: float
    operations: int
    peak_rate: float

    @property
    def share(self) -> float:
        """Operations a second over the card's measured matrix peak."""
        return self.operations / self.seconds / self.peak_rate


def measure_evaluation(models: Models, size: int, repeats: int = 5) -> Evaluation:
    """Time one velocity, count its operations, and compare with a large matrix product on the same device."""
    device = models.stack.device
    field = models.stack.field("a", 1.0)
    latent = torch.randn(1, FLUX.channels, *FLUX.grid(size, size), device=device)
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            field(latent, 1.0)
        seconds = _median(lambda: field(latent, 1.0), device, repeats)
    return Evaluation(seconds, counter.get_total_flops(), matrix_peak(device))


def matrix_peak(device: torch.device, side: int | None = None) -> float:
    """Operations a second of a bf16 product of two square matrices (float32 on a CPU), the best of ten."""
    cuda = device.type == "cuda"
    side = side or (8192 if cuda else 1024)
    dtype = torch.bfloat16 if cuda else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    times = [_timed(lambda: a @ b, device) for _ in range(10)]
    return 2 * side**3 / min(times)


def require_cuda() -> torch.device:
    """The GPU; FluxGuardError where there is none."""
    if not torch.cuda.is_available():
        raise FluxGuardError(
            "There is no CUDA GPU here, so FLUX.1-dev's layout was not measured.",
            "Run this where there is one.",
        )
    return torch.device("cuda")


def _median(work: Callable[[], Tensor], device: torch.device, repeats: int) -> float:
    times = sorted(_timed(work, device) for _ in range(repeats))
    return times[len(times) // 2]


def _timed(work: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started

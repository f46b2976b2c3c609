"""The published method once more, as plainly as it can be written, in double precision: inversion, two whole branches, refiner.

Nothing of the engine is used. Tokens are [1, L, 64], two evaluations an interval, both branches from the start.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from .golden import RefinerRun, Run


@dataclass(eq=False)
class Network:
    """The golden network in double precision, with the values of its last single blocks in reach."""

    run: Run
    record: list[Tensor] | None = None
    replace: list[Tensor] | None = None
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.model = copy.deepcopy(self.run.transformer).double()
        for block in [self.model.single_transformer_blocks[b.index] for b in self.run.blocks]:
            block.attn.to_v.register_forward_hook(self._values)
        rows = self.run.tensors["latent"].shape[2] // 2
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(rows), indexing="ij")
        self.places = torch.stack([torch.zeros_like(row), row, column], -1).reshape(-1, 3).double()

    def _values(self, module: object, inputs: object, output: Tensor) -> Tensor | None:
        if self.record is not None:
            self.record.append(output)
        return self.replace.pop(0) if self.replace else None

    def __call__(self, which: str, tokens: Tensor, sigma: float) -> Tensor:
        guidance = self.run.config[
            "inversion_guidance" if which == "source" else "generation_guidance"
        ]
        context = self.run.tensors[f"{which}_context"].double()
        self.evaluations += 1
        return self.model(
            hidden_states=tokens,
            timestep=torch.tensor([sigma], dtype=torch.float64),
            guidance=torch.tensor([guidance], dtype=torch.float64),
            pooled_projections=self.run.tensors[f"{which}_pooled"].double(),
            encoder_hidden_states=context,
            txt_ids=torch.zeros(context.shape[1], 3, dtype=torch.float64),
            img_ids=self.places,
            return_dict=False,
        )[0]


@dataclass(eq=False)
class Caches:
    """What the inversion leaves: the noise, velocities in the order they came, values by (interval, stage)."""

    noise: Tensor
    velocities: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    values: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)


def second_order(
    tokens: Tensor, start: float, end: float, velocity: Callable[[Tensor, float, int], Tensor]
) -> Tensor:
    """The step as published: a Taylor step whose second derivative is a half-step difference."""
    h = end - start
    first = velocity(tokens, start, 0)
    middle = velocity(tokens + h / 2 * first, start + h / 2, 1)
    return tokens + h * first + h**2 / 2 * (middle - first) / (h / 2)


def inverted(network: Network, tokens: Tensor) -> Caches:
    run = network.run
    sigmas = run.tensors["schedule"].tolist()
    caches = Caches(tokens)
    for i in reversed(range(len(sigmas) - 1)):
        pair: list[Tensor] = []

        def velocity(
            z: Tensor, sigma: float, stage: int, i: int = i, pair: list[Tensor] = pair
        ) -> Tensor:
            network.record = [] if i < run.config["inject_steps"] else None
            pair.append(network("source", z, sigma))
            if network.record is not None:
                caches.values[i, stage] = network.record
            network.record = None
            return pair[-1]

        caches.noise = second_order(caches.noise, sigmas[i + 1], sigmas[i], velocity)
        caches.velocities.append((pair[0], pair[1]))
    return caches


def generated(
    network: Network, caches: Caches, refine: Callable[[Tensor, Tensor], Tensor], attacked: int
) -> tuple[Tensor, Tensor]:
    """Both branches, the cache read in the order in which the inversion filled it, as released."""
    run = network.run
    sigmas, mask = run.tensors["schedule"].tolist(), run.tensors["mask_tokens"].double()
    first, last = run.config["fuse_steps"]
    clean = adversarial = caches.noise
    for i in range(len(sigmas) - 1):

        def velocity(z: Tensor, sigma: float, stage: int, i: int = i) -> Tensor:
            network.replace = list(caches.values.get((i, stage), ()))
            found = network("target", z, sigma)
            if first <= i < last:
                found = mask * found + (1 - mask) * caches.velocities[i][stage]
            return found

        clean = second_order(clean, sigmas[i], sigmas[i + 1], velocity)
        adversarial = second_order(adversarial, sigmas[i], sigmas[i + 1], velocity)
        if i >= len(sigmas) - 1 - attacked:
            adversarial = refine(clean, adversarial)
    return clean, adversarial


def decoded(golden: RefinerRun, tokens: Tensor) -> Tensor:
    """Tokens in the order (c, ph, pw) as a picture in [0, 1]."""
    height, width = golden.config["latent_hw"]
    grid = tokens.view(1, height // 2, width // 2, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
    colours = torch.einsum(
        "oc,bchw->bohw",
        golden.tensors["decoder_rgb_from_latent"].double(),
        grid.reshape(1, 16, height, width),
    )
    large = F.interpolate(colours, scale_factor=8, mode="bilinear", align_corners=False)
    return ((torch.tanh(large) + 1) / 2).clamp(0, 1)


def embedded(golden: RefinerRun, name: str, picture: Tensor) -> Tensor:
    side = golden.config["input_size"][name]
    face = F.interpolate(picture, (side, side), mode="bilinear", align_corners=False) * 2 - 1
    pooled = F.adaptive_avg_pool2d(face, 8).flatten(1)
    return F.normalize(torch.tanh(pooled @ golden.tensors[f"encoder_{name}"].double().T), dim=1)


def refined(golden: RefinerRun, clean: Tensor, adversarial: Tensor) -> Tensor:
    """Ten Adam steps whose moments start at zero; the weight of the identity loss falls with the distance."""
    target = golden.tensors["target_image"].double()
    kernel = golden.tensors["perceptual_kernel"].double()
    wanted = {name: embedded(golden, name, target) for name in golden.config["surrogates"]}
    looks = F.conv2d(decoded(golden, clean), kernel, padding=1).detach()
    z = adversarial.detach().clone().requires_grad_()
    adam = torch.optim.Adam([z], lr=0.02)
    for _ in range(golden.config["inner_steps"]):
        with torch.enable_grad():
            picture = decoded(golden, z)
            cosines = [(embedded(golden, n, picture) * w).sum() for n, w in wanted.items()]
            identity = 1 - torch.stack(cosines).mean()
            distance = (F.conv2d(picture, kernel, padding=1) - looks).square().mean()
            sigmoid = torch.sigmoid(-20 * (distance.detach() - 0.3))
            weight = (0.05 + 0.95 * sigmoid).clamp(0.05, 1)
            loss = weight * identity + 0.5 * distance
        adam.zero_grad()
        loss.backward()
        adam.step()
    return z.detach()

"""Protect Latent with FLUX.2's autoencoders: 32 channels, which the host packs by twos into 128 at 16 pixels a cell."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fluxguard_core.pictures.files import write_png
from fluxguard_core.protect.perceptual import VGG19Features
from fluxguard_core.weights import load_manifest
from fluxguard_core.weights.where import download_target

from ..core.public_files import public_file
from .conftest import prepare
from .graphs import Builder
from .miniature import pictures
from .server import Server, running

SIDE = 72
"""Of the photo: VAE Encode cuts it to 64, whole cells of 16."""
REAL = Path(os.environ.get("FLUXGUARD_REAL", "none")) / "autoencoder"
"""Where the published files of the tiny autoencoder lie, if they do; random ones of their layout are made else."""


def tiny_half(kind: str) -> dict[str, torch.Tensor]:
    """Random weights in the layout of taef2_encoder.pth or taef2_decoder.pth."""
    generator = torch.Generator().manual_seed(len(kind))
    state: dict[str, torch.Tensor] = {}

    def conv(name: str, out: int, into: int, side: int = 3, bias: bool = True) -> None:
        scale = (2 / (into * side * side)) ** 0.5
        state[f"{name}.weight"] = scale * torch.randn(out, into, side, side, generator=generator)
        if bias:
            state[f"{name}.bias"] = torch.zeros(out)

    def block(index: int, pooled: bool) -> None:
        for part in (0, 2, 4):
            conv(f"{index}.conv.{part}", 64, 64)
        state[f"{index}.conv.4.weight"] *= 0.1  # so that a random network keeps its scale
        if pooled:
            conv(f"{index}.pool.0", 256, 64, 1, bias=False)
            state[f"{index}.pool.1.weight"] = torch.ones(256)
            state[f"{index}.pool.1.bias"] = torch.zeros(256)
            conv(f"{index}.pool.3", 64, 256, 1, bias=False)
            state[f"{index}.pool.3.weight"] *= 0.1

    if kind == "encoder":
        conv("0", 64, 3)
        for index in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
            block(index, index > 10)
        for index in (2, 6, 10):
            conv(f"{index}", 64, 64, bias=False)
        conv("14", 32, 64)
        return state
    conv("1", 64, 32)
    for index in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        block(index, index < 6)
    for index in (7, 12, 17):
        conv(f"{index}", 64, 64, bias=False)
    conv("19", 3, 64)
    state["19.weight"] *= 0.3
    state["19.bias"] += 0.5
    return state


@pytest.fixture(scope="module")
def server(
    installation: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with both, a recogniser of photos, and VGG19; only their layouts are real."""
    base = tmp_path_factory.mktemp("flux2")
    prepare(base)
    models = base / "models"
    (models / "vae_approx").mkdir()
    for half in ("encoder", "decoder"):
        target = models / "vae_approx" / f"taef2_{half}.pth"
        if (REAL / target.name).is_file():
            shutil.copy(REAL / target.name, target)
        else:
            torch.save(tiny_half(half), target)
    features = download_target(load_manifest()["vgg19"], models)
    features.parent.mkdir(parents=True)
    torch.manual_seed(3)
    torch.save(VGG19Features().state_dict(), features)
    recognisers = models / "fluxguard" / "recognisers"
    recognisers.mkdir(parents=True)
    public_file(recognisers / "photos.pth", "mobile_face")
    noise = torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    photo = torch.nn.functional.interpolate(noise, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    write_png(base / "input" / "photo.png", photo)
    with running(*installation, base) as server:
        yield server


@pytest.mark.parametrize("kind", ["tiny", "full"])
def test_a_photo_is_protected_in_the_latent_of_flux_2(server: Server, kind: str) -> None:
    graph = Builder()
    tiny = graph.link("VAELoader", vae_name="taef2")
    vae = tiny if kind == "tiny" else graph.link("Probe_Flux2Vae")
    photo = graph.link("LoadImage", image="photo.png")
    if kind == "tiny":  # whose host asks for whole cells, and cuts nothing itself
        crop = {"width": 64, "height": 64, "x": 4, "y": 4}
        photo = graph.link("ImageCrop", image=photo, **crop)
    latent = graph.link("VAEEncode", pixels=photo, vae=vae)
    box = graph.link("PrimitiveBoundingBox", x=10, y=8, width=44, height=50)
    faces = graph.link("FluxGuard_FacePicker", image=photo, bboxes=box, which="largest")
    names = {"attacked": {"__value__": ["photos.pth"]}, "held_out": {"__value__": []}}
    ensemble = graph.link(
        "FluxGuard_FREnsembleLoader", **names, colour="published", weighting="equal"
    )
    options = graph.link(
        "FluxGuard_ProtectionOptions",
        **{
            "preset": "default",
            "preset.attacked_intervals": 1,
            "preset.steps": 2,
            "preset.learning_rate": 0.05,
            "preset.perceptual_weight": 0.5,
            "preset.margin": 0.3,
            "preset.random_views": 0,
            "max_change": "off",
        },
        perceptual="vgg19",
        solver="as inverted",
        one_batch=True,
    )
    node = graph.add(
        "FluxGuard_ProtectLatent",
        latent=latent,
        vae=vae,
        ensemble=ensemble,
        identity=graph.link("FluxGuard_Identity", kind="untargeted"),
        faces=faces,
        preset="default",
        seed=0,
        options=options,
    )
    kept = graph.link(
        "FluxGuard_KeepPhotoPixels",
        photo=photo,
        source=latent,
        result=[node, 0],
        vae=vae,
        region=[node, 1],
    )
    saves = {
        "plain": graph.link("VAEDecode", samples=latent, vae=vae),
        "protected": graph.link("VAEDecode", samples=[node, 0], vae=vae),
        "kept": kept,
        "photo": photo,
    }
    saved = {
        name: graph.add("SaveImage", images=image, filename_prefix=f"fluxguard/{name}")
        for name, image in saves.items()
    }
    shape = graph.add("SaveLatent", samples=[node, 0], filename_prefix="latents/flux2")
    report = graph.add("PreviewAny", source=[node, 2])
    outcome = server.result(graph.graph)
    (entry,) = outcome.outputs[shape]["latents"]
    assert load_file(server.output_file(entry))["latent_tensor"].shape == (1, 128, 4, 4)
    assert "similarity to the person: photos" in outcome.outputs[report]["text"][0]
    shown = {name: pictures(server, outcome, node) for name, node in saved.items()}
    assert shown["protected"].shape == shown["plain"].shape == (1, 3, 64, 64)
    assert float((shown["protected"] - shown["plain"]).abs().max()) > 0.01
    assert shown["kept"].shape == shown["photo"].shape
    changed = (shown["kept"] - shown["photo"]).abs().amax(1)[0] > 1.5 / 255
    assert bool(changed.any())
    if kind == "full":  # the rim that VAE Encode cut off stays as it was
        assert not bool(changed[:4].any()) and not bool(changed[:, -4:].any())

"""Text to Mask with what a person installs: face parsers, CLIPSeg, and a CLIP for words outside the lexicon."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fluxguard_core.mini.portrait_spec import random_spec
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.pictures.files import read_picture, write_png
from fluxguard_core.regions import (
    MaskSource,
    bisenet_parser,
    clipseg,
    parser_source,
    region_mask,
    segformer_parser,
    words_source,
)
from fluxguard_core.weights import load_manifest
from fluxguard_core.weights.where import download_target

from ..core.test_region_sources import bisenet_state, clipseg_folder, segformer_folder
from .conftest import prepare
from .graphs import Builder
from .landmarker import write_yunet
from .miniature import pictures
from .server import Outcome, Server, running
from .test_host_concepts import overlap

SEED = 349
CLIP = {"a zorblax": "beard", "her quxley": "hat"}
"""Wishes of words that nobody has heard, and the region whose word `Probe_Clip` lets them mean."""


PORTRAIT = {"kind": "FluxGuard_MiniPortrait", "seed": SEED, "count": 1, "size": 128}


@pytest.fixture(scope="module")
def server(
    installation: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server of its own: what is installed here would change other tests' masks."""
    base = tmp_path_factory.mktemp("regions")
    prepare(base)
    noise = torch.rand(1, 3, 12, 9, generator=torch.Generator().manual_seed(1))
    photo = torch.nn.functional.interpolate(noise, (160, 120), mode="bicubic").clamp(0, 1)
    write_png(base / "input" / "photo.png", photo)
    with running(*installation, base) as server:
        yield server


def place_of(server: Server, name: str) -> Path:
    """Where a file of the manifest goes in this server's models folder."""
    return download_target(load_manifest()[name], server.base / "models")


def among(classes: tuple[int, ...], width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Weight [19, D] and bias [19] of a last layer that decides between a few classes, at random."""
    weight, bias = torch.zeros(19, width), torch.full((19,), -99.0)
    rows = torch.randn(len(classes), width, generator=torch.Generator().manual_seed(seed))
    for label, row in zip(classes, rows, strict=True):
        weight[label], bias[label] = row, 0
    return weight, bias


def bisenet_file(path: Path) -> None:
    """The public layout with random weights; every pixel is background, skin or hair."""
    state = bisenet_state()
    head = "conv_out.conv_out.weight"
    weight, bias = among((0, 1, 17), state[head].shape[1], 6)
    # Its last layer has no bias, and what it reads is never negative.
    weight[bias < 0] = -9
    state[head] = weight[:, :, None, None]
    path.parent.mkdir(parents=True)
    torch.save(state, path)


def segformer_files(folder: Path) -> None:
    """As above in SegFormer's order, where hair is 13."""
    from safetensors.torch import load_file, save_file

    folder.parent.mkdir(parents=True)
    segformer_folder(folder, 0, None)
    state = load_file(folder / "model.safetensors")
    head = "decode_head.classifier"
    weight, state[f"{head}.bias"] = among((0, 1, 13), state[f"{head}.weight"].shape[1], 3)
    state[f"{head}.weight"] = weight[:, :, None, None]
    save_file(state, folder / "model.safetensors")


def clipseg_files(folder: Path) -> None:
    """CLIPSeg with random weights that is more decided about some places than about others."""
    from safetensors.torch import load_file, save_file

    folder.parent.mkdir(parents=True)
    clipseg_folder(folder)
    state = load_file(folder / "model.safetensors")
    maps = clipseg(folder)(torch.rand(3, 64, 64), ["hair"])
    last = max(name for name in state if "transposed_convolution" in name and "bias" in name)
    state[last] = state[last] - maps.logit().median() + torch.tensor(0.4).logit()
    save_file(state, folder / "model.safetensors")


def asked(server: Server, text: str, **links: Any) -> tuple[Outcome, str, str]:
    """Text to Mask on the photo alone: the outcome, the node, and the one that saves its mask."""
    graph = Builder()
    image = links.pop("image", None) or {"kind": "LoadImage", "image": "photo.png"}
    given: dict[str, Any] = {"source_text": "", "combine": "add", "grow": 0, "feather": 0}
    given["image"] = graph.link(image.pop("kind"), **image)
    for name, link in links.items():
        given[name] = graph.link(link.pop("kind"), **link)
    node = graph.add("FluxGuard_TextToMask", text=text, **given)
    shown = graph.link("MaskToImage", mask=[node, 0])
    saved = graph.add("SaveImage", images=shown, filename_prefix="fluxguard/regions")
    return server.run(graph.graph), node, saved


def source_of(kind: str, path: Path) -> MaskSource:
    """The engine's own answer from the same files."""
    if kind == "bisenet":
        return parser_source(bisenet_parser(path), kind)
    if kind == "segformer":
        return parser_source(segformer_parser(path.parent), kind)
    return words_source(clipseg(path.parent))


WRITERS = {
    "clipseg": ("clipseg", lambda path: clipseg_files(path.parent)),
    "segformer": ("segformer-face", lambda path: segformer_files(path.parent)),
    "bisenet": ("bisenet", bisenet_file),
}
"""Worst first: each is taken before those that were installed before it."""
COLOURS = {"clipseg": "blond", "segformer": "grey", "bisenet": "black"}


def test_installed_parsers_are_found_and_the_best_is_asked(server: Server) -> None:
    outcome, *_ = asked(server, "red hair")
    assert "models download bisenet" in str(outcome.error)
    photo = read_picture(server.base / "input" / "photo.png").rgb[0]
    for kind, (name, write) in WRITERS.items():
        path = place_of(server, name)
        write(path)
        wish = f"{COLOURS[kind]} hair"  # the host runs no node twice on the same inputs
        outcome, node, saved = asked(server, wish)
        assert outcome.error is None, outcome.error
        told = outcome.outputs[node]["text"][0]
        assert told.startswith("Understood as hair") and f"(by {kind}" in told, told
        mask = pictures(server, outcome, saved)[:, :1]
        ours = source_of(kind, path)(photo, wish, None)
        assert 0.01 < ours.share < 0.95
        alike = float(((mask > 0.5) == (ours.mask > 0.5)).float().mean())
        assert alike > 0.99, (kind, alike)
        shown = pictures(server, outcome, node)[0]
        painted = (shown - photo).abs().amax(0) > 0.05
        assert float(painted[ours.mask[0, 0] > 0.5].float().mean()) > 0.9, kind
    # Region by region: BiSeNet finds no clothes here, nor does SegFormer; CLIPSeg does.
    outcome, node, _ = asked(server, "red hair and new clothes")
    told = outcome.outputs[node]["text"][0]
    assert "(by bisenet, and clothes by clipseg" in told and "not found" not in told, told


def test_without_faces_yunet_finds_the_largest(server: Server) -> None:
    """Its five points show the places of an average face's parts."""
    for name in WRITERS:
        shutil.rmtree(place_of(server, WRITERS[name][0]).parent, ignore_errors=True)
    _, _, points = render_batch([random_spec(SEED)], 128)
    write_yunet(place_of(server, "yunet").parent, points[0])
    photo = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(5))
    write_png(server.base / "input" / "square.png", photo)
    outcome, node, saved = asked(
        server, "red lips", image={"kind": "LoadImage", "image": "square.png"}
    )
    assert outcome.error is None, outcome.error
    assert "(by landmarks)" in outcome.outputs[node]["text"][0]
    assert overlap(pictures(server, outcome, saved)[:, :1], true("lips")) > 0.4


def true(region: str) -> Tensor:
    return region_mask(region, render_batch([random_spec(SEED)], 128)[1][0])[None, None].float()


@pytest.mark.parametrize("kind", ["clip-l", "flux"])
def test_words_that_nobody_knows_go_by_the_clips_own_meaning(server: Server, kind: str) -> None:
    """CLIP-L alone, and FLUX's pair, whose T5 (it would fail here) is never asked."""
    words = ";".join(f"{wish}={region}" for wish, region in CLIP.items())
    clip = {"kind": "Probe_Clip", "means": words, "type": kind}
    for wish, region in CLIP.items():
        outcome, node, saved = asked(server, wish, image=dict(PORTRAIT), clip=dict(clip))
        assert outcome.error is None, outcome.error
        told = outcome.outputs[node]["text"][0]
        assert f"Understood as {region}" in told and "understood by meaning" in told, told
        assert overlap(pictures(server, outcome, saved)[:, :1], true(region)) > 0.9, region
    # Where the CLIP knows no more than the lexicon, as without one: words that say so.
    for given in ({"clip": clip}, {}):
        outcome, *_ = asked(server, "a flurbish", image=dict(PORTRAIT), **given)
        assert "No face region is named" in str(outcome.error)


def test_what_the_lexicon_knows_is_not_asked_and_a_clip_without_clip_l_never(
    server: Server,
) -> None:
    clip = {"kind": "Probe_Clip", "means": "beard=lips", "type": "clip-l"}
    outcome, node, _ = asked(server, "a beard", image=dict(PORTRAIT), clip=clip)
    assert "Understood as beard" in outcome.outputs[node]["text"][0]
    clip = {"kind": "FluxGuard_LoadMiniTextEncoder"}
    outcome, *_ = asked(server, "a zorblax", image=dict(PORTRAIT), clip=clip)
    assert "No face region is named" in str(outcome.error)

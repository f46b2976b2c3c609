"""Concept attention on the miniature FLUX through stock nodes: as the engine's, with LoRA, fp8 and GGUF."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from .graphs import Builder, saved_trajectory
from .landmarker import mesh_of, write_landmarker
from .miniature import API, find, pictures
from .server import Outcome, Server

PERSON = 349  # long brown hair, white clothes, a pink background
SAID = "a person with long brown hair, white clothes, pink background"
BOX = {"x": 24, "y": 30, "width": 66, "height": 84}


class Asking(Builder):
    """A portrait inverted, its MODEL asked where the words are.

    loader: a node that loads a transformer, and its settings.
    """

    def __init__(self, loader: str = "UNETLoader", *, lora: bool = False, **settings: str) -> None:
        super().__init__()
        self.portrait = self.link("FluxGuard_MiniPortrait", seed=PERSON, count=1, size=128)
        settings = {"unet_name": "fluxguard-mini-flux.safetensors", **settings}
        if loader == "UNETLoader":
            settings = {"weight_dtype": "default", **settings}
        model = self.link(loader, **settings)
        if lora:
            name = "fluxguard-mini-sepia.safetensors"
            model = self.link(
                "LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0
            )
        clip = self.link("FluxGuard_LoadMiniTextEncoder")
        vae = self.link("VAELoader", vae_name="fluxguard-mini-vae.safetensors")
        self.trajectory = self.link(
            "FluxGuard_RFInversion",
            model=model,
            positive=self.link("CLIPTextEncode", clip=clip, text=SAID),
            latent=self.link("VAEEncode", pixels=self.portrait, vae=vae),
            preset="default",
            steps=4,
        )
        self.concepts = self.link(
            "FluxGuard_ConceptAttention", model=model, clip=clip, trajectory=self.trajectory
        )
        box = self.link("PrimitiveBoundingBox", **BOX)
        self.faces = self.link(
            "FluxGuard_FacePicker", image=self.portrait, bboxes=box, which="largest"
        )

    def mask(self, text: str, **changes: Any) -> tuple[str, str]:
        """Ids of Text to Mask and of the node that saves its mask."""
        inputs: dict[str, Any] = {
            "image": self.portrait,
            "text": text,
            "source_text": "",
            "combine": "add",
            "grow": 0,
            "feather": 0,
            "faces": self.faces,
            "concepts": self.concepts,
        }
        node = self.add("FluxGuard_TextToMask", **{**inputs, **changes})
        image = self.link("MaskToImage", mask=[node, 0])
        return node, self.add("SaveImage", images=image, filename_prefix="fluxguard/concepts")


def overlap(a: Tensor, b: Tensor) -> float:
    one, two = a > 0.5, b > 0.5
    return float((one & two).sum() / (one | two).sum())


def seen(server: Server, outcome: Outcome, node: str) -> Tensor:
    return pictures(server, outcome, node)[:, :1]


def true_hair() -> Tensor:
    from fluxguard_core.mini.portrait_spec import random_spec
    from fluxguard_core.mini.renderer import render_batch
    from fluxguard_core.regions import region_mask

    return region_mask("hair", render_batch([random_spec(PERSON)], 128)[1][0])[None, None].float()


def test_the_model_itself_says_where_the_hair_is(server: Server) -> None:
    """No face parser is connected; the mask is the one that the engine finds on the same trajectory."""
    pytest.importorskip("diffusers")
    from fluxguard_core.backends.flux_concepts import flux_concepts
    from fluxguard_core.faces.detectors import face_in_box
    from fluxguard_core.flow import load_trajectory
    from fluxguard_core.mini.portrait_spec import random_spec
    from fluxguard_core.mini.renderer import render_batch
    from fluxguard_core.mini.text import CONCEPTS
    from fluxguard_core.mini.world import load_stack
    from fluxguard_core.regions import concept_source

    graph = Asking()
    node, saved = graph.mask("red hair")
    graph.add(
        "FluxGuard_SaveTrajectory", trajectory=graph.trajectory, filename_prefix="fluxguard/seen"
    )
    outcome = server.result(graph.graph)
    mask = seen(server, outcome, saved)
    told = outcome.outputs[node]["text"][0]
    assert "Understood as hair" in told and "by concept attention, sure 0." in told, told
    assert server.output_file(outcome.outputs[node]["images"][0]).stat().st_size > 1000
    assert overlap(mask, true_hair()) > 0.4
    theirs = load_trajectory(saved_trajectory(server, "fluxguard/seen"))
    box = (BOX["x"], BOX["y"], BOX["x"] + BOX["width"], BOX["y"] + BOX["height"])
    face = face_in_box(tuple(float(edge) for edge in box))
    source = concept_source(
        flux_concepts(load_stack(), trajectory=theirs), lambda _: face.landmarks, phrases=CONCEPTS
    )
    ours = source(render_batch([random_spec(PERSON)], 128)[0][0], "red hair", None)
    assert overlap(mask, ours.mask) > 0.95


def test_with_a_lora_and_with_fp8_and_quantised_weights(server: Server) -> None:
    graphs = {
        "plain": Asking(),
        "lora": Asking(lora=True),
        "fp8": Asking(weight_dtype="fp8_e4m3fn"),
        "quantised": Asking("Probe_QuantisedLoader"),
    }
    masks: dict[str, Tensor] = {}
    for name, graph in graphs.items():
        _, saved = graph.mask("a new background")
        masks[name] = seen(server, server.result(graph.graph), saved)
    for name in ("lora", "fp8", "quantised"):
        assert overlap(masks["plain"], masks[name]) > 0.8, name
    assert not torch.equal(masks["plain"], masks["lora"])


def shipped(server: Server) -> tuple[Builder, str]:
    """The full-size graph "edit-only" up to its Text to Mask, with the miniature's weights; that node's id."""
    from fluxguard_core.mini.portrait_spec import random_spec
    from fluxguard_core.mini.renderer import render_batch

    _, labels, points = render_batch([random_spec(PERSON)], 128)
    mesh = mesh_of(labels[0], points[0])
    graph = json.loads((API / "edit-only.json").read_text("utf-8"))
    swapped: dict[str, tuple[str, dict[str, Any]]] = {
        "UNETLoader": ("UNETLoader", {"unet_name": "fluxguard-mini-flux.safetensors"}),
        "DualCLIPLoader": ("FluxGuard_LoadMiniTextEncoder", {}),
        "VAELoader": ("VAELoader", {"vae_name": "fluxguard-mini-vae.safetensors"}),
        "LoadImage": ("FluxGuard_MiniPortrait", {"seed": PERSON, "count": 1, "size": 128}),
        "ImageScaleToTotalPixels": ("ImageScaleToTotalPixels", {"megapixels": (128 / 1024) ** 2}),
        "LoadMediaPipeFaceLandmarker": (
            "LoadMediaPipeFaceLandmarker",
            {"model_name": write_landmarker(server.base / "models" / "detection", mesh, 128)},
        ),
        "MediaPipeFaceLandmarker": ("MediaPipeFaceLandmarker", {"detector_variant": "short"}),
        "CLIPTextEncode": ("CLIPTextEncode", {"text": SAID}),
        "FluxGuard_RFInversion": ("FluxGuard_RFInversion", {"steps": 4}),
        "FluxGuard_TextToMask": ("FluxGuard_TextToMask", {"grow": 0}),
    }
    for entry in graph.values():
        if entry["class_type"] in swapped:
            kind, inputs = swapped[entry["class_type"]]
            kept = entry["inputs"] if kind == entry["class_type"] else {}
            entry |= {"class_type": kind, "inputs": {**kept, **inputs}}
    mask = find(graph, "FluxGuard_TextToMask")
    needed = [mask]
    for node in needed:
        links = [value for value in graph[node]["inputs"].values() if isinstance(value, list)]
        needed += [link[0] for link in links if link[0] not in needed]
    return Builder({node: graph[node] for node in needed}), mask


def test_the_full_size_graph_draws_lips_by_the_mesh_and_finds_hair_by_the_model(
    server: Server,
) -> None:
    """No face parser is there: landmarks outline the lips, and Concept Attention, as wired, shows the rest."""
    shared, node = shipped(server)
    told: dict[str, str] = {}
    masks: dict[str, Tensor] = {}
    for text in ("red lipstick", "red hair", "a new background", "red lipstick and red hair"):
        graph = {name: dict(entry) for name, entry in shared.graph.items()}
        graph[node]["inputs"] = {**graph[node]["inputs"], "text": text}
        graph["m"] = {"class_type": "MaskToImage", "inputs": {"mask": [node, 0]}}
        save = {"images": ["m", 0], "filename_prefix": "fluxguard/concepts"}
        graph["s"] = {"class_type": "SaveImage", "inputs": save}
        outcome = server.result(graph)
        told[text], masks[text] = outcome.outputs[node]["text"][0], seen(server, outcome, "s")
    assert "by landmarks)" in told["red lipstick"], told
    assert "by concept attention, sure 0." in told["red hair"], told
    assert "by concept attention, sure 0." in told["a new background"], told
    assert "by landmarks, and hair by concept attention)" in told["red lipstick and red hair"]
    assert overlap(masks["red hair"], true_hair()) > 0.4


def test_what_text_to_mask_says_and_refuses(server: Server) -> None:
    """Parts of the face that stay out, and masks that would change nothing."""
    graph = Asking()
    kept, saved = graph.mask("smooth skin", keep_identity=True)
    _, plain = graph.mask("smooth skin")
    outcome = server.result(graph.graph)
    assert "skin" in outcome.outputs[kept]["text"][0]
    assert float(seen(server, outcome, saved).mean()) < float(seen(server, outcome, plain).mean())
    cases: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("red hair", {"grow": -64}, "vanishes when it is shrunk"),
        ("red hair", {"combine": "intersect"}, "leave nothing over (intersect)"),
        ("the roof of the car", {}, "No face region is named"),
    )
    for text, changes, words in cases:
        other = Asking()
        if "combine" in changes:
            changes["mask"] = other.link("SolidMask", value=0.0, width=128, height=128)
        other.mask(text, **changes)
        assert words in server.fails(other.graph)
    bare = Asking()
    node, _ = bare.mask("red hair")
    del bare.graph[node]["inputs"]["concepts"]
    assert "or concept attention of the model itself" in server.fails(bare.graph)

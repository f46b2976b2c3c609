"""Run with ComfyUI's Python: every IMAGE, MASK and LATENT input of every node, given what other packs put there.

Usage: wires_check.py COMFYUI PACK; prints JSON: by input and kind, what came out ("same" as on the plain wire,
"other" or "words"), and the words.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import inside  # isort: skip; it makes the host and the pack importable
import comfy.sd
import torch
from comfy.nested_tensor import NestedTensor
from comfy_api.latest import io
from portraits import nodes
from portraits.fluxguard_core.defences.cloak import Cloak, CloakGenerator
from portraits.fluxguard_core.errors import FluxGuardError
from portraits.fluxguard_core.evaluate import Shot
from portraits.fluxguard_core.mini.world import weights_path
from portraits.nodes import folders, options
from portraits.nodes import host as bridge
from portraits.nodes.faces import Faces
from torch import Tensor

KINDS: dict[str, dict[str, Callable[[Any], Any]]] = {
    "IMAGE": {
        "HWC": lambda x: x[0],
        "RGBA": lambda x: torch.cat([x, x[..., :1] * 0 + 0.5], -1),
        "double": lambda x: x.double(),
        "half": lambda x: x.half(),
        "bf16": lambda x: x.bfloat16(),
        "8 bits": lambda x: (x * 255).round().byte(),
        "grey": lambda x: x[..., :1],
        "grey and alpha": lambda x: x[..., :2],
        "over": lambda x: x * 1.3,
        "five channels": lambda x: x[..., :1].repeat(1, 1, 1, 5),
        "flat": lambda x: x[0, 0],
        "video": lambda x: x[:, None],
        "empty batch": lambda x: x[:0],
        "NaN": lambda x: x * float("nan"),
        "infinite": lambda x: x / 0,
        "whole numbers": lambda x: (x * 255).long(),
        "nothing": lambda x: None,
        "latent": lambda x: {"samples": x},
    },
    "MASK": {
        "HW": lambda x: x[0],
        "B1HW": lambda x: x[:, None],
        "BHW1": lambda x: x[..., None],
        "bool": lambda x: x > 0.5,
        "8 bits": lambda x: (x * 255).round().byte(),
        "half": lambda x: x.half(),
        "double": lambda x: x.double(),
        "blank": lambda x: torch.zeros(1, 64, 64),
        "over": lambda x: x * 255,
        "below": lambda x: x - 0.5,
        "picture": lambda x: x[..., None].repeat(1, 1, 1, 3),
        "five dimensions": lambda x: x[None, None],
        "empty batch": lambda x: x[:0],
        "NaN": lambda x: x * float("nan"),
        "nothing": lambda x: None,
    },
    "LATENT": {
        "half": lambda x: {"samples": x["samples"].half()},
        "with an index": lambda x: {**x, "batch_index": [7]},
        "empty batch": lambda x: {"samples": x["samples"][:0]},
        "NaN": lambda x: {"samples": x["samples"] * float("nan")},
        "nested": lambda x: {"samples": NestedTensor((x["samples"], x["samples"][:, :, None]))},
        "video": lambda x: {"samples": x["samples"][:, :, None]},
        "no batch": lambda x: {"samples": x["samples"][0]},
        "no samples": lambda x: {"noise_mask": None},
        "nothing": lambda x: None,
        "picture": lambda x: x["samples"],
    },
}


def wires_of(node: type[io.ComfyNode]) -> Iterator[tuple[str, str]]:
    """Names and types of a node's inputs of the kinds above, also those inside its choices."""
    for entry in node.define_schema().inputs:
        inner = [(f"{entry.id}.{one.id}", one) for one in entry.get_all() if one is not entry]
        for name, one in ((entry.id, entry), *inner):
            if one.get_io_type() in KINDS:
                yield name, one.get_io_type()


def run(node: type[io.ComfyNode], given: dict[str, Any]) -> str:
    """A digest of everything that a node gives out."""
    try:
        made = node.execute(**given).args
    except Reached as reached:
        made = reached.args
    digest = hashlib.sha256()
    for value in made:
        digest.update(repr(seen(value)).encode())
    return digest.hexdigest()


def seen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (value.float() * 2048).round().tolist()
    if isinstance(value, dict):
        return [seen(part) for part in value.values()]
    if isinstance(value, (Faces, Shot)):
        return seen(value.chosen[0][0].landmarks if isinstance(value, Faces) else value.image)
    return str(type(value))


def changed(given: dict[str, Any], name: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    outer, _, inner = name.partition(".")
    if inner:
        return {**given, outer: {**given[outer], inner: change(given[outer][inner])}}
    return {**given, outer: change(given[outer])}


def without(given: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}


def tried(node: type[io.ComfyNode], given: dict[str, Any], plain: str) -> list[str]:
    try:
        return ["same" if run(node, given) == plain else "other", ""]
    except FluxGuardError as error:
        return ["words", str(error)]
    except Exception as error:
        return ["raw", f"{type(error).__name__}: {error}"]


def only(node: type[io.ComfyNode], **given: Any) -> Any:
    return node.execute(**given).args


def bases() -> dict[str, dict[str, Any]]:
    """Inputs with which every node that has such an input runs."""
    model = comfy.sd.load_diffusion_model(str(weights_path("flux")))
    vae = inside.miniature_vae()
    image = only(nodes.MiniPortrait, seed=349, count=1, size=128)[0]
    faces = only(nodes.MiniFaceFinder, image=image, which={"which": "largest"})[0]
    ensemble = only(
        nodes.MiniRecognisers, attacked=["mini-ir"], held_out=["mini-vit"], weighting="equal"
    )[0]
    clip = only(nodes.LoadMiniTextEncoder)[0]
    prompt = clip.encode_from_tokens_scheduled(clip.tokenize("a person with red lipstick"))
    latent = {"samples": vae.encode(image)}
    inversion = {"model": model, "positive": prompt, "latent": latent, "preset": "fast", "steps": 2}
    trajectory = only(nodes.RFInversion, **inversion)[0]
    mask = torch.zeros(1, 128, 128)
    mask[:, 40:104, 32:96] = 1.0
    numbers = {"attacked_intervals": 1, "steps": 1, "learning_rate": 0.1, "perceptual_weight": 1.0}
    chosen = {"preset": "default", "margin": 0.0, "random_views": 0, **numbers}
    settings = only(
        options.ProtectionOptionsNode, preset=chosen, max_change={"max_change": "off"},
        perceptual="autoencoder", solver="euler", one_batch=True,
    )[0]  # fmt: skip
    protecting = {
        "vae": vae, "ensemble": ensemble, "faces": faces, "mask": mask, "options": settings, "seed": 0,
    }  # fmt: skip
    patching = {"model": model, "trajectory": trajectory, "mask": mask}
    window = {"window": "as inverted"}
    pictures = {"original": image, "edited": image * 0.9, "protected": image * 0.8}
    shield = {"image": image, "vae": vae, "mask": mask, "budget": 8, "seed": 0}
    photo = {"kind": "photo", "photos": image, "cut": "around the face", "faces": faces}
    return {
        "RFInversion": inversion,
        "AttentionVInjection": {**patching, "window": window, "strength": 1.0, "tokens": "image"},
        "VelocityFusionNode": {**patching, "window": window, "order": "aligned"},
        "FacePicker": {"image": image, "which": {"which": "all"}, "bboxes": BOX},
        "TextToMask": {
            "image": image, "text": "red lipstick", "source_text": "", "combine": "add", "grow": 0,
            "feather": 0, "faces": faces, "mask": mask,
        },
        "IdentityNode": {"kind": photo},
        "LatentRefiner": {**patching, "positive": prompt, "preset": "default", **protecting},
        "ProtectLatent": {"latent": latent, "preset": "default", **protecting},
        "KeepPhotoPixels": {
            "photo": image, "source": latent, "result": {"samples": latent["samples"] * 0.9},
            "vae": vae, "region": mask,
        },
        "PrivacyReport": {**pictures, "ensemble": ensemble, "second_photo": image, "faces": faces},
        "MiniFaceFinder": {"image": image, "which": {"which": "largest"}},
        "AttributePrivacy": {
            "image": image, "editor": only(nodes.MiniAttributeEditor)[0], "faces": faces,
            "mode": {"mode": "set", "attributes": "Black_Hair=yes"}, "identity": "keep",
        },
        "TrainCloak": {
            "images": image, "faces": faces, "ensemble": ensemble, "name": "tried", "steps": 1,
            "limit": 6.0, "seed": 0,
        },
        "ApplyCloak": {
            "images": image, "faces": faces, "mask": mask,
            "cloak": Cloak(CloakGenerator(8).eval(), world="drawn"),
        },
        "ShieldAgainstEdits": {**shield, "preset": "fast", "steps": 1},
        "ShieldAgainstTraining": {
            **shield, "preset": "light", "rounds": 1, "model": model, "positive": prompt,
        },
        "ShieldAgainstCloning": {
            "image": image, "ensemble": ensemble, "faces": faces, "budget": 11, "limit": 0.1,
            "steps": 1, "seed": 0,
        },
        "ShieldTesterNode": {
            "original": image, "protected": image * 0.9, "edited_original": image * 0.8,
            "edited_protected": image * 0.7,
        },
    }  # fmt: skip


BOX = {"x": 24, "y": 30, "width": 66, "height": 84}


class Reached(Exception):
    """What a node hands on where its long work would begin."""


def handed_over() -> None:
    """Nodes are followed to where their long work begins: patches, protections and measurements."""

    def reached(*given: Any, **more: Any) -> Any:
        raise Reached(*(getattr(one, "mask", one) for one in (*given, *more.values())))

    bridge.fuse_velocities = lambda model, fusion: fusion.mask
    bridge.inject_values = lambda model, injection: torch.tensor(float(injection.intervals))
    nodes.protection.prepare = nodes.existing.prepare = reached
    nodes.attributes.change_attributes = nodes.cloaks.drawn_from = reached
    for name in ("shield_edits", "shield_training", "shield_cloning"):
        setattr(nodes.shields, name, reached)
    nodes.report.measure = nodes.inversion.host.with_field = reached


def look() -> dict[str, Any]:
    folders.register_folders()
    given, found = bases(), {}
    handed_over()
    for node in nodes.NODES:
        for name, kind in wires_of(node):
            key = f"{node.__name__}.{name}"
            base = given[node.__name__]
            plain = run(node, base)
            found[key] = {"": [kind, ""]}
            for title, change in KINDS[kind].items():
                found[key][title] = tried(node, changed(base, name, change), plain)
            if kind == "MASK" and found[key]["blank"][0] != "words":
                unconnected = run(node, without(base, name))
                found[key]["blank"] = tried(
                    node, changed(base, name, KINDS[kind]["blank"]), unconnected
                )
    return found


with torch.inference_mode():
    print(json.dumps(look()))

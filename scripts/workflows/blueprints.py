"""The blueprints: parts of the method as one node, with sockets and the widgets that are turned every day."""

from __future__ import annotations

from typing import Any

from .graph import SOCKET, Flow, Link, definition
from .stages import (
    REAL_SOURCE,
    Stage,
    edit,
    prompts,
    protected_face,
    refined,
    stock_sampler,
)


def _sockets(flow: Flow, **types: str) -> dict[str, Link]:
    flow.sockets = types
    return {name: (SOCKET, name) for name in types}


def _first(flow: Flow, kind: str) -> int:
    return next(node["id"] for node in flow.nodes if node["type"] == kind)


def edit_face(schemas: dict[str, Any]) -> dict[str, Any]:
    """Inversion, mask, patches and the stock sampler."""
    flow = Flow(schemas)
    of = _sockets(
        flow, model="MODEL", clip="CLIP", vae="VAE", image="IMAGE", faces="FLUXGUARD_FACES"
    )
    stage = Stage(of["model"], of["vae"], of["clip"], of["image"], of["faces"], False)
    source, target, words = prompts(stage)
    change = edit(flow, stage, stage.model, source, words)
    sampled, prompt = stock_sampler(flow, stage, change, target)
    links = {"photo": stage.image, "source": change.latent, "vae": stage.vae}
    picture = flow.node("FluxGuard_KeepPhotoPixels", {**links, "result": (sampled, "output")})
    shown = [
        (_first(flow, "CLIPTextEncode"), "text"),
        (prompt, "text"),
        (_first(flow, "FluxGuard_TextToMask"), "text"),
        (_first(flow, "FluxGuard_RFInversion"), "steps"),
    ]
    about = "Changes the part of a face that words name; everything else stays. FLUX.1."
    outputs: dict[str, Link] = {
        "image": (picture, "IMAGE"),
        "trajectory": change.trajectory,
        "patched model": change.model,
    }
    return definition(flow, "Edit face with text", about, outputs, shown)


def whole(
    schemas: dict[str, Any],
    source: str = REAL_SOURCE,
    target: str = f"{REAL_SOURCE}, wearing bright red lipstick",
    words: str = "red lipstick",
    *,
    mini: bool = False,
) -> dict[str, Any]:
    """The whole method: the edit and its protected twin."""
    flow = Flow(schemas)
    of = _sockets(
        flow,
        model="MODEL",
        clip="CLIP",
        vae="VAE",
        image="IMAGE",
        faces="FLUXGUARD_FACES",
        ensemble="FR_ENSEMBLE",
    )
    stage = Stage(of["model"], of["vae"], of["clip"], of["image"], of["faces"], mini)
    change = edit(flow, stage, stage.model, source, words)
    flow.stage("5 · Protect")
    identity: Link = flow.node("FluxGuard_Identity", kind="untargeted"), "identity"
    result = refined(flow, stage, change.model, change, target, (of["ensemble"], identity))
    flow.stage("6 · Results")
    links = {"photo": stage.image, "source": change.latent, "vae": stage.vae}
    protected, edited = (
        (flow.node("FluxGuard_KeepPhotoPixels", {**links, "result": (result, name)}), "IMAGE")
        for name in ("protected", "edited")
    )
    before, after = (node["id"] for node in flow.nodes if node["type"] == "CLIPTextEncode")
    shown = [
        (before, "text"),
        (after, "text"),
        (_first(flow, "FluxGuard_TextToMask"), "text"),
        (_first(flow, "FluxGuard_RFInversion"), "steps"),
        (result, "seed"),
    ]
    about = (
        "Changes a face with words and protects the person in it from face recognition: the edit and its protected "
        "twin, everything else as it was. FLUX.1."
    )
    outputs = {"protected": protected, "edited": edited}
    name = "Edit and protect a face"
    return definition(flow, name, about, outputs, shown, apart="miniature" if mini else "")


def protect_face(schemas: dict[str, Any]) -> dict[str, Any]:
    """A picture and its VAE in, the protected picture out."""
    flow = Flow(schemas)
    of = _sockets(flow, image="IMAGE", vae="VAE", faces="FLUXGUARD_FACES", ensemble="FR_ENSEMBLE")
    stage = Stage((SOCKET, ""), of["vae"], (SOCKET, ""), of["image"], of["faces"], False)
    flow.stage("Protect")
    identity: Link = flow.node("FluxGuard_Identity", kind="untargeted"), "identity"
    pasted, protection = protected_face(flow, stage, (of["ensemble"], identity))
    shown = [(protection, "preset"), (protection, "seed")]
    about = "Protects the face in a finished picture against recognition; the rest of the picture stays as it is."
    return definition(flow, "Protect face", about, {"image": pasted}, shown)


BLUEPRINTS = (edit_face, whole, protect_face)

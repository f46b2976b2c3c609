"""The graphs that ship as templates, each once for FLUX.1-dev and once for the miniature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .blueprints import whole
from .graph import Flow, Link
from .stages import (
    Stage,
    about_short,
    decoded,
    edit,
    light,
    models,
    people,
    picture,
    prompts,
    protected_face,
    recognisers,
    redrawn,
    refined,
    reported,
    start,
    stock_sampler,
)


def edit_and_protect(
    flow: Flow, mini: bool, *, lora: bool = False, count: int = 1, preset: str = "default"
) -> None:
    """The whole method; with a LoRA, on a batch, or as published."""
    stage = start(flow, mini, count=count)
    model = stage.model
    if lora:
        name = "fluxguard-mini-sepia.safetensors" if mini else "your-style.safetensors"
        model = flow.node("LoraLoaderModelOnly", {"model": model}, lora_name=name), "MODEL"
    source, target, words = prompts(stage)
    if count > 1:
        source = source if not mini else "a person"
        target = target if not mini else "a person wearing red lipstick"
    change = edit(flow, stage, model, source, words, preset=preset)
    flow.stage("5 · Protect")
    who = people(flow, stage)
    options = light(flow, 5) if mini and preset == "default" else None
    result = refined(flow, stage, change.model, change, target, who, options)
    flow.stage("6 · Results")
    protected = decoded(flow, stage, change.latent, (result, "protected"), "Protected", save=True)
    edited = decoded(flow, stage, change.latent, (result, "edited"), "Edited, not protected")
    flow.stage("7 · Did it work?")
    plain: Link = stage.image
    reported(flow, stage, (plain, edited, protected), who[0])


def edit_only(flow: Flow, mini: bool) -> None:
    """Graph 3: the edit in the stock sampler graph."""
    stage = start(flow, mini)
    source, target, words = prompts(stage)
    change = edit(flow, stage, stage.model, source, words)
    sampled, _ = stock_sampler(flow, stage, change, target)
    flow.stage("6 · Result")
    decoded(flow, stage, change.latent, (sampled, "output"), "Edited", save=True)


def protect_existing(flow: Flow, mini: bool) -> None:
    """Graph 4: no edit; the protected face goes back into the original picture."""
    stage = start(flow, mini, flux=False)
    flow.stage("3 · Protect")
    who = people(flow, stage)
    pasted, _ = protected_face(flow, stage, who)
    flow.node("SaveImage", {"images": pasted}, "Protected", filename_prefix="fluxguard/protected")
    kinds = (
        "A grey photo stays grey with Convert Image to Mask (green) and Convert Mask to Image before Save Image and "
        "Privacy Report. A transparent one gets its alpha back with Join Image with Alpha, from Load Image's MASK."
    )
    if not mini:
        flow.note(kinds, 180)
    flow.stage("5 · Did it work?")
    reported(flow, stage, (stage.image, stage.image, pasted), who[0])


def many_prompts(flow: Flow, mini: bool) -> None:
    """Graph 5: one inversion, several edits."""
    stage = start(flow, mini)
    source, _, _ = prompts(stage)
    if mini:
        changes = ["wearing red lipstick", "wearing pink lipstick", "wearing dark lipstick"]
        targets = [source.replace("brown hair", f"brown hair, {change}") for change in changes]
    else:
        targets = [f"{source}, wearing {colour} lipstick" for colour in ("red", "pink", "black")]
    change = edit(flow, stage, stage.model, source, "lipstick")
    flow.stage("5 · Protect")
    who = people(flow, stage)
    flow.note(
        "The inversion and the patches are made once. Change one prompt, and only its branch runs again.",
        110,
    )
    options = light(flow, 2) if mini else None
    for i, target in enumerate(targets):
        flow.stage(f"6 · Prompt {i + 1}")
        result = refined(flow, stage, change.model, change, target, who, options)
        title = f"Protected {i + 1}"
        decoded(flow, stage, change.latent, (result, "protected"), title, save=True)


def attribute_privacy(flow: Flow, mini: bool) -> None:
    """What a face reveals, changed while recognisers still match."""
    flow.stage("1 · Picture")
    image, faces = picture(flow, mini, scaled=False, meshes=mini)
    flow.stage("2 · Who changes, who judges")
    if mini:
        editor = flow.node("FluxGuard_MiniAttributeEditor"), "editor"
    else:
        editor = flow.node("FluxGuard_LoadAttributeEditor", file="weights.199.pth"), "editor"
    ensemble = recognisers(flow, mini)
    if not mini:
        flow.note(_ABOUT_ATTGAN, 230)
    flow.stage("3 · Attribute Privacy")
    links = {"image": image, "editor": editor, "faces": faces, "ensemble": ensemble}
    asked = "Black_Hair=yes" if mini else "Eyeglasses=no"
    changed = flow.node("FluxGuard_AttributePrivacy", links, mode="set", mode__attributes=asked)
    flow.stage("4 · Result")
    flow.node(
        "SaveImage", {"images": (changed, "IMAGE")}, "Changed", filename_prefix="fluxguard/changed"
    )


_ABOUT_ATTGAN = (
    "## The editor\nAn AttGAN checkpoint of 13 attributes (public PyTorch code, with G and D) in "
    "models/fluxguard/attributes, or one that you trained on your own labelled pictures with `attributes train`. "
    "FluxGuard ships none for photos. Choose other files of the same attributes as `held_out`, to hear what a "
    "classifier reads that took no part."
)


def start_here(flow: Flow, mini: bool) -> None:
    """The whole method as one node, small enough for a screen: what a newcomer opens first."""
    flow.width, flow.gap = 266, 72
    flow.stage("1 · Models")
    model, clip, vae = models(flow, mini)
    ensemble = recognisers(flow, mini)
    flow.stage("2 · Picture")
    image, faces = picture(flow, mini, meshes=False)
    flow.stage("3 · Edit and protect")
    stage = Stage(model, vae, clip, image, faces, mini)
    source, target, words = prompts(stage)
    method = flow.subgraph(
        whole(flow.schemas, source, target, words, mini=mini),
        {
            "model": model,
            "clip": clip,
            "vae": vae,
            "image": image,
            "faces": faces,
            "ensemble": ensemble,
        },
        470,
    )
    if not mini:
        flow.note(about_short(), 190, below=method)
    flow.stage("4 · Results")
    protected, edited = (method, "protected"), (method, "edited")
    flow.node(
        "SaveImage", {"images": protected}, "Protected", filename_prefix="fluxguard/protected"
    )
    flow.node("PreviewImage", {"images": edited}, "Edited, not protected")
    flow.stage("5 · Did it work?")
    reported(flow, stage, (image, edited, protected), ensemble)


def shield_edits(flow: Flow, mini: bool) -> None:
    """A picture shielded against edits, and what an editor makes of it and of the original."""
    stage = start(flow, mini)
    flow.stage("3 · Shield")
    links = {"image": stage.image, "vae": stage.vae}
    shield = flow.node("FluxGuard_ShieldEdits", links, preset="fast", steps=12 if mini else 0)
    shielded: Link = shield, "image"
    flow.node("SaveImage", {"images": shielded}, "Shielded", filename_prefix="fluxguard/shielded")
    flow.stage("4 · Somebody's edit, of both")
    _, target, _ = prompts(stage)
    prompt = flow.node("CLIPTextEncode", {"clip": stage.clip}, "Somebody's prompt", text=target)
    asked = (prompt, "CONDITIONING")
    guided: Link = flow.node("FluxGuidance", {"conditioning": asked}, guidance=2.5), "CONDITIONING"
    edits = [
        redrawn(flow, stage, image, guided, title)
        for image, title in (
            (stage.image, "Edit of the original"),
            (shielded, "Edit of the shielded"),
        )
    ]
    flow.stage("5 · Did it work?")
    links = {
        "original": stage.image,
        "protected": shielded,
        "edited_original": edits[0],
        "edited_protected": edits[1],
        "vae": stage.vae,
    }
    flow.node("FluxGuard_ShieldTester", links)


def shield_person(flow: Flow, mini: bool) -> None:
    """A person shielded against training first, and then against cloning."""
    stage = start(flow, mini)
    flow.stage("3 · Against training")
    words = "a person" if mini else "a photo of sks person"
    prompt = flow.node(
        "CLIPTextEncode", {"clip": stage.clip}, "What a trainer calls it", text=words
    )
    links = {
        "image": stage.image,
        "vae": stage.vae,
        "model": stage.model,
        "positive": (prompt, "CONDITIONING"),
    }
    first = flow.node("FluxGuard_ShieldTraining", links, preset="light", rounds=2 if mini else 30)
    flow.stage("4 · Against cloning")
    ensemble = recognisers(flow, mini)
    links = {"image": (first, "image"), "ensemble": ensemble, "faces": stage.faces}
    second = flow.node("FluxGuard_ShieldCloning", links, steps=20 if mini else 150)
    shielded: Link = second, "image"
    flow.node("SaveImage", {"images": shielded}, "Shielded", filename_prefix="fluxguard/shielded")
    flow.stage("5 · Did it work?")
    links = {
        "original": stage.image,
        "protected": shielded,
        "vae": stage.vae,
        "ensemble": ensemble,
        "faces": stage.faces,
    }
    flow.node("FluxGuard_ShieldTester", links)


GRAPHS: dict[str, Callable[[Flow, bool], Any]] = {
    "1-start-here": start_here,
    "edit-and-protect": edit_and_protect,
    "edit-and-protect-lora": lambda flow, mini: edit_and_protect(flow, mini, lora=True),
    "edit-only": edit_only,
    "protect-existing": protect_existing,
    "many-prompts": many_prompts,
    "batch": lambda flow, mini: edit_and_protect(flow, mini, count=2),
    "shield-edits": shield_edits,
    "shield-person": shield_person,
    "attribute-privacy": attribute_privacy,
    "paper": lambda flow, mini: edit_and_protect(flow, mini, preset="paper"),
}

"""Write workflows/*.json and subgraphs/*.json: graphs laid out in titled columns, from what a running ComfyUI
says of its nodes.

Usage: python scripts/author_workflows.py URL (a server with this pack, --base-directory of its own).
"""

from __future__ import annotations

import json
import sys
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from fluxguard_core.weights import load_manifest  # noqa: E402

WIDTH, GAP, TOP = 380, 60, 120
COLOURS = ("#3f789e", "#8A8", "#b06634", "#a1309b", "#88A", "#3f789e")
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
_PREVIEWS = (
    "PreviewImage",
    "LoadImage",
    "SaveImage",
    "FluxGuard_TextToMask",
    "FluxGuard_FacePicker",
    "FluxGuard_MiniFaceFinder",
    "FluxGuard_MiniPortrait",
    "FluxGuard_LatentRefiner",
    "FluxGuard_ProtectLatent",
    "FluxGuard_PrivacyReport",
)
Link = tuple[int, str]
SOCKET = 0  # origin of links that come from a subgraph's inputs


@dataclass
class Flow:
    """A graph under construction: columns of nodes, links by output name."""

    schemas: dict[str, Any]
    nodes: list[dict[str, Any]] = field(default_factory=list)
    links: list[list[Any]] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    sockets: dict[str, str] = field(default_factory=dict)  # inputs of a subgraph: name -> type
    x: int = 0
    y: int = TOP

    def column(self, title: str) -> None:
        """Start the next column of nodes, framed and titled."""
        self._close()
        self.groups.append({"title": title, "x": self.x})

    def _close(self) -> None:
        if self.groups and "bounding" not in self.groups[-1]:
            group = self.groups[-1]
            group["bounding"] = [group["x"] - 20, TOP - 70, WIDTH + 40, self.y - TOP + 70]
            self.x += WIDTH + GAP
            self.y = TOP

    def note(self, text: str, height: int = 200) -> None:
        """A note in the current column."""
        self._append("MarkdownNote", height, [], [], [text], {}, None)

    def node(
        self,
        kind: str,
        /,
        links: dict[str, Link] | None = None,
        title: str | None = None,
        models: tuple[str, ...] = (),
        **values: Any,
    ) -> int:
        """Add a node; widgets keep their defaults unless given."""
        inputs, widgets, extra = self._inputs(kind, links or {}, values)
        outputs = [
            {"name": name, "type": wire, "links": [], "slot_index": i}
            for i, (name, wire) in enumerate(
                zip(self.schemas[kind]["output_name"], self.schemas[kind]["output"], strict=True)
            )
        ]
        rows = max(sum("widget" not in entry for entry in inputs), len(outputs))
        height = 60 + 20 * rows + 26 * len(widgets) + extra
        height += 240 if kind in _PREVIEWS else 0
        properties: dict[str, Any] = {"Node name for S&R": kind}
        if models:
            properties["models"] = [_model(name) for name in models]
        return self._append(kind, height, inputs, outputs, widgets, properties, title)

    def _inputs(
        self, kind: str, links: dict[str, Link], values: dict[str, Any]
    ) -> tuple[list[dict[str, Any]], list[Any], int]:
        inputs: list[dict[str, Any]] = []
        widgets: list[Any] = []
        extra = 0
        known = set()
        for section in ("required", "optional"):
            for name, spec in self.schemas[kind]["input"].get(section, {}).items():
                known.add(name)
                wire, options = spec[0], spec[1] if len(spec) > 1 else {}
                is_widget = isinstance(wire, list) or wire in _WIDGETS
                entry: dict[str, Any] = {
                    "name": name,
                    "type": "COMBO" if isinstance(wire, list) else wire,
                }
                if is_widget and not options.get("forceInput"):
                    entry["widget"] = {"name": name}
                    widgets += self._values(name, wire, options, values)
                    extra += 70 if options.get("multiline") else 0
                elif section == "optional":
                    entry["shape"] = 7
                if "widget" not in entry or name in links:
                    entry["link"] = (
                        self._connect(links[name], len(inputs)) if name in links else None
                    )
                    inputs.append(entry)
        unknown = (set(links) | {v.split("__")[0] for v in values}) - known
        assert not unknown, f"{kind} has no inputs {unknown}"
        return inputs, widgets, extra

    @staticmethod
    def _values(name: str, wire: Any, options: dict[str, Any], values: dict[str, Any]) -> list[Any]:
        choices = wire if isinstance(wire, list) else options.get("options", [])
        if wire == "COMFY_DYNAMICCOMBO_V3":
            key = values.get(name, choices[0]["key"])
            nested = next(option["inputs"] for option in choices if option["key"] == key)
            found = [key]
            for inner, spec in nested.get("required", {}).items():
                if spec[0] in _WIDGETS:
                    found += Flow._values(f"{name}__{inner}", spec[0], spec[1], values)
            return found
        default = options.get("default", choices[0] if choices else "")
        found = [values.get(name, default)]
        return [*found, "fixed"] if options.get("control_after_generate") else found

    def _connect(self, link: Link, slot: int) -> int:
        origin, output = link
        if origin == SOCKET:
            index = list(self.sockets).index(output)
            number, target = len(self.links) + 1, len(self.nodes) + 1
            self.links.append([number, -10, index, target, slot, self.sockets[output]])
            return number
        node = self.nodes[origin - 1]
        (index,) = [i for i, o in enumerate(node["outputs"]) if o["name"] == output]
        number = len(self.links) + 1
        node["outputs"][index]["links"].append(number)
        target = len(self.nodes) + 1
        self.links.append([number, origin, index, target, slot, node["outputs"][index]["type"]])
        return number

    def _append(
        self,
        kind: str,
        height: int,
        inputs: list[Any],
        outputs: list[Any],
        widgets: list[Any],
        properties: dict[str, Any],
        title: str | None,
    ) -> int:
        number = len(self.nodes) + 1
        node = {
            "id": number,
            "type": kind,
            "pos": [self.x, self.y],
            "size": [WIDTH, height],
            "flags": {},
            "order": number - 1,
            "mode": 0,
            "inputs": inputs,
            "outputs": outputs,
            "properties": properties,
            "widgets_values": widgets,
        }
        if title:
            node["title"] = title
        self.nodes.append(node)
        self.y += height + 50
        return number

    def document(self) -> dict[str, Any]:
        """The workflow as the front end reads it."""
        self._close()
        groups = [
            {
                "id": i + 1,
                "title": group["title"],
                "bounding": group["bounding"],
                "color": COLOURS[i % len(COLOURS)],
                "font_size": 24,
                "flags": {},
            }
            for i, group in enumerate(self.groups)
        ]
        return {
            "last_node_id": len(self.nodes),
            "last_link_id": len(self.links),
            "nodes": self.nodes,
            "links": self.links,
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.55, "offset": [60, 60]}},
            "version": 0.4,
        }


def blueprint(
    flow: Flow, name: str, about: str, outputs: dict[str, Link], shown: list[tuple[int, str]]
) -> dict[str, Any]:
    """A graph as one node: ``sockets`` become its inputs, ``shown`` widgets appear on it."""
    inner = flow.document()
    identity = str(uuid.uuid5(uuid.NAMESPACE_URL, f"fluxguard/{name}"))
    ends = []
    for i, (label, (origin, output)) in enumerate(outputs.items()):
        node = flow.nodes[origin - 1]
        (index,) = [k for k, o in enumerate(node["outputs"]) if o["name"] == output]
        number = len(flow.links) + 1
        wire = node["outputs"][index]["type"]
        node["outputs"][index]["links"].append(number)
        flow.links.append([number, origin, index, -20, i, wire])
        ends.append(
            {"id": _identity(identity, label), "name": label, "type": wire, "linkIds": [number]}
        )
    starts = [
        {
            "id": _identity(identity, f"in {label}"),
            "name": label,
            "type": wire,
            "linkIds": [link[0] for link in flow.links if link[1] == -10 and link[2] == i],
        }
        for i, (label, wire) in enumerate(flow.sockets.items())
    ]
    keys = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
    definition = {
        "id": identity,
        "version": 1,
        "state": {
            "lastGroupId": len(flow.groups),
            "lastNodeId": len(flow.nodes),
            "lastLinkId": len(flow.links),
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": name,
        "inputNode": {"id": -10, "bounding": [-260, TOP, 160, 40 + 20 * len(starts)]},
        "outputNode": {"id": -20, "bounding": [flow.x + 60, TOP, 160, 40 + 20 * len(ends)]},
        "inputs": starts,
        "outputs": ends,
        "widgets": [],
        "nodes": inner["nodes"],
        "groups": inner["groups"],
        "links": [dict(zip(keys, link, strict=True)) for link in flow.links],
        "extra": {},
        "category": "FluxGuard",
        "description": about,
    }
    node = {
        "id": 1,
        "type": identity,
        "pos": [100, 100],
        "size": [380, 320],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [{"name": s["name"], "type": s["type"], "link": None} for s in starts],
        "outputs": [{"name": s["name"], "type": s["type"], "links": []} for s in ends],
        "properties": {"proxyWidgets": [[str(number), widget] for number, widget in shown]},
        "widgets_values": [],
        "title": name,
    }
    return {
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [definition]},
        "extra": {},
    }


def _identity(base: str, label: str) -> str:
    return str(uuid.uuid5(uuid.UUID(base), label))


def _model(name: str) -> dict[str, str]:
    entry = load_manifest()[name]
    assert entry.url is not None
    return {"name": entry.file, "url": entry.url, "directory": entry.folder}


@dataclass(frozen=True)
class Stage:
    """Outputs that every graph starts from."""

    model: Link
    vae: Link
    clip: Link
    image: Link
    faces: Link
    mini: bool


MINI_SOURCE = "a person with long brown hair, white clothes, pink background"
MINI_SEED = 349
REAL_SOURCE = "a studio portrait of a woman with brown hair, grey background"

_ABOUT_MINI = (
    "## The miniature\nA tiny FLUX, VAE and text encoder that come with the pack. They know only drawn portraits "
    "of nobody, and run on a CPU. Every node is the one you use with FLUX.1-dev.\n\nWords: {words}"
)
_ABOUT_REAL = (
    "## Models\n- flux1-dev.safetensors in diffusion_models\n- ae.safetensors in vae\n- clip_l and t5xxl_fp16 in "
    "text_encoders\n- mediapipe_face_fp32.safetensors in detection\n- {vgg19} in fluxguard/perceptual\n- "
    "recognisers in fluxguard/recognisers: {facexlib}, {pyfeat} (save it as pyfeat-facenet.safetensors), {auraface} "
    "(an ONNX file: needs `python -m pip install onnx` once)\n\nOr fetch and check the last two lines' files with "
    "ComfyUI's Python, from its folder: `python custom_nodes/fluxguard/fluxguard_core models download {names}`. With "
    "`models list` it shows licences and sizes.\n\nFLUX.1-dev is not for commercial use."
)
FETCHED = {
    "vgg19": "vgg19",
    "facexlib": "facexlib-irse50",
    "pyfeat": "pyfeat-facenet",
    "auraface": "auraface",
}


def about_real() -> str:
    """What the full-size graphs need and where it goes, with links to what no stock loader offers."""
    entries = {key: load_manifest()[name] for key, name in FETCHED.items()}
    links = {key: f"[{entry.file}]({entry.url})" for key, entry in entries.items()}
    return _ABOUT_REAL.format(names=" ".join(FETCHED.values()), **links)


def start(flow: Flow, mini: bool, *, flux: bool = True, count: int = 1, about: str = "") -> Stage:
    """Models and picture."""
    flow.column("1 · Models")
    if about:
        flow.note(about, 180)
    model = vae = clip = (0, "")
    if mini:
        if flux:
            model = flow.node("UNETLoader", unet_name="fluxguard-mini-flux.safetensors"), "MODEL"
            clip = flow.node("FluxGuard_LoadMiniTextEncoder"), "CLIP"
        vae = flow.node("VAELoader", vae_name="fluxguard-mini-vae.safetensors"), "VAE"
        flow.note(
            _ABOUT_MINI.format(
                words="hair, lipstick, eyeshadow, eyeglasses, hat, beard, smiling, background"
            ),
            220,
        )
    else:
        if flux:
            model = (
                flow.node("UNETLoader", models=("flux1-dev",), unet_name="flux1-dev.safetensors"),
                "MODEL",
            )
            clip = (
                flow.node(
                    "DualCLIPLoader",
                    models=("clip-l", "t5xxl-fp16"),
                    clip_name1="clip_l.safetensors",
                    clip_name2="t5xxl_fp16.safetensors",
                    type="flux",
                ),
                "CLIP",
            )
        vae = flow.node("VAELoader", models=("flux1-vae",), vae_name="ae.safetensors"), "VAE"
        flow.note(about_real(), 460)
    flow.column("2 · Picture")
    if mini:
        picture = flow.node("FluxGuard_MiniPortrait", seed=MINI_SEED, count=count)
        image: Link = picture, "IMAGE"
        found = flow.node("FluxGuard_MiniFaceFinder", {"image": image})
        return Stage(model, vae, clip, image, (found, "faces"), mini)
    image = flow.node("LoadImage", image="example.png"), "IMAGE"
    if count > 1:
        second = (
            flow.node("LoadImage", image="example.png", title="Second picture, of the same size"),
            "IMAGE",
        )
        image = flow.node("ImageBatch", {"image1": image, "image2": second}), "IMAGE"
    if flux:
        image = (
            flow.node(
                "ImageScaleToTotalPixels",
                {"image": image},
                upscale_method="lanczos",
                megapixels=1.0,
                resolution_steps=16,
            ),
            "IMAGE",
        )
    detector = flow.node(
        "LoadMediaPipeFaceLandmarker",
        models=("mediapipe-face",),
        model_name="mediapipe_face_fp32.safetensors",
    )
    wire = flow.nodes[detector - 1]["outputs"][0]["name"]
    found = flow.node(
        "MediaPipeFaceLandmarker", {"face_detection_model": (detector, wire), "image": image}
    )
    marks: Link = found, "face_landmarks"
    picked = flow.node("FluxGuard_FacePicker", {"image": image, "face_landmarks": marks})
    return Stage(model, vae, clip, image, (picked, "faces"), mini)


@dataclass(frozen=True)
class Edit:
    """An inversion with its edit patches; ``latent`` is the picture's own."""

    model: Link
    trajectory: Link
    latent: Link


def edit(
    flow: Flow, stage: Stage, model: Link, source: str, words: str, *, preset: str = "default"
) -> Edit:
    """Inversion, mask and the two patches."""
    steps = 12 if stage.mini and preset != "paper" else 25
    flow.column("3 · Inversion")
    prompt = flow.node(
        "CLIPTextEncode", {"clip": stage.clip}, "Source prompt: the picture as it is", text=source
    )
    latent = flow.node("VAEEncode", {"pixels": stage.image, "vae": stage.vae})
    inversion = flow.node(
        "FluxGuard_RFInversion",
        {"model": model, "positive": (prompt, "CONDITIONING"), "latent": (latent, "LATENT")},
        preset=preset,
        steps=steps,
    )
    trajectory: Link = inversion, "trajectory"
    flow.column("4 · What may change")
    mask = flow.node(
        "FluxGuard_TextToMask",
        {"image": stage.image, "faces": stage.faces},
        text=words,
        grow=4 if stage.mini else 8,
    )
    injected = flow.node(
        "FluxGuard_AttentionVInjection",
        {"model": model, "trajectory": trajectory, "mask": (mask, "MASK")},
    )
    fused = flow.node(
        "FluxGuard_VelocityFusion",
        {"model": (injected, "MODEL"), "trajectory": trajectory, "mask": (mask, "MASK")},
    )
    return Edit((fused, "MODEL"), trajectory, (latent, "LATENT"))


def people(flow: Flow, stage: Stage) -> tuple[Link, Link]:
    """Recognisers and identity."""
    if stage.mini:
        ensemble = flow.node("FluxGuard_MiniRecognisers")
    else:
        ensemble = flow.node("FluxGuard_FREnsembleLoader")
    identity = flow.node("FluxGuard_Identity", kind="untargeted")
    return (ensemble, "ensemble"), (identity, "identity")


def decoded(
    flow: Flow, stage: Stage, source: Link, latent: Link, title: str, *, save: bool = False
) -> Link:
    """Decode a latent over the photo's own detail, and show it."""
    links = {"photo": stage.image, "source": source, "result": latent, "vae": stage.vae}
    picture: Link = flow.node("FluxGuard_KeepPhotoPixels", links), "IMAGE"
    if save:
        flow.node("SaveImage", {"images": picture}, title, filename_prefix="fluxguard/protected")
    else:
        flow.node("PreviewImage", {"images": picture}, title)
    return picture


def light(flow: Flow, steps: int) -> Link:
    """Options with which the miniature protects in seconds."""
    numbers = {"preset__attacked_intervals": 3, "preset__steps": steps, "preset__random_views": 1}
    return flow.node("FluxGuard_ProtectionOptions", **numbers), "options"


def refined(
    flow: Flow,
    stage: Stage,
    model: Link,
    edit: Edit,
    target: str,
    who: tuple[Link, Link],
    options: Link | None = None,
) -> int:
    """Target prompt and refiner."""
    prompt = flow.node("CLIPTextEncode", {"clip": stage.clip}, "Target prompt", text=target)
    links = {
        "model": model,
        "positive": (prompt, "CONDITIONING"),
        "trajectory": edit.trajectory,
        "vae": stage.vae,
        "ensemble": who[0],
        "identity": who[1],
        "faces": stage.faces,
    }
    return flow.node("FluxGuard_LatentRefiner", links | ({"options": options} if options else {}))


def reported(flow: Flow, stage: Stage, pictures: tuple[Link, Link, Link], ensemble: Link) -> None:
    """The report on original, edited and protected."""
    original, edited, protected = pictures
    links = {"original": original, "edited": edited, "protected": protected, "ensemble": ensemble}
    flow.node("FluxGuard_PrivacyReport", {**links, "faces": stage.faces})


def _prompts(stage: Stage) -> tuple[str, str, str]:
    """Source prompt, target prompt, and the words to mask."""
    if stage.mini:
        target = MINI_SOURCE.replace("brown hair", "brown hair, wearing red lipstick")
        return MINI_SOURCE, target, "red lipstick"
    return REAL_SOURCE, f"{REAL_SOURCE}, wearing bright red lipstick", "red lipstick"


def edit_and_protect(
    flow: Flow, mini: bool, *, lora: bool = False, count: int = 1, preset: str = "default"
) -> None:
    """The whole method; with a LoRA, on a batch, or as published."""
    stage = start(flow, mini, count=count)
    model = stage.model
    if lora:
        name = "fluxguard-mini-sepia.safetensors" if mini else "your-style.safetensors"
        model = flow.node("LoraLoaderModelOnly", {"model": model}, lora_name=name), "MODEL"
    source, target, words = _prompts(stage)
    if count > 1:
        source = source if not mini else "a person"
        target = target if not mini else "a person wearing red lipstick"
    change = edit(flow, stage, model, source, words, preset=preset)
    flow.column("5 · Protect")
    who = people(flow, stage)
    options = light(flow, 5) if mini and preset == "default" else None
    result = refined(flow, stage, change.model, change, target, who, options)
    flow.column("6 · Results")
    protected = decoded(flow, stage, change.latent, (result, "protected"), "Protected", save=True)
    edited = decoded(flow, stage, change.latent, (result, "edited"), "Edited, not protected")
    flow.column("7 · Did it work?")
    plain: Link = stage.image
    reported(flow, stage, (plain, edited, protected), who[0])


def stock_sampler(flow: Flow, stage: Stage, change: Edit, target: str) -> tuple[int, int]:
    """Trajectory Start and SamplerCustomAdvanced; the sampler and the target prompt."""
    flow.column("5 · Stock sampler")
    begin = flow.node(
        "FluxGuard_TrajectoryStart", {"model": stage.model, "trajectory": change.trajectory}
    )
    prompt = flow.node("CLIPTextEncode", {"clip": stage.clip}, "Target prompt", text=target)
    guided = flow.node("FluxGuidance", {"conditioning": (prompt, "CONDITIONING")}, guidance=5.5)
    guider = flow.node(
        "BasicGuider", {"model": change.model, "conditioning": (guided, "CONDITIONING")}
    )
    sampled = flow.node(
        "SamplerCustomAdvanced",
        {
            "noise": (begin, "NOISE"),
            "guider": (guider, "GUIDER"),
            "sampler": (begin, "SAMPLER"),
            "sigmas": (begin, "SIGMAS"),
            "latent_image": (begin, "LATENT"),
        },
    )
    return sampled, prompt


def edit_only(flow: Flow, mini: bool) -> None:
    """Graph 3: the edit in the stock sampler graph."""
    stage = start(flow, mini)
    source, target, words = _prompts(stage)
    change = edit(flow, stage, stage.model, source, words)
    sampled, _ = stock_sampler(flow, stage, change, target)
    flow.column("6 · Result")
    decoded(flow, stage, change.latent, (sampled, "output"), "Edited", save=True)


def protected_face(flow: Flow, stage: Stage, who: tuple[Link, Link]) -> tuple[Link, int]:
    """Encode, protect, decode, and paste the face back; the picture and the protecting node."""
    latent = flow.node("VAEEncode", {"pixels": stage.image, "vae": stage.vae})
    links = {
        "latent": (latent, "LATENT"),
        "vae": stage.vae,
        "ensemble": who[0],
        "identity": who[1],
        "faces": stage.faces,
    }
    links |= {"options": light(flow, 8)} if stage.mini else {}
    protection = flow.node("FluxGuard_ProtectLatent", links)
    if not flow.sockets:
        flow.column("4 · Back into the picture")
    pasted = flow.node(
        "FluxGuard_KeepPhotoPixels",
        {
            "photo": stage.image,
            "source": (latent, "LATENT"),
            "result": (protection, "protected"),
            "vae": stage.vae,
            "region": (protection, "region"),
        },
        "Only the face changes",
    )
    return (pasted, "IMAGE"), protection


def protect_existing(flow: Flow, mini: bool) -> None:
    """Graph 4: no edit; the protected face goes back into the original picture."""
    stage = start(flow, mini, flux=False)
    flow.column("3 · Protect")
    who = people(flow, stage)
    pasted, _ = protected_face(flow, stage, who)
    flow.node("SaveImage", {"images": pasted}, "Protected", filename_prefix="fluxguard/protected")
    kinds = (
        "A grey photo stays grey with Convert Image to Mask (green) and Convert Mask to Image before Save Image and "
        "Privacy Report. A transparent one gets its alpha back with Join Image with Alpha, from Load Image's MASK."
    )
    if not mini:
        flow.note(kinds, 180)
    flow.column("5 · Did it work?")
    reported(flow, stage, (stage.image, stage.image, pasted), who[0])


def many_prompts(flow: Flow, mini: bool) -> None:
    """Graph 5: one inversion, several edits."""
    stage = start(flow, mini)
    source, _, _ = _prompts(stage)
    if mini:
        changes = ["wearing red lipstick", "wearing pink lipstick", "wearing dark lipstick"]
        targets = [source.replace("brown hair", f"brown hair, {change}") for change in changes]
    else:
        targets = [f"{source}, wearing {colour} lipstick" for colour in ("red", "pink", "black")]
    change = edit(flow, stage, stage.model, source, "lipstick")
    flow.column("5 · Protect")
    who = people(flow, stage)
    flow.note(
        "The inversion and the patches are made once. Change one prompt, and only its branch runs again.",
        110,
    )
    options = light(flow, 2) if mini else None
    for i, target in enumerate(targets):
        flow.column(f"6 · Prompt {i + 1}")
        result = refined(flow, stage, change.model, change, target, who, options)
        title = f"Protected {i + 1}"
        decoded(flow, stage, change.latent, (result, "protected"), title, save=True)


GRAPHS = {
    "edit-and-protect": edit_and_protect,
    "edit-and-protect-lora": lambda flow, mini: edit_and_protect(flow, mini, lora=True),
    "edit-only": edit_only,
    "protect-existing": protect_existing,
    "many-prompts": many_prompts,
    "batch": lambda flow, mini: edit_and_protect(flow, mini, count=2),
    "paper": lambda flow, mini: edit_and_protect(flow, mini, preset="paper"),
}


def edit_blueprint(schemas: dict[str, Any]) -> dict[str, Any]:
    """ "Edit face with text": inversion, mask, patches and the stock sampler as one node."""
    flow = Flow(schemas)
    flow.sockets = {
        "model": "MODEL",
        "clip": "CLIP",
        "vae": "VAE",
        "image": "IMAGE",
        "faces": "FLUXGUARD_FACES",
    }
    socket = {name: (SOCKET, name) for name in flow.sockets}
    stage = Stage(
        socket["model"],
        socket["vae"],
        socket["clip"],
        socket["image"],
        socket["faces"],
        False,
    )
    source, target, words = _prompts(stage)
    change = edit(flow, stage, stage.model, source, words)
    sampled, prompt = stock_sampler(flow, stage, change, target)
    picture = flow.node(
        "FluxGuard_KeepPhotoPixels",
        {
            "photo": stage.image,
            "source": change.latent,
            "result": (sampled, "output"),
            "vae": stage.vae,
        },
    )
    kinds = {node["type"]: node["id"] for node in flow.nodes}
    first = next(node["id"] for node in flow.nodes if node["type"] == "CLIPTextEncode")
    shown = [
        (first, "text"),
        (prompt, "text"),
        (kinds["FluxGuard_TextToMask"], "text"),
        (kinds["FluxGuard_RFInversion"], "steps"),
    ]
    about = "Changes the part of a face that words name; everything else stays. FLUX.1."
    outputs = {
        "image": (picture, "IMAGE"),
        "trajectory": change.trajectory,
        "patched model": change.model,
    }
    return blueprint(flow, "Edit face with text", about, outputs, shown)


def protect_blueprint(schemas: dict[str, Any]) -> dict[str, Any]:
    """ "Protect face": a picture and its VAE in, the protected picture out."""
    flow = Flow(schemas)
    flow.sockets = {"image": "IMAGE", "vae": "VAE", "faces": "FLUXGUARD_FACES"}
    socket = {name: (SOCKET, name) for name in flow.sockets}
    stage = Stage(
        (SOCKET, ""), socket["vae"], (SOCKET, ""), socket["image"], socket["faces"], False
    )
    flow.column("Protect")
    who = people(flow, stage)
    pasted, protection = protected_face(flow, stage, who)
    kinds = {node["type"]: node["id"] for node in flow.nodes}
    shown = [
        (kinds["FluxGuard_FREnsembleLoader"], "attacked"),
        (kinds["FluxGuard_FREnsembleLoader"], "held_out"),
        (protection, "preset"),
        (protection, "seed"),
    ]
    about = "Protects the face in a finished picture against recognition; the rest of the picture stays as it is."
    return blueprint(flow, "Protect face", about, {"image": pasted, "ensemble": who[0]}, shown)


def main(url: str) -> None:
    with urllib.request.urlopen(f"{url}/object_info", timeout=60) as answer:
        schemas = json.loads(answer.read())
    for name, build in GRAPHS.items():
        for mini in (False, True):
            flow = Flow(schemas)
            build(flow, mini)
            path = ROOT / "workflows" / f"{'mini-' if mini else ''}{name}.json"
            _write(path, flow.document())
    _write(ROOT / "subgraphs" / "Edit face with text.json", edit_blueprint(schemas))
    _write(ROOT / "subgraphs" / "Protect face.json", protect_blueprint(schemas))


def _write(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(path.name)


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))

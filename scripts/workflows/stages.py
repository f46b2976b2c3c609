"""The stages that the graphs share: models, picture, inversion, mask, protection, results, report."""

from __future__ import annotations

from dataclasses import dataclass

from fluxguard_core.weights import load_manifest

from .graph import Flow, Link


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
_ABOUT_SHORT = (
    "## Models\n{vgg19}, {facexlib}, {pyfeat}, {auraface} and YuNet, once, from ComfyUI's folder with its Python: "
    "`python custom_nodes/fluxguard/fluxguard_core models download {names} yunet`. FLUX.1-dev comes through the front "
    "end; it is not for commercial use."
)
FETCHED = {
    "vgg19": "vgg19",
    "facexlib": "facexlib-irse50",
    "pyfeat": "pyfeat-facenet",
    "auraface": "auraface",
}


def about_real() -> str:
    """What the full-size graphs need and where it goes, with links to what no stock loader offers."""
    return _linked(_ABOUT_REAL)


def about_short() -> str:
    """The same in few words."""
    return _linked(_ABOUT_SHORT)


def _linked(text: str) -> str:
    entries = {key: load_manifest()[name] for key, name in FETCHED.items()}
    links = {key: f"[{entry.file}]({entry.url})" for key, entry in entries.items()}
    return text.format(names=" ".join(FETCHED.values()), **links)


def models(flow: Flow, mini: bool, *, flux: bool = True) -> tuple[Link, Link, Link]:
    """MODEL, CLIP and VAE; of the three only the VAE where nothing is edited."""
    model: Link = (0, "")
    clip: Link = (0, "")
    if flux and mini:
        model = flow.node("UNETLoader", unet_name="fluxguard-mini-flux.safetensors"), "MODEL"
        clip = flow.node("FluxGuard_LoadMiniTextEncoder"), "CLIP"
    elif flux:
        loader = flow.node("UNETLoader", models=("flux1-dev",), unet_name="flux1-dev.safetensors")
        encoders = flow.node(
            "DualCLIPLoader",
            models=("clip-l", "t5xxl-fp16"),
            clip_name1="clip_l.safetensors",
            clip_name2="t5xxl_fp16.safetensors",
            type="flux",
        )
        model, clip = (loader, "MODEL"), (encoders, "CLIP")
    if mini:
        return (
            model,
            clip,
            (flow.node("VAELoader", vae_name="fluxguard-mini-vae.safetensors"), "VAE"),
        )
    vae = flow.node("VAELoader", models=("flux1-vae",), vae_name="ae.safetensors")
    return model, clip, (vae, "VAE")


def picture(
    flow: Flow, mini: bool, *, scaled: bool = True, meshes: bool = True, count: int = 1
) -> tuple[Link, Link]:
    """IMAGE and FACES, by the host's face meshes or by YuNet."""
    if mini:
        drawn = flow.node("FluxGuard_MiniPortrait", seed=MINI_SEED, count=count)
        finder, room = "FluxGuard_MiniFaceFinder", None if meshes else 172
        found = flow.node(finder, {"image": (drawn, "IMAGE")}, below=drawn, shows=room)
        return (drawn, "IMAGE"), (found, "faces")
    loaded = flow.node("LoadImage", image="example.png", shows=None if meshes else 170)
    image: Link = loaded, "IMAGE"
    if count > 1:
        second = flow.node(
            "LoadImage", image="example.png", title="Second picture, of the same size"
        )
        image = flow.node("ImageBatch", {"image1": image, "image2": (second, "IMAGE")}), "IMAGE"
    if scaled:
        sized = flow.node(
            "ImageScaleToTotalPixels",
            {"image": image},
            below=image[0],
            upscale_method="lanczos",
            megapixels=1.0,
            resolution_steps=16,
        )
        image = sized, "IMAGE"
    if not meshes:
        first = flow.below.get(image[0], image[0])
        picker = flow.node("FluxGuard_FacePicker", {"image": image}, below=first, shows=100)
        return image, (picker, "faces")
    loader = flow.node(
        "LoadMediaPipeFaceLandmarker",
        models=("mediapipe-face",),
        below=flow.below.get(image[0], image[0]),
        model_name="mediapipe_face_fp32.safetensors",
    )
    wire = flow.nodes[loader - 1]["outputs"][0]["name"]
    found = flow.node(
        "MediaPipeFaceLandmarker", {"face_detection_model": (loader, wire), "image": image}
    )
    marks = {"image": image, "face_landmarks": (found, "face_landmarks")}
    return image, (flow.node("FluxGuard_FacePicker", marks, below=found), "faces")


def recognisers(flow: Flow, mini: bool) -> Link:
    """FR_ENSEMBLE."""
    kind = "FluxGuard_MiniRecognisers" if mini else "FluxGuard_FREnsembleLoader"
    return flow.node(kind), "ensemble"


def start(flow: Flow, mini: bool, *, flux: bool = True, count: int = 1) -> Stage:
    """Models and picture, with a note on both."""
    flow.stage("1 · Models")
    model, clip, vae = models(flow, mini, flux=flux)
    words = "hair, lipstick, eyeshadow, eyeglasses, hat, beard, smiling, background"
    flow.note(_ABOUT_MINI.format(words=words), 220) if mini else flow.note(about_real(), 480)
    flow.stage("2 · Picture")
    image, faces = picture(flow, mini, scaled=flux, count=count)
    return Stage(model, vae, clip, image, faces, mini)


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
    flow.stage("3 · Inversion")
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
    flow.stage("4 · What may change")
    links = {"image": stage.image, "faces": stage.faces}
    # The miniature's parser finds every region, and the published method asks no attention for one.
    if not stage.mini and preset != "paper":
        asked = {"model": model, "clip": stage.clip, "trajectory": trajectory}
        links["concepts"] = flow.node("FluxGuard_ConceptAttention", asked), "concepts"
    mask = flow.node(
        "FluxGuard_TextToMask",
        links,
        text=words,
        grow=4 if stage.mini else 8,
    )
    injected = flow.node(
        "FluxGuard_AttentionVInjection",
        {"model": model, "trajectory": trajectory, "mask": (mask, "MASK")},
        below=mask,
    )
    fused = flow.node(
        "FluxGuard_VelocityFusion",
        {"model": (injected, "MODEL"), "trajectory": trajectory, "mask": (mask, "MASK")},
    )
    return Edit((fused, "MODEL"), trajectory, (latent, "LATENT"))


def people(flow: Flow, stage: Stage) -> tuple[Link, Link]:
    """Recognisers and identity."""
    ensemble = recognisers(flow, stage.mini)
    return ensemble, (flow.node("FluxGuard_Identity", kind="untargeted"), "identity")


def decoded(
    flow: Flow, stage: Stage, source: Link, latent: Link, title: str, *, save: bool = False
) -> Link:
    """Decode a latent over the photo's own detail, and show it."""
    links = {"photo": stage.image, "source": source, "result": latent, "vae": stage.vae}
    picture: Link = flow.node("FluxGuard_KeepPhotoPixels", links), "IMAGE"
    kind, values = "PreviewImage", {}
    if save:
        kind, values = "SaveImage", {"filename_prefix": "fluxguard/protected"}
    flow.node(kind, {"images": picture}, title, below=picture[0], **values)
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


def prompts(stage: Stage) -> tuple[str, str, str]:
    """Source prompt, target prompt, and the words to mask."""
    if stage.mini:
        target = MINI_SOURCE.replace("brown hair", "brown hair, wearing red lipstick")
        return MINI_SOURCE, target, "red lipstick"
    return REAL_SOURCE, f"{REAL_SOURCE}, wearing bright red lipstick", "red lipstick"


def stock_sampler(flow: Flow, stage: Stage, change: Edit, target: str) -> tuple[int, int]:
    """Trajectory Start and SamplerCustomAdvanced; the sampler and the target prompt."""
    flow.stage("5 · Stock sampler")
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


def redrawn(flow: Flow, stage: Stage, image: Link, guided: Link, title: str) -> Link:
    """A picture half drawn anew by the stock sampler, as anybody may do it."""
    latent = flow.node("VAEEncode", {"pixels": image, "vae": stage.vae})
    sampled = flow.node(
        "KSampler",
        {
            "model": stage.model,
            "positive": guided,
            "negative": guided,
            "latent_image": (latent, "LATENT"),
        },
        seed=1,
        steps=12 if stage.mini else 25,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        denoise=0.6,
    )
    decoded: Link = (
        flow.node("VAEDecode", {"samples": (sampled, "LATENT"), "vae": stage.vae}),
        "IMAGE",
    )
    flow.node("PreviewImage", {"images": decoded}, title, below=decoded[0])
    return decoded


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
        flow.stage("4 · Back into the picture")
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

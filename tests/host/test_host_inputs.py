"""Everything that can be connected to the protecting nodes, each in a small graph that runs with the miniature."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fluxguard_core.mini.world import weights_path
from fluxguard_core.protect.presets import preset_named
from fluxguard_core.weights import load_manifest

from .landmarker import mesh_of, write_landmarker, write_yunet
from .miniature import (
    assert_edited,
    assert_protected,
    find,
    graph_of,
    original,
    pictures,
    similarities,
)
from .server import Graph, Outcome, Rejected, Server

OTHER = 352  # another person
ATTACKED = ("mini-ir", "mini-irse", "mini-facenet")


def protecting(**changes: Any) -> tuple[Graph, str]:
    """The graph that protects an existing picture, and its protecting node."""
    graph = graph_of("protect-existing")
    node = find(graph, "FluxGuard_ProtectLatent")
    changed(graph, node, **changes)
    return graph, node


def changed(graph: Graph, node: str, **changes: Any) -> None:
    """Change a protecting node's own inputs, or the numbers of its options."""
    options = graph[find(graph, "FluxGuard_ProtectionOptions")]["inputs"]
    if (preset := changes.pop("preset", None)) is not None:
        for name in [name for name in options if name.startswith("preset")]:
            del options[name]
        options |= {f"preset.{name}": value for name, value in numbers(preset).items()}
        options["preset"] = preset
    for name, value in changes.items():
        if f"preset.{name}" in options:
            options[f"preset.{name}"] = value
        else:
            (options if name in options else graph[node]["inputs"])[name] = value


def numbers(name: str) -> dict[str, Any]:
    """A preset's own numbers, as Protection Options opens with them."""
    preset = preset_named(name)
    found = {
        "attacked_intervals": preset.attacked,
        "steps": preset.refiner.steps,
        "learning_rate": preset.refiner.learning_rate,
        "perceptual_weight": preset.refiner.perceptual_weight,
        "margin": preset.margin,
    }
    return found | ({"random_views": preset.random_views} if preset.aligned else {})


def picked(graph: Graph, image: list[Any], **inputs: Any) -> list[Any]:
    """Face Picker in the place of the miniature's own finder, on every node that asks for faces."""
    faces = add(graph, "FluxGuard_FacePicker", image=image, **{"which": "largest", **inputs})
    for entry in graph.values():
        if "faces" in entry["inputs"]:
            entry["inputs"]["faces"] = faces
    return faces


def add(graph: Graph, kind: str, **inputs: Any) -> list[Any]:
    """Add a node; returns its first output."""
    name = f"t{max((int(n[1:]) for n in graph if n.startswith('t')), default=0) + 1}"
    graph[name] = {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}
    return [name, 0]


def region(graph: Graph, node: str) -> str:
    """Save the region of a protecting node; returns the saving node."""
    output = 2 if graph[node]["class_type"] == "FluxGuard_LatentRefiner" else 1
    image = add(graph, "MaskToImage", mask=[node, output])
    return add(graph, "SaveImage", images=image, filename_prefix="fluxguard/region")[0]


def told(graph: Graph, node: str) -> str:
    """Show the report of a protecting node; returns the showing node."""
    output = 3 if graph[node]["class_type"] == "FluxGuard_LatentRefiner" else 2
    return add(graph, "PreviewAny", source=[node, output])[0]


def told_by_report(server: Server, graph: Graph) -> tuple[str, Any]:
    """The Privacy Report's summary and its numbers."""
    node = find(graph, "FluxGuard_PrivacyReport")
    texts = [add(graph, "PreviewAny", source=[node, output])[0] for output in (1, 2)]
    outcome = server.result(graph)
    summary, numbers = (outcome.outputs[text]["text"][0] for text in texts)
    return summary, json.loads(numbers)


def result(server: Server, graph: Graph) -> tuple[Outcome, Tensor]:
    outcome = server.result(graph)
    return outcome, pictures(server, outcome, find(graph, "SaveImage", "Protected"))


def portraits(seeds: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures, labels and five points of portraits of 128 pixels."""
    from fluxguard_core.mini.portrait_spec import random_spec
    from fluxguard_core.mini.renderer import render_batch

    return render_batch([random_spec(seed) for seed in seeds])


def landmarks(server: Server, graph: Graph, image: list[Any], margin: int = 0) -> list[Any]:
    """The host's own MediaPipe nodes on a portrait with a margin, with a weight file that sees its face."""
    seed = graph[find(graph, "FluxGuard_MiniPortrait")]["inputs"]["seed"]
    _, labels, points = portraits([seed])
    folder = server.base / "models" / "detection"
    file = write_landmarker(folder, mesh_of(labels[0], points[0]) + margin, 128 + 2 * margin)
    model = add(graph, "LoadMediaPipeFaceLandmarker", model_name=file)
    return add(
        graph,
        "MediaPipeFaceLandmarker",
        face_detection_model=model,
        image=image,
        detector_variant="short",
        num_faces=1,
        min_confidence=0.5,
        missing_frame_fallback="empty",
    )


def test_the_hosts_landmarks(any_server: Server) -> None:
    """Words find the lips, and the refiner the face, on what the host's real MediaPipe node gives."""
    graph = graph_of("edit-and-protect")
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    found = landmarks(any_server, graph, portrait)
    picked(graph, portrait, face_landmarks=found)
    outcome, protected = result(any_server, graph)
    edited = pictures(any_server, outcome, find(graph, "PreviewImage", "Edited"))
    assert_edited(graph, edited)
    assert_protected(original(graph), edited, protected)


def test_landmarks_of_a_picture_that_vae_encode_cuts(server: Server) -> None:
    """The mesh moves with the picture: 132 pixels lose two on each side."""
    graph, node = protecting()
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    margin = {"left": 2, "top": 2, "right": 2, "bottom": 2, "feathering": 0}
    larger = add(graph, "ImagePadForOutpaint", image=portrait, **margin)
    graph[find(graph, "VAEEncode")]["inputs"]["pixels"] = larger
    picked(graph, larger, face_landmarks=landmarks(server, graph, larger, margin=2))
    # The results have the whole picture's size: the margin is the picture's own.
    graph[find(graph, "FluxGuard_MiniFaceFinder")]["inputs"]["image"] = larger
    mini = [find(graph, "FluxGuard_MiniFaceFinder"), 0]
    report = graph[find(graph, "FluxGuard_PrivacyReport")]["inputs"]
    report.update(original=larger, edited=larger, faces=mini)
    graph[find(graph, "FluxGuard_KeepPhotoPixels")]["inputs"]["photo"] = larger
    saved = region(graph, node)
    outcome, protected = result(server, graph)
    assert protected.shape[-2:] == (132, 132)
    assert_protected(original(graph), original(graph), protected[..., 2:-2, 2:-2])
    # The same region as on the portrait without its margin.
    plain, other = protecting()
    picked(plain, portrait, face_landmarks=landmarks(server, plain, portrait))
    save = region(plain, other)
    expected = pictures(server, server.result(plain), save)
    assert float((pictures(server, outcome, saved) - expected).abs().max()) < 0.02


def test_the_hosts_boxes(any_server: Server) -> None:
    """The second output of the host's face detector: a list of boxes for each picture."""
    graph, _node = protecting()
    found = landmarks(any_server, graph, [find(graph, "FluxGuard_MiniPortrait"), 0])
    picked(graph, [find(graph, "FluxGuard_MiniPortrait"), 0], bboxes=[found[0], 1])
    _, protected = result(any_server, graph)
    assert_less_similar(graph, protected)


def assert_less_similar(graph: Graph, protected: Tensor) -> None:
    """The attacked recognisers see less of the person, however roughly the face was placed."""
    found = similarities(original(graph), protected)
    assert all(max(found[name]) < 0.9 for name in ATTACKED), found


def typed(graph: Graph, x: int, y: int, width: int, height: int) -> list[Any]:
    """The host's Bounding Box node, for a box typed by hand."""
    return add(graph, "PrimitiveBoundingBox", x=x, y=y, width=width, height=height)


def test_a_box_typed_by_hand(any_server: Server) -> None:
    graph, node = protecting()
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    picked(graph, portrait, bboxes=typed(graph, 24, 30, 66, 84))
    saved = region(graph, node)
    outcome, protected = result(any_server, graph)
    assert_less_similar(graph, protected)
    acted = pictures(any_server, outcome, saved)
    assert float(acted[..., 60:90, 45:75].mean()) > 0.9 and float(acted[..., :8, -8:].max()) == 0


@pytest.mark.parametrize(
    ("box", "words"),
    [((400, 400, 60, 60), "outside the picture"), ((10, 10, 2, 2), "empty or too small")],
)
def test_a_useless_box(server: Server, box: tuple[int, int, int, int], words: str) -> None:
    graph, _node = protecting()
    picked(graph, [find(graph, "FluxGuard_MiniPortrait"), 0], bboxes=typed(graph, *box))
    assert words in server.fails(graph)


def test_no_face_where_one_is_needed(server: Server) -> None:
    graph, node = protecting()
    del graph[node]["inputs"]["faces"]
    message = server.fails(graph)
    assert "Face Picker" in message and "the input faces" in message
    assert (
        "install YuNet" in message
        and "fluxguard_core models download yunet` in a terminal" in message
    )
    graph[node]["inputs"]["faces"] = add(
        graph,
        "FluxGuard_MiniFaceFinder",
        image=[find(graph, "FluxGuard_MiniPortrait"), 0],
        which="number",
        **{"which.number": 3},
    )
    assert "face 3 was asked for" in server.fails(graph)


def test_one_of_several_faces(server: Server) -> None:
    """Two portraits side by side; the index says whose face changes."""
    graph, node = protecting(attacked_intervals=1, steps=2)
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    both = add(
        graph,
        "ImageStitch",
        image1=portrait,
        image2=portrait,
        direction="right",
        match_image_size=True,
        spacing_width=0,
        spacing_color="white",
    )
    first = landmarks(server, graph, portrait)
    found = add(graph, "Probe_SecondFace", face_landmarks=first, image=both, shift=128)
    graph[find(graph, "VAEEncode")]["inputs"]["pixels"] = both
    graph[find(graph, "FluxGuard_KeepPhotoPixels")]["inputs"]["photo"] = both
    picker = picked(graph, both, face_landmarks=found, which="number")[0]
    del graph[find(graph, "FluxGuard_PrivacyReport")]  # it compares pictures of one size
    saved = region(graph, node)
    for index in (0, 1):
        graph[picker]["inputs"]["which.number"] = index
        acted = pictures(server, server.result(graph), saved)
        here, there = acted[..., :128], acted[..., 128:]
        assert acted.shape[-1] == 256
        chosen, other = (here, there) if index == 0 else (there, here)
        assert float(chosen.max()) == 1 and float(other.mean()) < 0.02
    graph[picker]["inputs"]["which"] = "all"
    acted = pictures(server, server.result(graph), saved)
    assert float(acted[..., :128].max()) == 1 == float(acted[..., 128:].max())
    graph[picker]["inputs"].update({"which": "number", "which.number": 2})
    message = server.fails(graph)
    assert "has 2 faces" in message and "face 2 was asked for" in message


def test_yunet(server: Server) -> None:
    """kornia's detector from a local file: absent, of another kind, and one that sees the face."""
    pytest.importorskip("kornia.contrib.face_detection")
    folder = server.base / "models" / "fluxguard" / "detection"
    graph, node = protecting()
    picker = picked(graph, [find(graph, "FluxGuard_MiniPortrait"), 0])
    message = server.fails(graph)
    assert "models download yunet" in message
    folder.mkdir(parents=True)
    torch.save({"conv": torch.zeros(16, 3, 3, 3)}, folder / "yunet_final.pth")
    assert "not YuNet's weight file" in server.fails(graph)
    write_yunet(folder, portraits([349])[2][0])
    graph[node]["inputs"]["seed"] = 1
    _, protected = result(server, graph)
    assert_protected(original(graph), original(graph), protected)
    # Without Face Picker the nodes look for the largest face themselves.
    del graph[picker[0]]
    for entry in graph.values():
        entry["inputs"].pop("faces", None)
    _, alone = result(server, graph)
    assert torch.equal(alone, protected)
    (folder / "yunet_final.pth").unlink()


def identity(graph: Graph, **kind: Any) -> None:
    graph[find(graph, "FluxGuard_Identity")]["inputs"] = kind


def test_a_synthetic_identity(server: Server) -> None:
    """The face moves towards an invented person, and another seed is another person."""
    results = []
    for seed in (3, 4):
        graph, node = protecting(steps=10)
        identity(graph, kind="synthetic", **{"kind.seed": seed})
        shown = told(graph, node)
        outcome, protected = result(server, graph)
        assert_protected(original(graph), original(graph), protected)
        text = outcome.outputs[shown]["text"][0]
        assert "identity synthetic" in text and "to the target" in text
        results.append(protected)
    assert float((results[0] - results[1]).abs().max()) > 0.02


def test_a_photo_as_identity(server: Server) -> None:
    """The protected face resembles the person of the photo more than the original did."""
    graph, node = protecting(steps=10)
    other = add(graph, "FluxGuard_MiniPortrait", seed=OTHER, count=1, size=128)
    seen = add(graph, "FluxGuard_MiniFaceFinder", image=other, which="largest")
    identity(
        graph,
        kind="photo",
        **{"kind.photos": other, "kind.cut": "around the face", "kind.faces": seen},
    )
    shown, before = told(graph, node), portraits([349])[0]
    outcome = server.result(graph)
    protected = pictures(server, outcome, find(graph, "SaveImage", "Protected"))
    photo = portraits([OTHER])[0]
    was, now = similarities(photo, before), similarities(photo, protected)
    assert all(now[name][0] > was[name][0] + 0.2 for name in ATTACKED), (was, now)
    away = similarities(before, protected)
    assert all(away[name][0] < 0.7 for name in ATTACKED), away
    assert "to the target" in outcome.outputs[shown]["text"][0]


def test_the_whole_frame_as_a_photo(server: Server) -> None:
    graph, _ = protecting(steps=2)
    other = add(graph, "FluxGuard_MiniPortrait", seed=OTHER, count=2, size=128)
    identity(graph, kind="photo", **{"kind.photos": other, "kind.cut": "whole frame"})
    assert server.result(graph).error is None


def test_leaning_on_the_hardest_recogniser(server: Server) -> None:
    """The worst-case weighting is another optimisation, and protects as well."""
    results = []
    for weighting in ("equal", "worst"):
        graph, _ = protecting(steps=8)
        graph[find(graph, "FluxGuard_MiniRecognisers")]["inputs"]["weighting"] = weighting
        results.append(result(server, graph)[1])
        assert_protected(original(graph), original(graph), results[-1])
    assert not torch.equal(*results)


def test_the_paper_preset(server: Server) -> None:
    """No face needed, the whole frame may change, exactly the published number of steps."""
    graph, node = protecting(preset="paper")
    for entry in graph.values():
        if entry["class_type"] != "FluxGuard_PrivacyReport":
            entry["inputs"].pop("faces", None)
    shown, saved = told(graph, node), region(graph, node)
    outcome, protected = result(server, graph)
    text = outcome.outputs[shown]["text"][0]
    assert text.startswith("Preset paper") and text.count("10 iterates") == 5
    assert float(pictures(server, outcome, saved).min()) == 1
    changed = (protected - original(graph)).abs().amax(1)
    assert float(changed[..., :16, :].max()) > 0.01


def test_the_paper_workflow(server: Server) -> None:
    """One choice at RF Inversion reproduces the published method in every node behind it."""
    graph = graph_of("paper")
    for kind in ("AttentionVInjection", "VelocityFusion"):
        assert graph[find(graph, f"FluxGuard_{kind}")]["inputs"]["window"] == "as inverted"
    node = find(graph, "FluxGuard_LatentRefiner")
    assert graph[node]["inputs"]["preset"] == "as inverted"
    shown, saved = told(graph, node), latent_of(graph, [node, 1])
    outcome, protected = result(server, graph)
    edited = pictures(server, outcome, find(graph, "PreviewImage", "Edited"))
    assert 0.005 < float((protected - edited).abs().max()) < 0.8
    text = outcome.outputs[shown]["text"][0]
    assert "Preset paper" in text and text.count("10 iterates") == 5
    assert "carries no guidance, so 5.5 was set" in text
    # The same by hand, choice by choice.
    by_hand = graph_of("paper")
    options = add(
        by_hand,
        "FluxGuard_InversionOptions",
        preset="default",
        blocks="published",
        storage="cpu",
        storage_format="computed",
        **{"preset.solver": "midpoint", "preset.value_intervals": 5, "preset.tokens": "all"},
    )
    by_hand[find(by_hand, "FluxGuard_RFInversion")]["inputs"].update(
        options=options, preset="default"
    )
    by_hand[find(by_hand, "FluxGuard_AttentionVInjection")]["inputs"].update(
        {"window": "custom", "window.intervals": 3, "tokens": "all"}
    )
    by_hand[find(by_hand, "FluxGuard_VelocityFusion")]["inputs"].update(
        {"window": "custom", "window.first": 5, "window.last": 19, "order": "released"}
    )
    short = {f"preset.{name}": value for name, value in numbers("paper").items()}
    short |= {"preset.attacked_intervals": 1, "preset.steps": 1}  # the edit is the same without
    by_hand[find(by_hand, "FluxGuard_LatentRefiner")]["inputs"]["options"] = add(
        by_hand,
        "FluxGuard_ProtectionOptions",
        preset="paper",
        max_change="off",
        perceptual="auto",
        solver="midpoint",
        one_batch=True,
        **short,
    )
    del by_hand[find(by_hand, "FluxGuard_PrivacyReport")]
    again = latent_of(by_hand, [find(by_hand, "FluxGuard_LatentRefiner"), 1])
    other = server.result(by_hand)
    edits = latents(server, outcome, saved), latents(server, other, again)
    assert float((edits[0] - edits[1]).abs().max()) < 1e-3


def latent_of(graph: Graph, samples: list[Any]) -> str:
    return add(graph, "SaveLatent", samples=samples, filename_prefix="latents/kept")[0]


def latents(server: Server, outcome: Outcome, node: str) -> Tensor:
    (entry,) = outcome.outputs[node]["latents"]
    return load_file(server.output_file(entry))["latent_tensor"]


def test_guidance_is_the_conditionings_own(server: Server) -> None:
    """FluxGuidance counts; where there is none, what was set is told."""
    texts = []
    for guidance in (None, 5.5, 2.0):
        graph = graph_of("edit-and-protect")
        node = find(graph, "FluxGuard_LatentRefiner")
        changed(graph, node, attacked_intervals=1, steps=1)
        inputs = graph[node]["inputs"]
        if guidance is not None:
            inputs["positive"] = add(
                graph, "FluxGuidance", conditioning=inputs["positive"], guidance=guidance
            )
        shown, kept = told(graph, node), latent_of(graph, [node, 1])
        outcome = server.result(graph)
        texts.append((outcome.outputs[shown]["text"][0], latents(server, outcome, kept)))
    (without, first), (same, second), (other, third) = texts
    assert "carries no guidance, so 5.5 was set" in without
    assert "guidance" not in same and "guidance" not in other
    assert torch.equal(first, second) and not torch.equal(first, third)


def test_the_fast_preset(server: Server) -> None:
    """FireFlow, and gradients through the tiny decoder, which the full one checks."""
    graph = graph_of("edit-and-protect")
    graph[find(graph, "FluxGuard_RFInversion")]["inputs"]["preset"] = "fast"
    node = find(graph, "FluxGuard_LatentRefiner")
    options = graph[node]["inputs"].pop("options")
    assert "tiny" in server.fails(graph)
    graph[node]["inputs"]["options"] = options
    changed(graph, node, preset="fast", attacked_intervals=3, steps=5)
    inputs = graph[options[0]]["inputs"]
    with pytest.raises(Rejected, match="tiny_vae"):
        server.queue(graph)
    inputs["preset.tiny_vae"] = [find(graph, "VAELoader"), 0]
    shown = told(graph, node)
    outcome, protected = result(server, graph)
    edited = pictures(server, outcome, find(graph, "PreviewImage", "Edited"))
    assert_protected(original(graph), edited, protected)
    assert "Preset fast" in outcome.outputs[shown]["text"][0]


def test_the_stock_loader_lists_taef1(server: Server) -> None:
    """Both halves under the manifest's names make the tiny_vae that the texts speak of."""
    state = load_file(weights_path("vae"))
    graph, node = protecting(preset="fast", steps=2, attacked_intervals=1)
    tiny = add(graph, "VAELoader", vae_name="taef1")
    graph[find(graph, "FluxGuard_ProtectionOptions")]["inputs"]["preset.tiny_vae"] = tiny
    manifest = load_manifest()
    for half in ("encoder", "decoder"):
        with pytest.raises(Rejected, match="taef1"):
            server.queue(graph)
        entry, prefix = manifest[f"taef1-{half}"], f"taesd_{half}."
        path = server.base / "models" / entry.folder / entry.file
        path.parent.mkdir(exist_ok=True)
        torch.save({k.removeprefix(prefix): v for k, v in state.items() if prefix in k}, path)
    shown = told(graph, node)
    assert "Preset fast" in server.result(graph).outputs[shown]["text"][0]


def test_saved_trajectories_are_listed(server: Server) -> None:
    """Wherever a prefix put them, the newest first; links to nothing and deleted files are left out."""

    def listed() -> list[str]:
        schema = server.get("/object_info/FluxGuard_LoadTrajectory")["FluxGuard_LoadTrajectory"]
        options = schema["input"]["required"]["file"][1]["options"]
        return [name for name in options if "listed" in name]

    suffix, names = ".trajectory.safetensors", ["listed", "fluxguard/listed", "a/b/listed"]
    paths = [server.base / "output" / f"{name}{suffix}" for name in names]
    paths.append(server.base / "input" / f"listed{suffix}")
    for age, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (2000 - age, 2000 - age))
        os.utime(path.parent, (2000, 2000))  # long unchanged, so that it may be remembered
    paths[0].with_name(f"listed-nothing{suffix}").symlink_to(server.base / "nowhere")
    expected = [f"{name}{suffix} [output]" for name in names] + [f"listed{suffix} [input]"]
    assert listed() == expected == listed()
    paths[2].with_name(f"listed-later{suffix}").touch()
    assert listed() == [f"a/b/listed-later{suffix} [output]", *expected]
    for path in [*paths, paths[2].with_name(f"listed-later{suffix}")]:
        path.unlink()
    assert listed() == []


def test_a_photo_without_a_face_finder(server: Server) -> None:
    """What would help is told in the words of Identity's own choices."""
    graph, _ = protecting(steps=2)
    other = add(graph, "FluxGuard_MiniPortrait", seed=OTHER, count=1, size=128)
    identity(graph, kind="photo", **{"kind.photos": other, "kind.cut": "around the face"})
    message = server.fails(graph)
    assert "models download yunet" in message and "'whole frame'" in message


def test_a_mask_bounds_the_protection(server: Server) -> None:
    """Only the left half of the face may change."""
    graph, node = protecting()
    white = add(graph, "SolidMask", value=1.0, width=64, height=128)
    black = add(graph, "SolidMask", value=0.0, width=128, height=128)
    half = add(graph, "MaskComposite", destination=black, source=white, x=0, y=0, operation="add")
    graph[node]["inputs"]["mask"] = half
    saved = region(graph, node)
    outcome, protected = result(server, graph)
    acted = pictures(server, outcome, saved)
    assert float(acted[..., :56].max()) > 0.9 and float(acted[..., 80:].max()) == 0
    changed = (protected - original(graph)).abs().amax(1)
    assert float(changed[..., 80:].max()) < 1 / 255 < float(changed[..., :56].max())


def test_a_second_photo_in_the_report(server: Server) -> None:
    """Another picture of the person is what a search compares with; it may have another size."""
    graph, _ = protecting()
    node = find(graph, "FluxGuard_PrivacyReport")
    second = add(graph, "FluxGuard_MiniPortrait", seed=349, count=1, size=160)
    graph[node]["inputs"]["second_photo"] = second
    summary, report = told_by_report(server, graph)
    entries = {entry["name"]: entry for entry in report["recognisers"]}
    assert summary and set(entries) >= set(ATTACKED) and not report["notes"]
    for name in ATTACKED:  # the unprotected picture is the same person, the protected one less
        assert entries[name]["second_edited"] > 0.8 > entries[name]["second_protected"], entries


@pytest.mark.parametrize("why", ["nothing finds faces", "no face"])
def test_a_second_photo_that_cannot_be_compared(server: Server, why: str) -> None:
    """Left out and said so: a squashed whole frame would be unlike the face, as if it were protected."""
    graph, _ = protecting(attacked_intervals=1, steps=1)
    report = find(graph, "FluxGuard_PrivacyReport")
    if why == "no face":
        blank = add(graph, "EmptyImage", width=96, height=96, batch_size=1, color=0)
        graph[report]["inputs"]["second_photo"] = blank
    else:  # landmarks of the first photo, and no detector for the second
        portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
        found = landmarks(server, graph, portrait)
        second = add(graph, "FluxGuard_MiniPortrait", seed=349, count=1, size=160)
        picked(graph, portrait, face_landmarks=found)
        graph[report]["inputs"]["second_photo"] = second
    summary, values = told_by_report(server, graph)
    assert "The second photo was not compared" in summary
    assert [note for note in values["notes"] if note in summary]
    for entry in values["recognisers"]:
        assert entry["second_edited"] is None and entry["second_protected"] is None
    assert any("Another photo" in gap for gap in values["not_measured"])


def test_vgg19_is_asked_for_by_name(server: Server) -> None:
    graph, _ = protecting(perceptual="vgg19")
    message = server.fails(graph)
    assert "vgg19-dcbb9e9d.pth" in message and "fluxguard/perceptual" in message


def test_the_refiner_takes_a_plain_prompt(server: Server) -> None:
    graph = graph_of("edit-and-protect")
    inputs = graph[find(graph, "FluxGuard_LatentRefiner")]["inputs"]
    latent = [find(graph, "VAEEncode"), 0]
    inputs["positive"] = add(
        graph, "ReferenceLatent", conditioning=inputs["positive"], latent=latent
    )
    assert "The target prompt carries reference latents" in server.fails(graph)


def test_one_branch_after_the_other(server: Server) -> None:
    """With one_batch off the same pictures come out."""
    results = []
    for one_batch in (True, False):
        graph = graph_of("edit-and-protect")
        node = find(graph, "FluxGuard_LatentRefiner")
        changed(graph, node, one_batch=one_batch, steps=2)
        outcome, protected = result(server, graph)
        edited = pictures(server, outcome, find(graph, "PreviewImage", "Edited"))
        results.append(torch.cat([protected, edited]))
    assert float((results[0] - results[1]).abs().mean()) < 0.01


def test_a_vae_of_another_model(server: Server) -> None:
    """Protect Latent takes any VAE: here one of twenty channels, the last four of which repeat the first."""
    state = load_file(weights_path("vae"))
    last = max(int(n.split(".")[1]) for n in state if n.startswith("taesd_encoder."))
    for name in (f"taesd_encoder.{last}.weight", f"taesd_encoder.{last}.bias"):
        state[name] = torch.cat([state[name], state[name][:4]])
    first = state["taesd_decoder.1.weight"].clone()
    first[:, :4] /= 2
    state["taesd_decoder.1.weight"] = torch.cat([first, first[:, :4]], 1)
    for name in ("vae_scale", "vae_shift"):
        state.pop(name, None)
    save_file(state, server.base / "models" / "vae" / "twenty.safetensors")
    graph, node = protecting()
    graph[find(graph, "VAELoader")]["inputs"]["vae_name"] = "twenty.safetensors"
    before = add(
        graph, "VAEDecode", samples=[find(graph, "VAEEncode"), 0], vae=graph[node]["inputs"]["vae"]
    )
    plain = add(graph, "SaveImage", images=before, filename_prefix="fluxguard/twenty")
    after = add(graph, "VAEDecode", samples=[node, 0], vae=graph[node]["inputs"]["vae"])
    saved = add(graph, "SaveImage", images=after, filename_prefix="fluxguard/twenty")
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    picked(graph, portrait, bboxes=typed(graph, 24, 30, 66, 84))
    shown = told(graph, node)
    del graph[find(graph, "FluxGuard_PrivacyReport")]
    outcome = server.result(graph)
    assert not torch.equal(*(pictures(server, outcome, one[0]) for one in (plain, saved)))
    assert "similarity to the person" in outcome.outputs[shown]["text"][0]


def masked(graph: Graph, **changes: Any) -> tuple[str, str]:
    """Text to Mask on the portrait; the node that saves its mask, and the one that shows its regions."""
    inputs = {
        "text": "red lipstick",
        "source_text": "",
        "combine": "add",
        "grow": 0,
        "feather": 0,
        "image": [find(graph, "FluxGuard_MiniPortrait"), 0],
    } | changes
    if "faces" not in inputs:
        inputs["faces"] = add(
            graph, "FluxGuard_MiniFaceFinder", image=inputs["image"], which="largest"
        )
    mask = add(graph, "FluxGuard_TextToMask", **inputs)
    image = add(graph, "MaskToImage", mask=mask)
    saved = add(graph, "SaveImage", images=image, filename_prefix="fluxguard/mask")
    return saved[0], add(graph, "PreviewAny", source=[mask[0], 1])[0]


def test_masks_from_words(server: Server) -> None:
    """Growing, feathering, another mask added, cut or taken away, and the difference of two prompts."""
    portrait = {
        "class_type": "FluxGuard_MiniPortrait",
        "inputs": {"seed": 349, "count": 1, "size": 128},
        "_meta": {"title": "Miniature Portrait"},
    }
    graph: Graph = {"p": portrait}
    white = add(graph, "SolidMask", value=1.0, width=128, height=94)
    black = add(graph, "SolidMask", value=0.0, width=128, height=128)
    above = add(graph, "MaskComposite", destination=black, source=white, x=0, y=0, operation="add")
    asked: dict[str, dict[str, Any]] = {
        "plain": {},
        "grown": {"grow": 4},
        "soft": {"feather": 6},
        "add": {"mask": above},
        "intersect": {"mask": above, "combine": "intersect"},
        "subtract": {"mask": above, "combine": "subtract"},
        "prompts": {
            "text": "a person with brown hair, wearing red lipstick",
            "source_text": "a person with brown hair",
        },
    }
    nodes = {name: masked(graph, **changes) for name, changes in asked.items()}
    outcome = server.result(graph)
    masks = {n: pictures(server, outcome, saved)[:, 0] for n, (saved, _) in nodes.items()}
    area = {name: float(mask.sum()) for name, mask in masks.items()}
    assert area["grown"] > 1.3 * area["plain"] > 0
    assert ((masks["soft"] > 0.1) & (masks["soft"] < 0.9)).any()
    assert float(masks["add"][:, :88].min()) == 1 and area["intersect"] + area["subtract"] > 0
    assert float(masks["intersect"][:, 94:].max()) == 0 == float(masks["subtract"][:, :94].max())
    assert torch.equal(masks["prompts"], masks["plain"])
    assert outcome.outputs[nodes["prompts"][1]]["text"][0] == "lips"


def test_a_picture_does_not_depend_on_its_batch_mates(server: Server) -> None:
    """Two people together come out as each alone, bit for bit, though their latents have other spreads."""
    graph, node = protecting(steps=4)
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    other = add(graph, "FluxGuard_MiniPortrait", seed=OTHER, count=1, size=128)
    vae = graph[node]["inputs"]["vae"]
    one, two = (add(graph, "VAEEncode", pixels=image, vae=vae) for image in (portrait, other))
    both = add(graph, "LatentBatch", samples1=one, samples2=two)
    images = add(graph, "ImageBatch", image1=portrait, image2=other)
    del graph[find(graph, "FluxGuard_PrivacyReport")], graph[find(graph, "SaveImage", "Protected")]
    kept = []
    for latent, image in ((one, portrait), (two, other), (both, images)):
        faces = add(graph, "FluxGuard_MiniFaceFinder", image=image, which="largest")
        inputs = {**graph[node]["inputs"], "latent": latent, "faces": faces}
        kept.append(latent_of(graph, add(graph, "FluxGuard_ProtectLatent", **inputs)))
    outcome = server.result(graph)
    first, second, together = (latents(server, outcome, save) for save in kept)
    assert torch.equal(together, torch.cat([first, second]))


def test_an_empty_mask_leaves_its_picture_and_no_other_as_it_is(server: Server) -> None:
    graph, node = protecting(steps=4)
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    other = add(graph, "FluxGuard_MiniPortrait", seed=OTHER, count=1, size=128)
    images = add(graph, "ImageBatch", image1=portrait, image2=other)
    latent = add(graph, "VAEEncode", pixels=images, vae=graph[node]["inputs"]["vae"])
    white, black = (
        add(graph, "SolidMask", value=value, width=128, height=128) for value in (1.0, 0.0)
    )
    white, black = (add(graph, "MaskToImage", mask=mask) for mask in (white, black))
    masks = add(graph, "ImageBatch", image1=white, image2=black)
    faces = add(graph, "FluxGuard_MiniFaceFinder", image=images, which="largest")
    graph[node]["inputs"] |= {
        "latent": latent,
        "faces": faces,
        "mask": add(graph, "ImageToMask", image=masks, channel="red"),
    }
    del graph[find(graph, "FluxGuard_PrivacyReport")], graph[find(graph, "SaveImage", "Protected")]
    del graph[find(graph, "FluxGuard_KeepPhotoPixels")]
    saves = latent_of(graph, latent), latent_of(graph, [node, 0])
    told = add(graph, "PreviewAny", source=[node, 2])[0]
    outcome = server.result(graph)
    plain, protected = (latents(server, outcome, save) for save in saves)
    assert torch.equal(protected[1], plain[1]) and not torch.equal(protected[0], plain[0])
    assert "picture 1" in outcome.outputs[told]["text"][0]


@pytest.mark.parametrize("bounded", [True, False])
def test_photo_pixels_are_kept(server: Server, bounded: bool) -> None:
    """What the result left alone is the photo to the bit of a PNG, also what the autoencoder loses."""
    graph, _ = protecting(steps=4)
    node = find(graph, "FluxGuard_KeepPhotoPixels")
    if not bounded:
        del graph[node]["inputs"]["region"]
    inputs = graph[node]["inputs"]
    unchanged = add(graph, "FluxGuard_KeepPhotoPixels", **{**inputs, "result": inputs["source"]})
    decoded = add(graph, "VAEDecode", samples=inputs["result"], vae=inputs["vae"])
    saves = [
        add(graph, "SaveImage", images=image, filename_prefix="fluxguard/kept")[0]
        for image in (unchanged, [node, 0], decoded)
    ]
    outcome = server.result(graph)
    same, kept, plain = (pictures(server, outcome, save) for save in saves)
    photo = original(graph)
    assert float((same - photo).abs().max()) < 1.01 / 255
    corner = (..., slice(0, 8), slice(0, 8))
    assert (
        float((kept - photo)[corner].abs().max()) < 1.01 / 255 < float((plain - photo).abs().max())
    )
    assert float((kept - photo).abs().max()) > 0.02
    assert_less_similar(graph, kept)


def test_a_photo_of_another_size_has_no_detail_to_keep(server: Server) -> None:
    graph, _ = protecting(steps=1)
    other = add(graph, "FluxGuard_MiniPortrait", seed=OTHER, count=1, size=256)
    graph[find(graph, "FluxGuard_KeepPhotoPixels")]["inputs"]["photo"] = other
    message = server.fails(graph)
    assert "256 x 256" in message and "the input photo" in message


def test_result_nodes_show_what_they_found(server: Server) -> None:
    """The chosen face, the region and the verdict stand on the nodes themselves."""
    graph = graph_of("edit-and-protect")
    graph[find(graph, "FluxGuard_MiniPortrait")]["inputs"]["seed"] = 361  # nothing is cached
    refiner = find(graph, "FluxGuard_LatentRefiner")
    changed(graph, refiner, attacked_intervals=1, steps=1)
    outcome = server.result(graph)
    for kind in ("MiniFaceFinder", "TextToMask", "LatentRefiner", "PrivacyReport"):
        shown = outcome.outputs[find(graph, f"FluxGuard_{kind}")]
        assert server.output_file(shown["images"][0]).stat().st_size > 1000, kind
    assert "Preset default" in outcome.outputs[refiner]["text"][0]
    verdict = outcome.outputs[find(graph, "FluxGuard_PrivacyReport")]["text"][0]
    assert "recogniser" in verdict or "measured" in verdict

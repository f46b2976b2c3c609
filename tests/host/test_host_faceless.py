"""Pictures without a face in a batch, grey pictures, pictures with alpha: what comes out of the graphs."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from fluxguard_core.pictures.files import Picture, luma, read_picture, write_png

from .graphs import relative_error
from .miniature import find, graph_of, pictures, similarities
from .server import Graph, Outcome, Server
from .test_host_inputs import ATTACKED, add, identity, masked, portraits, protecting, region, told


def between(graph: Graph) -> None:
    """Put a picture of a wall between the graph's first two portraits."""
    portrait = find(graph, "FluxGuard_MiniPortrait")
    users = [entry["inputs"] for entry in graph.values()]
    wall = add(graph, "EmptyImage", width=128, height=128, batch_size=1, color=0x8090A0)
    other = add(graph, "FluxGuard_MiniPortrait", seed=352, count=1, size=128)
    first = add(graph, "ImageBatch", image1=[portrait, 0], image2=wall)
    batch = add(graph, "ImageBatch", image1=first, image2=other)
    for inputs in users:
        for name, value in inputs.items():
            inputs[name] = batch if value == [portrait, 0] else value


def latents(server: Server, outcome: Outcome, node: str) -> Tensor:
    (entry,) = outcome.outputs[node]["latents"]
    return load_file(server.output_file(entry))["latent_tensor"]


def binary_with(connection: Any, text: str) -> bytes:
    """The binary message that carries a text; the connection's time limit ends the wait."""
    while True:
        message = connection.recv()
        if isinstance(message, bytes) and text.encode() in message:
            return message


def keep(graph: Graph, samples: list[Any]) -> str:
    return add(graph, "SaveLatent", samples=samples, filename_prefix="latents/faceless")[0]


def test_a_picture_without_a_face_passes_through(server: Server, socket: Any) -> None:
    """Bit for bit, and nobody can take it for protected; its neighbours are protected."""
    graph, node = protecting()
    between(graph)
    before, after = keep(graph, [find(graph, "VAEEncode"), 0]), keep(graph, [node, 0])
    shown, saved = told(graph, node), region(graph, node)
    report = find(graph, "FluxGuard_PrivacyReport")
    texts = [add(graph, "PreviewAny", source=[report, output])[0] for output in (1, 2)]
    prompt = server.queue(graph)
    outcome = server.wait(prompt)
    assert outcome.error is None, outcome.error
    was, now = (latents(server, outcome, name) for name in (before, after))
    assert torch.equal(was[1], now[1])
    assert not torch.equal(was[0], now[0]) and not torch.equal(was[2], now[2])
    acted = pictures(server, outcome, saved)
    assert [float(mask.max()) for mask in acted] == [1, 0, 1]
    people = portraits([349, 352])[0]
    protected = pictures(server, outcome, find(graph, "SaveImage", "Protected"))[[0, 2]]
    found = similarities(people, protected)
    assert all(max(found[name]) < 0.7 for name in ATTACKED), found
    first = outcome.outputs[shown]["text"][0].splitlines()[0]
    assert first.startswith("NOT PROTECTED: picture 1 of the batch") and "No face" in first
    assert first in server.log.read_text()
    assert node.encode() in binary_with(socket, first)  # on the node, in the browser
    summary, numbers = (outcome.outputs[text]["text"][0] for text in texts)
    values = json.loads(numbers)
    assert [len(value["recognisers"]) > 0 for value in values] == [True, False, True]
    assert values[1]["verdict"]["headline"] == "Nothing was measured."
    assert "no face was found in the original. Take it for unprotected." in summary


def test_an_edit_of_a_picture_without_a_face(server: Server) -> None:
    """Words find nothing there, so the picture stays as it is, and the others are edited and protected."""
    graph = graph_of("edit-and-protect")
    between(graph)
    node = find(graph, "FluxGuard_LatentRefiner")
    before = keep(graph, [find(graph, "VAEEncode"), 0])
    del graph[find(graph, "FluxGuard_PrivacyReport")]
    protected, edited = (keep(graph, [node, output]) for output in (0, 1))
    shown, saved = told(graph, node), region(graph, node)
    outcome = server.result(graph)
    one, two = (latents(server, outcome, name) for name in (protected, edited))
    assert [torch.equal(a, b) for a, b in zip(one, two, strict=True)] == [False, True, False]
    source = latents(server, outcome, before)
    moved = [relative_error(a, b) for a, b in zip(two, source, strict=True)]
    assert moved[1] < 1e-3 < 1e-2 < min(moved[0], moved[2]), moved
    assert "The mask of picture 1 of the batch" in server.log.read_text()
    assert "NOT PROTECTED: picture 1" in outcome.outputs[shown]["text"][0]
    assert [float(mask.max()) for mask in pictures(server, outcome, saved)] == [1, 0, 1]


def test_nothing_but_faceless_pictures(server: Server) -> None:
    """An unprotected result under a protected one's name would be worse than a stop."""
    graph, _ = protecting()
    wall = add(graph, "EmptyImage", width=128, height=128, batch_size=2, color=0x8090A0)
    graph[find(graph, "VAEEncode")]["inputs"]["pixels"] = wall
    graph[find(graph, "FluxGuard_MiniFaceFinder")]["inputs"]["image"] = wall
    graph[find(graph, "FluxGuard_KeepPhotoPixels")]["inputs"]["photo"] = wall
    del graph[find(graph, "FluxGuard_PrivacyReport")]
    assert "No face was found in any picture" in server.fails(graph)
    graph[wall[0]]["inputs"]["batch_size"] = 1
    assert "No face was found in the picture" in server.fails(graph)


def greyed(graph: Graph, image: list[Any]) -> list[Any]:
    """A grey picture by the host's own nodes, as the help page says."""
    mask = add(graph, "ImageToMask", image=image, channel="green")
    return add(graph, "MaskToImage", mask=mask)


def test_grey_stays_grey_and_alpha_is_kept(server: Server) -> None:
    """As the help page says, with the host's own nodes; and every node of ours takes four channels."""
    portrait = luma(portraits([349])[0])
    alpha = torch.linspace(0.25, 1, 128).expand(1, 1, 128, 128)
    photo = Picture(portrait.expand(-1, 3, -1, -1), alpha, grey=True)
    before = read_picture(write_png(server.base / "input" / "grey.png", photo))
    assert before.grey and before.alpha is not None
    graph, _ = protecting()
    loaded = add(graph, "LoadImage", image="grey.png")
    transparent = add(graph, "JoinImageWithAlpha", image=loaded, alpha=[loaded[0], 1])
    composite = [find(graph, "FluxGuard_KeepPhotoPixels"), 0]
    out = add(graph, "JoinImageWithAlpha", image=greyed(graph, composite), alpha=[loaded[0], 1])
    places = (("VAEEncode", "pixels"), ("KeepPhotoPixels", "photo"), ("MiniFaceFinder", "image"))
    for name, image in places:
        node = find(graph, name if name == "VAEEncode" else f"FluxGuard_{name}")
        graph[node]["inputs"][image] = transparent
    report = graph[find(graph, "FluxGuard_PrivacyReport")]["inputs"]
    report.update(original=transparent, edited=transparent, protected=out, second_photo=transparent)
    mask, _ = masked(graph, image=transparent)
    numbers = add(graph, "PreviewAny", source=[find(graph, "FluxGuard_PrivacyReport"), 2])[0]
    other = add(graph, "FluxGuard_MiniPortrait", seed=352, count=1, size=128)
    photos = add(graph, "JoinImageWithAlpha", image=other, alpha=[loaded[0], 1])
    seen = add(graph, "FluxGuard_MiniFaceFinder", image=photos, which="largest")
    cut = {"kind.photos": photos, "kind.cut": "around the face", "kind.faces": seen}
    identity(graph, kind="photo", **cut)
    save = graph[find(graph, "SaveImage", "Protected")]["inputs"]
    save["images"] = out
    outcome = server.result(graph)
    (entry,) = outcome.outputs[find(graph, "SaveImage", "Protected")]["images"]
    after = read_picture(server.output_file(entry))
    assert after.alpha is not None  # the host rounds down when it saves
    assert float((after.alpha - before.alpha).abs().max()) < 1.01 / 255
    assert float((after.rgb - after.rgb[:, :1]).abs().max()) == 0
    assert float((after.rgb - before.rgb)[..., :8, :].abs().max()) < 1.01 / 255
    found = similarities(before.rgb, after.rgb)
    assert all(max(found[name]) < 0.7 for name in ATTACKED), found
    entries = json.loads(outcome.outputs[numbers]["text"][0])["recognisers"]
    assert all(entry["second_edited"] > 0.95 for entry in entries)
    assert all(entry["protected"] < 0.7 for entry in entries if entry["attacked"])
    lips = pictures(server, outcome, mask)
    assert 0 < float(lips.mean()) < 0.1

"""Nodes keep networks of drawn portraits off photos, and those of photos off drawn portraits."""

from __future__ import annotations

import torch

from fluxguard_core.pictures.files import write_png

from ..core.public_files import public_file
from .miniature import find
from .server import Graph, Server
from .test_host_inputs import add, picked, protecting, typed


def on_a_photo(server: Server) -> tuple[Graph, str]:
    """The graph that protects a miniature portrait, with a picture in its place that nothing has drawn."""
    noise = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    write_png(server.base / "input" / "photo.png", noise)
    graph, node = protecting(attacked_intervals=1, steps=1)
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    photo = add(graph, "LoadImage", image="photo.png")
    for entry in graph.values():
        for name, value in entry["inputs"].items():
            if value == portrait:
                entry["inputs"][name] = photo
    picked(graph, photo, bboxes=typed(graph, 24, 30, 66, 84))
    return graph, node


def test_the_miniature_refuses_a_photo(server: Server) -> None:
    graph, node = on_a_photo(server)
    report = find(graph, "FluxGuard_PrivacyReport")
    message = server.fails(graph)
    assert "drawn portrait" in message and "Nothing was done" in message
    assert "FR Ensemble Loader" in message and "models download auraface" in message
    # The report alone, on pictures that nobody protected.
    photo = graph[report]["inputs"]["original"]
    graph[report]["inputs"] |= {"edited": photo, "protected": photo}
    for name in [name for name, entry in graph.items() if entry["class_type"] == "SaveImage"]:
        del graph[name]
    del graph[node]
    message = server.fails(graph)
    assert "mini-vit know only" in message and "the VAE" not in message


def test_recognisers_of_photos_refuse_a_drawing(server: Server) -> None:
    folder = server.base / "models" / "fluxguard" / "recognisers"
    folder.mkdir(parents=True, exist_ok=True)
    file = public_file(folder / "world.pth", "mobile_face")
    graph, _ = protecting(attacked_intervals=1, steps=1)
    loader = graph[find(graph, "FluxGuard_MiniRecognisers")]
    loader["class_type"] = "FluxGuard_FREnsembleLoader"
    names = {"attacked": {"__value__": [file.name]}, "held_out": {"__value__": []}}
    loader["inputs"] |= {**names, "colour": "published"}
    message = server.fails(graph)
    assert "world.pth knows only photos" in message and "Miniature Recognisers" in message

"""Files wherever the host looks for models: extra_model_paths.yaml, folders in folders, any letter case, links."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fluxguard_core.mini.world import weights_folder

from .conftest import prepare
from .graphs import GoldenGraph, saved_trajectory
from .miniature import find, graph_of
from .server import Server, running


@pytest.fixture(scope="module")
def server(
    installation: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with a second drive of models, named in the way of its extra_model_paths.yaml."""
    base = tmp_path_factory.mktemp("folders")
    prepare(base)
    drive, other, here = base / "drive", base / "other drive", base / "models" / "fluxguard"
    file = weights_folder() / "faces" / "fluxguard-mini-vit.safetensors"
    for path in (
        drive / "people" / "drive.safetensors",
        drive / "people" / "deep" / "er" / "inner.safetensors",
        other / "recognisers" / "other.safetensors",
        here / "recognisers" / "sub" / "near.safetensors",
        here / "recognisers" / "LOUD.SAFETENSORS",
        here / "recognisers" / "._LOUD.SAFETENSORS",
        here / "recognisers" / "notes.txt",
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, path)
    (here / "recognisers" / "linked.safetensors").symlink_to(drive / "people/drive.safetensors")
    (here / "recognisers" / "nowhere.safetensors").symlink_to(drive / "nowhere.safetensors")
    (other / "detection").mkdir()
    torch.save({"conv": torch.zeros(16, 3, 3, 3)}, other / "detection" / "yunet_final.pth")
    (drive / "kept" / "old").mkdir(parents=True)
    text = f"""
drive:
    base_path: {drive}
    fluxguard/recognisers: people/
    fluxguard/trajectories: kept/
other:
    fluxguard: {other}/
"""
    (base / "extra.yaml").write_text(text)
    options = ("--extra-model-paths-config", str(base / "extra.yaml"))
    with running(*installation, base, *options) as server:
        yield server


def offered(server: Server, node: str, name: str) -> list[str]:
    schema = server.get(f"/object_info/{node}")[node]
    return list(schema["input"]["required"][name][1]["options"])


def test_recognisers_of_every_folder_are_listed_and_load(server: Server) -> None:
    listed = offered(server, "FluxGuard_FREnsembleLoader", "attacked")
    own = [name for name in listed if Path(name).suffix]
    assert own == [
        "LOUD.SAFETENSORS",
        "deep/er/inner.safetensors",
        "drive.safetensors",
        "linked.safetensors",
        "other.safetensors",
        "sub/near.safetensors",
    ]
    graph = graph_of("protect-existing")
    loader = graph[find(graph, "FluxGuard_MiniRecognisers")]
    loader["class_type"] = "FluxGuard_FREnsembleLoader"
    loader["inputs"] |= {"held_out": {"__value__": []}, "colour": "published"}
    graph = {"ensemble": loader}
    graph["told"] = {"class_type": "PreviewAny", "inputs": {"source": ["ensemble", 0]}}
    for name in own:
        loader["inputs"]["attacked"] = {"__value__": [name]}
        server.result(graph)


def test_our_other_files_are_found_in_every_folder(server: Server) -> None:
    graph = graph_of("protect-existing")
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    picker = {"image": portrait, "which": "largest"}
    graph["picker"] = {"class_type": "FluxGuard_FacePicker", "inputs": picker}
    graph[find(graph, "FluxGuard_ProtectLatent")]["inputs"]["faces"] = ["picker", 0]
    message = server.fails(graph)
    assert "not YuNet's weight file" in message and "other drive" in message


def test_trajectories_of_every_folder_are_listed_and_load(server: Server) -> None:
    graph = GoldenGraph()
    graph.add("FluxGuard_SaveTrajectory", trajectory=graph.trajectory, filename_prefix="one")
    server.result(graph.graph)
    saved = saved_trajectory(server, "one")
    for place in (
        "drive/kept/old/Mine.Trajectory.SafeTensors",
        "input/deep/a.TRAJECTORY.safetensors",
    ):
        (server.base / place).parent.mkdir(exist_ok=True)
        shutil.copy(saved, server.base / place)
    names = {
        "old/Mine.Trajectory.SafeTensors [models]",
        "deep/a.TRAJECTORY.safetensors [input]",
        f"{saved.name} [output]",
    }
    assert set(offered(server, "FluxGuard_LoadTrajectory", "file")) == names
    for name in names:
        graph = GoldenGraph()
        graph.inversion = graph.add("FluxGuard_LoadTrajectory", file=name)
        graph.sample(graph.fuse(graph.model))
        server.result(graph.graph)

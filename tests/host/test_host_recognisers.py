"""Recogniser files of the public layouts at their real sizes, random weights, in a real server.

Random weights recognise nobody; what is shown is that the files in the model folder are understood, loaded and
given back by the host's own memory management, attacked with gradients or left alone, and named in the report.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxguard_core.pictures.files import write_png
from fluxguard_core.recognition.input import InputNote, write_note
from fluxguard_core.weights import load_manifest

from ..core.public_files import public_file
from .miniature import find, graph_of, original, pictures
from .server import PACK, Graph, Server, running

CLASSES = {"a.pth": "IRBackbone", "b.pt": "InceptionResnetV1", "c.pth": "MobileFaceNet"}


@pytest.fixture(scope="module")
def server(
    installation: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server with three checkpoints, whose names say nothing, in the pack's model folder."""
    base = tmp_path_factory.mktemp("recognisers")
    folder = base / "models" / "fluxguard" / "recognisers"
    folder.mkdir(parents=True)
    (base / "custom_nodes").mkdir()
    shutil.copy(Path(__file__).with_name("recogniser_probe.py"), base / "custom_nodes")
    public_file(folder / "a.pth", "irse50", wrapped=True)
    public_file(folder / "b.pt", "facenet")
    public_file(folder / "c.pth", "mobile_face")
    for name in CLASSES:
        knows_drawings(folder / name)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(base / "cache"))
        with running(*installation, base) as server:
            yield server


def knows_drawings(file: Path) -> None:
    """Let a recogniser with random weights judge the miniature's portraits."""
    write_note(file, InputNote(world="drawn"))


def chosen(name: str, attacked: list[str], held_out: list[str], report: bool = False) -> Graph:
    """A miniature workflow with these recognisers, one short interval, and the probe at the end."""
    graph = graph_of(name)
    loader = graph[find(graph, "FluxGuard_MiniRecognisers")]
    loader["class_type"] = "FluxGuard_FREnsembleLoader"
    loader["inputs"] |= {"attacked": {"__value__": attacked}, "held_out": {"__value__": held_out}}
    loader["inputs"]["colour"] = "published"
    options = graph[find(graph, "FluxGuard_ProtectionOptions")]["inputs"]
    options |= {"preset.attacked_intervals": 1, "preset.steps": 2, "preset.random_views": 1}
    judge = find(graph, "FluxGuard_PrivacyReport")
    if not report:
        del graph[judge]
    last = [judge, 2] if report else [find(graph, "FluxGuard_" + refiner_of(graph)), 0]
    graph["probe"] = {"class_type": "Probe_Recognisers", "inputs": {"after": last}}
    if report:
        graph["told"] = {"class_type": "PreviewAny", "inputs": {"source": last}}
    return graph


def refiner_of(graph: Graph) -> str:
    kinds = {entry["class_type"] for entry in graph.values()}
    return "ProtectLatent" if "FluxGuard_ProtectLatent" in kinds else "LatentRefiner"


def told(server: Server, graph: Graph, node: str = "probe") -> Any:
    return json.loads(server.result(graph, 400).outputs[node]["text"][0])


def ask(server: Server) -> Any:
    """What has happened since the last question."""
    return told(server, {"probe": {"class_type": "Probe_Recognisers", "inputs": {}}})


def test_attacked_files_get_gradients_through_the_hosts_memory(server: Server) -> None:
    graph = chosen("protect-existing", ["a.pth", "b.pt"], ["c.pth"])
    outcome = server.result(graph, 400)
    seen = json.loads(outcome.outputs["probe"]["text"][0])
    attacked = {"IRBackbone", "InceptionResnetV1"}
    # one request holds the decoder and all that is attacked; nobody asks for a held-out one
    assert any(attacked < set(request) for request in seen["requests"])
    assert not any("MobileFaceNet" in request for request in seen["requests"])
    assert attacked <= set(seen["held"])
    assert set(seen["runs"]) == set(seen["gradients"]) == attacked
    assert all(min(norms) > 0 for norms in seen["gradients"].values())
    moved = (pictures(server, outcome, find(graph, "SaveImage")) - original(graph)).abs()
    assert float(moved.max()) > 0.02
    assert float(moved[..., :8, :8].max()) < 1 / 255


def test_the_report_loads_every_recogniser_and_lists_it(server: Server) -> None:
    graph = chosen("protect-existing", ["b.pt"], ["c.pth"], report=True)
    outcome = server.result(graph, 400)
    seen = json.loads(outcome.outputs["probe"]["text"][0])
    assert ["InceptionResnetV1", "MobileFaceNet"] in seen["requests"]
    assert {"InceptionResnetV1", "MobileFaceNet"} <= set(seen["held"])
    assert set(seen["gradients"]) == {"InceptionResnetV1"}
    entries = json.loads(outcome.outputs["told"]["text"][0])["recognisers"]
    listed = {entry["name"]: (entry["role"], entry["threshold"]) for entry in entries}
    assert listed == {
        "b.pt": ("attacked", 0.409131),
        "c.pth": ("held out", 0.301611),
    }
    assert all("Adv-Makeup" in entry["source"] for entry in entries)
    server.post("/free", {"unload_models": True, "free_memory": True})
    end = time.monotonic() + 30
    while (held := ask(server)["held"]) and time.monotonic() < end:
        time.sleep(0.5)
    assert held == []


def test_the_refiner_and_the_model_are_loaded_by_turns(server: Server) -> None:
    ask(server)
    seen = told(server, chosen("edit-and-protect", ["c.pth"], ["a.pth"]))
    with_model = [request for request in seen["requests"] if "Flux" in request]
    assert with_model and not any("MobileFaceNet" in request for request in with_model)
    assert any("MobileFaceNet" in request for request in seen["requests"])
    assert (
        set(seen["gradients"]) == {"MobileFaceNet"} and min(seen["gradients"]["MobileFaceNet"]) > 0
    )


@pytest.mark.parametrize(
    ("which", "left", "right"),
    [("number", True, False), ("largest", False, True), ("all", True, True)],
)
def test_one_face_or_the_largest_or_all(
    server: Server, which: str, left: bool, right: bool
) -> None:
    """Two portraits side by side: whose face is protected, and whom the report speaks of."""
    graph = chosen("protect-existing", ["c.pth"], [], report=True)
    portrait = [find(graph, "FluxGuard_MiniPortrait"), 0]
    stitch = {"image1": portrait, "image2": portrait, "direction": "right"}
    stitch |= {"match_image_size": True, "spacing_width": 0, "spacing_color": "white"}
    graph["both"] = {"class_type": "ImageStitch", "inputs": stitch}
    graph["boxes"] = {"class_type": "Probe_TwoFaces", "inputs": {}}
    for name, entry in graph.items():
        if name != "both":
            for key, value in entry["inputs"].items():
                entry["inputs"][key] = ["both", 0] if value == portrait else value
        if "faces" in entry["inputs"]:
            entry["inputs"]["faces"] = ["picker", 0]
    picker = {"image": ["both", 0], "bboxes": ["boxes", 0], "which": which}
    picker |= {"which.number": 0} if which == "number" else {}
    graph["picker"] = {"class_type": "FluxGuard_FacePicker", "inputs": picker}
    refiner = find(graph, "FluxGuard_ProtectLatent")
    graph["region"] = {"class_type": "MaskToImage", "inputs": {"mask": [refiner, 1]}}
    save = {"images": ["region", 0], "filename_prefix": "region"}
    graph["saved"] = {"class_type": "SaveImage", "inputs": save}
    outcome = server.result(graph, 400)
    acted = pictures(server, outcome, "saved")
    assert acted.shape[-1] == 256
    assert (float(acted[..., 64, 56].max()) > 0.5, float(acted[..., 64, 184].max()) > 0.5) == (
        left,
        right,
    )
    entries = json.loads(outcome.outputs["told"]["text"][0])["recognisers"]
    expected = ["c.pth, face 0", "c.pth, face 1"] if which == "all" else ["c.pth"]
    assert [entry["name"] for entry in entries] == expected


def test_known_files_in_the_common_folder_are_found_by_id(server: Server) -> None:
    """Files that have another folder of their own; the list hides only what it offers by its id."""
    entries = {entry.id: entry for entry in load_manifest().entries}
    known, foreign = entries["facexlib-irse50"], entries["auraface"]
    folder = server.base / "models" / "fluxguard" / "recognisers"
    with (folder / known.file).open("wb") as stream:
        stream.truncate(known.size or 0)
    (folder / foreign.file).write_bytes(b"another model of this name")
    schema = server.get("/object_info/FluxGuard_FREnsembleLoader")["FluxGuard_FREnsembleLoader"]
    listed = schema["input"]["required"]["attacked"][1]["options"]
    assert known.id in listed and known.file not in listed
    assert foreign.id in listed and foreign.file in listed and "a.pth" in listed
    message = server.fails(chosen("protect-existing", [known.id], []))
    assert "was not found" not in message and str(folder / known.file) in message
    message = server.fails(chosen("protect-existing", [foreign.id], []))
    assert "26 bytes instead of" in message and "auraface" in message


def test_an_onnx_file_is_calibrated_while_the_server_runs(server: Server, tmp_path: Path) -> None:
    """The server has no onnx package: the command line converts the file, the node takes the copy."""
    python = python_with_onnx()
    if python is None:
        pytest.skip("needs an environment with onnx")
    file = server.base / "models" / "fluxguard" / "recognisers" / "d.onnx"
    code = "import sys; from pathlib import Path; from tests.core.test_recognition_onnx import iresnet; "
    code += "iresnet(Path(sys.argv[1]), dimension=64)"
    run([python, "-c", code, str(file)], server)
    graph = chosen("protect-existing", ["d.onnx"], ["c.pth"], report=True)
    assert f"`{sys.executable} -m pip install onnx`" in server.fails(graph)
    for index in range(46):
        write_png(tmp_path / f"{index}.png", torch.rand(1, 3, 16, 16))
    command = ["-m", "fluxguard_core", "calibrate", str(file), "--faces", str(tmp_path)]
    run([python, *command, "--detector", "frame"], server)
    kept = file.with_name("d.onnx.thresholds.json")
    knows_drawings(file)
    aside = kept.rename(tmp_path / kept.name)
    typed = f"`{sys.executable} {PACK / 'fluxguard_core'} calibrate FILE --faces DIR`"
    assert typed in server.fails(graph)
    aside.rename(kept)
    outcome = server.result(graph, 400)
    entries = json.loads(outcome.outputs["told"]["text"][0])["recognisers"]
    assert "own calibration: 46 pictures" in entries[0]["source"]
    seen = json.loads(outcome.outputs["probe"]["text"][0])
    assert set(seen["gradients"]) == {"GraphNetwork"} and "GraphNetwork" in seen["held"]
    # another calibration makes another ensemble, at once
    document = json.loads(kept.read_text())
    document["thresholds"][0]["value"] = 0.123
    kept.write_text(json.dumps(document))
    again = json.loads(server.result(graph, 400).outputs["told"]["text"][0])["recognisers"]
    assert again[0]["threshold"] == 0.123


def python_with_onnx() -> str | None:
    for python in (sys.executable, str(PACK / ".venv" / "bin" / "python")):
        if Path(python).is_file():
            found = subprocess.run(
                [python, "-c", "import onnx, pytest"], capture_output=True, check=False
            )
            if found.returncode == 0:
                return python
    return None


def run(command: list[str], server: Server) -> None:
    environment = {"XDG_CACHE_HOME": str(server.base / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=PACK, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]

"""The manifest: what ships is sound, what is malformed is refused by name."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import pytest

from fluxguard_core.cli import models as commands
from fluxguard_core.weights import (
    ManifestError,
    ModelFileError,
    find,
    load_manifest,
    require,
    search_roots,
    where,
)
from fluxguard_core.weights.manifest import Entry, safe_name, safe_relative
from fluxguard_core.weights.where import candidates, download_target
from training.mini import update_manifest as update_mini


def row(**changes: Any) -> dict[str, Any]:
    return {
        "id": "w",
        "role": "recogniser",
        "file": "w.safetensors",
        "folder": "fluxguard/recognisers",
        "url": "https://example.org/w.safetensors",
        "size": 5,
        "sha256": "0" * 64,
        "licence": "MIT",
        "licence_url": None,
        "commercial_use": True,
        "consent": False,
        "used_by": ["tests"],
        **changes,
    }


def write(folder: Path, *rows: Any) -> Path:
    path = folder / "m.json"
    path.write_text(json.dumps({"version": 1, "files": list(rows)}), encoding="utf-8")
    return path


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    commands.register(parser.add_subparsers())
    args = parser.parse_args(["models", *arguments])
    return int(args.run(args))


def test_the_shipped_manifest_covers_every_kind_of_file() -> None:
    manifest = load_manifest()
    roles = {entry.role for entry in manifest.entries}
    assert {"transformer", "autoencoder", "text-encoder", "recogniser", "perceptual"} <= roles
    for name in ("flux1-dev", "auraface", "sface", "w600k-r50", "glintr100", "vgg19", "clipseg"):
        assert manifest[name].source == "download"
    for name in ("ir152", "irse50", "facenet", "mobile-face"):
        assert manifest[name].source == "bring" and manifest[name].consent
    assert manifest["fluxguard-mini-flux"].source == "package"
    for entry in manifest.entries:
        assert entry.commercial_use is not False or entry.consent, entry.id
        assert entry.url is None or entry.url.startswith("https://"), entry.id


def test_the_manifest_matches_the_weights_in_the_package() -> None:
    assert update_mini.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("file", "../w.safetensors", "plain file name"),
        ("file", "a/b.safetensors", "plain file name"),
        ("file", "C:w.safetensors", "plain file name"),
        ("file", "a\\b.safetensors", "plain file name"),
        ("file", ".w.safetensors", "plain file name"),
        ("file", "nul.safetensors", "plain file name"),
        ("file", "w.pkl", "does not end with"),
        ("folder", "/etc", "leaves the models folder"),
        ("folder", "a/../../b", "leaves the models folder"),
        ("folder", "a//b", "leaves the models folder"),
        ("url", "http://example.org/w", "https address"),
        ("url", "file:///etc/passwd", "https address"),
        ("url", "https://anna:secret@example.org/w", "https address"),
        ("url", "https://example.org/w\r\nX: y", "https address"),
        ("sha256", "ABC", "64 lower-case"),
        ("size", 0, "bytes > 0"),
        ("size", True, "bytes > 0"),
        ("size", "5", "bytes > 0"),
        ("commercial_use", "no", "true, false or null"),
        ("commercial_use", False, "needs consent"),
        ("used_by", ["nobody"], "used_by"),
        ("used_by", "tests", "a list of strings"),
        ("role", "toy", "is not one of"),
        ("id", "W w", "plain name"),
        ("licence", " ", "licence is empty"),
        ("needs", ["x"], "needs 'x'"),
        ("package_path", "../w.safetensors", "leaves the package"),
        ("colour", "red", "unknown fields"),
    ],
)
def test_malformed_entries_are_refused(
    tmp_path: Path, field: str, value: Any, problem: str
) -> None:
    with pytest.raises(ManifestError, match=problem):
        load_manifest(write(tmp_path, row(**{field: value})))


def test_malformed_documents_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(ManifestError, match="no manifest at"):
        load_manifest(path)
    for text, problem in {"{": "readable JSON", "[]": "version", '{"version": 1}': "list"}.items():
        path.write_text(text)
        with pytest.raises(ManifestError, match=problem):
            load_manifest(path)
    with pytest.raises(ManifestError, match="missing fields"):
        load_manifest(write(tmp_path, {"id": "w"}))
    with pytest.raises(ManifestError, match="two entries"):
        load_manifest(write(tmp_path, row(), row()))
    with pytest.raises(ManifestError, match="Known: w"):
        load_manifest(write(tmp_path, row()))["v"]


def test_path_tricks_are_seen_on_every_system() -> None:
    for name in ("..", ".", "", "a/b", "a\\b", "a:b", "con", "COM1.txt", "a ", "a.", "-rf", "\x00"):
        assert not safe_name(name), name
    assert safe_name("vgg19-dcbb9e9d.pth") and safe_relative("insightface/models/buffalo_l")
    assert not safe_relative("") and not safe_relative("~/x") and not safe_relative("a/./b")


def test_files_are_found_in_order_of_preference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named, comfy, cache = tmp_path / "named", tmp_path / "comfy", tmp_path / "cache"
    monkeypatch.setenv("FLUXGUARD_MODELS", str(named))
    monkeypatch.setenv("COMFYUI_PATH", str(comfy))
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    roots = (named, comfy / "models", cache / "fluxguard" / "models")
    assert search_roots() == roots
    assert search_roots([tmp_path / "extra"])[1] == tmp_path / "extra"
    entry = Entry(**{**row(folder="text_encoders"), "used_by": ("tests",)})
    assert find(entry) is None
    assert download_target(entry) == named / "text_encoders" / "w.safetensors"
    for folder in (roots[2] / "text_encoders", roots[1] / "clip", roots[0] / "text_encoders"):
        folder.mkdir(parents=True)
        (folder / "w.safetensors").write_bytes(b"x")
        assert find(entry) == folder / "w.safetensors"


def test_the_comfyui_around_the_pack_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(where, "PACKAGE_ROOT", tmp_path / "custom_nodes" / "fg" / "fluxguard_core")
    assert where.comfyui_models() is None
    (tmp_path / "models").mkdir()
    assert where.comfyui_models() == tmp_path / "models"


def test_only_what_is_asked_for_can_reach_the_network() -> None:
    """`fluxguard models download`, and `bench service`, which asks before each upload; nothing else."""
    package = Path(where.__file__).parents[1]
    network = re.compile(
        r"^\s*(import|from)\s+(urllib\.request|http\.client|requests|httpx|aiohttp|socket|"
        r"huggingface_hub|ftplib|torch\.hub)\b|\b(urlopen|urlretrieve|load_state_dict_from_url|"
        r"hf_hub_download|snapshot_download|hub\.load)\(",
        re.MULTILINE,
    )
    reaching = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if network.search(path.read_text(encoding="utf-8"))
    }
    downloads = {"weights/transfer.py", "weights/download.py"}
    assert reaching == downloads | {"pipelines/services/client.py"}


def test_a_missing_file_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUXGUARD_MODELS", str(tmp_path))
    manifest = load_manifest()
    with pytest.raises(ModelFileError, match="fluxguard models download auraface"):
        require(manifest["auraface"])
    with pytest.raises(ModelFileError, match=r"your own copy.*recognisers/ir152\.pth"):
        require(manifest["ir152"])
    half = candidates(manifest["auraface"])[0]
    half.parent.mkdir(parents=True)
    half.with_name(half.name + ".part").write_bytes(b"x")
    with pytest.raises(ModelFileError, match="half downloaded"):
        require(manifest["auraface"])


def test_any_recogniser_may_lie_in_the_common_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts send people there; two entries share the name glintr100.onnx and differ in size."""
    monkeypatch.setenv("FLUXGUARD_MODELS", str(tmp_path))
    manifest = load_manifest()
    aura, glint, common = manifest["auraface"], manifest["glintr100"], tmp_path / where.RECOGNISERS
    common.mkdir(parents=True)
    put = {e.id: common / e.file for e in manifest.entries if e.role == "recogniser" and e.url}
    assert len(put) >= 5
    for name, path in put.items():
        with path.open("wb") as stream:
            stream.truncate(manifest[name].size or 9)
        assert where.find(manifest[name]) == path == require(manifest[name])
        path.unlink()
    with put["auraface"].open("wb") as stream:
        stream.truncate(glint.size or 0)
    assert (where.find(aura), where.find(glint)) == (None, put["auraface"])
    with pytest.raises(ModelFileError, match=r"bytes instead of the 260,694,151 of auraface"):
        require(aura)
    own = tmp_path / aura.folder / aura.file
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")  # in an entry's own folder a wrong size is for the loader to explain
    assert where.find(aura) == own


def test_folders_outside_the_roots_are_known_by_their_names(tmp_path: Path) -> None:
    """As a host maps them: any place may stand for a folder; the roots come first, the size still decides."""
    manifest, drive, root = load_manifest(), tmp_path / "drive", tmp_path / "models"
    yunet, aura = manifest["yunet"], manifest["auraface"]
    named = {yunet.folder: [drive], where.RECOGNISERS: [drive]}
    drive.mkdir()
    for entry in (yunet, aura):
        (drive / entry.file).write_bytes(b"x")
    assert where.find(yunet, [root]) is None
    assert where.find(yunet, [root], named) == drive / yunet.file == require(yunet, [root], named)
    assert where.find(aura, [root], named) is None  # a file of its name and another size
    own = root / yunet.folder / yunet.file
    own.parent.mkdir(parents=True)
    own.write_bytes(b"x")
    assert where.find(yunet, [root], named) == own


def test_workflows_link_what_no_stock_loader_offers() -> None:
    """VGG19 and the chosen recognisers: their pages' addresses and the names they are looked for under."""
    manifest = load_manifest()
    folder = where.PACKAGE_ROOT.parent / "workflows"
    # These need no VGG19; the editor's file is the user's own.
    others = ("mini-", "attribute-privacy", "shield-")
    graphs = [path for path in folder.glob("*.json") if not path.name.startswith(others)]
    assert len(graphs) == 8
    for path in graphs:
        nodes = json.loads(path.read_text("utf-8"))["nodes"]
        (note,) = [n["widgets_values"][0] for n in nodes if "## Models" in str(n["widgets_values"])]
        loaders = [n for n in nodes if n["type"] == "FluxGuard_FREnsembleLoader"]
        lists = [names for loader in loaders for names in loader["widgets_values"][:2]]
        chosen = [name for names in lists for name in names]
        for entry in (manifest[name] for name in ("vgg19", *chosen)):
            assert f"[{entry.file}]({entry.url})" in note and entry.id in note, path.name


def test_list_status_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLUXGUARD_MODELS", str(tmp_path))
    assert run(["list"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("w600k-r50"))
    assert line.split()[1:5] == ["recogniser", "174.4", "MB", "no"]
    own = tmp_path / "ir152.pth"
    own.write_bytes(b"x")
    assert run(["status", "ir152", "auraface", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(f["state"], f["path"]) for f in facts] == [("here", str(own)), ("missing", None)]
    assert run(["where", "ir152"]) == 0
    assert f"* {own}" in capsys.readouterr().out
    assert run(["where"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == str(tmp_path)
    assert run(["verify"]) in (0, 1)


def test_maintenance_fills_adds_and_clears(tmp_path: Path) -> None:
    weights = tmp_path / "mini" / "weights"
    for relative in ("faces/a.safetensors", "loras/new.safetensors"):
        (weights / relative).parent.mkdir(parents=True)
        (weights / relative).write_bytes(b"abc")
    mine = {"url": None, "size": None, "sha256": None}
    path = tmp_path / "models_manifest.json"
    rows = [
        row(id="a", file="a.safetensors", package_path="mini/weights/faces/a.safetensors", **mine),
        row(id="gone", package_path="mini/weights/vae/w.safetensors", **{**mine, "size": 9}),
        row(id="far"),
    ]
    path.write_text(json.dumps({"version": 1, "files": rows}), encoding="utf-8")
    here = ["--manifest", str(path), "--package", str(tmp_path)]
    assert update_mini.main([*here, "--check"]) == 1
    assert update_mini.main(here) == 0
    manifest = load_manifest(path)
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (manifest["a"].size, manifest["a"].sha256) == (3, digest)
    assert (manifest["gone"].size, manifest["far"].size) == (None, 5)
    assert manifest["new"].role == "lora" and manifest["new"].sha256 == digest
    assert update_mini.main([*here, "--check"]) == 0

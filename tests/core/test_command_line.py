"""The commands in a plain copy of the pack, as git and managers make it, and what messages tell to type."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fluxguard_core.cli import command_line
from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.weights import load_manifest

PACK = Path(command_line.__file__).resolve().parents[2]


def run(command: list[str], folder: Path) -> str:
    # The ComfyUI that holds the copy is meant, not the one that this environment names.
    environment = {k: v for k, v in os.environ.items() if k != "COMFYUI_PATH"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("options", [[], ["-I"]], ids=["python", "isolated like the portable one"])
def test_a_copy_in_custom_nodes_runs_from_any_folder(tmp_path: Path, options: list[str]) -> None:
    comfyui = tmp_path / "Comfy UI"
    pack = comfyui / "custom_nodes" / "any name"
    (comfyui / "models").mkdir(parents=True)
    shutil.copytree(
        PACK / "fluxguard_core",
        pack / "fluxguard_core",
        ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"),
    )
    shutil.copy(PACK / "models_manifest.json", pack)
    package = str(pack / "fluxguard_core")
    told = run([sys.executable, *options, package, "models", "where", "auraface"], tmp_path)
    assert str(comfyui / "models" / "fluxguard" / "recognisers" / "glintr100.onnx") in told


def test_messages_name_a_command_that_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for installed in (True, False):
        monkeypatch.setattr(command_line, "installed", lambda answer=installed: answer)
        message = FluxGuardError("", load_manifest()["auraface"].remedy).told(command_line.TERMINAL)
        assert ("`fluxguard models download auraface`" in message) == installed
        assert "models download auraface`" in message
    typed = shlex.split(command_line.command("models list").strip("`"))
    assert "auraface" in run(typed, tmp_path)
    typed = shlex.split(command_line.pip_install("--version").replace(" install", "").strip("`"))
    assert run(typed, tmp_path).startswith("pip ")


def test_paths_with_spaces_are_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "C:\\Program Files\\python.exe")
    assert command_line.pip_install("onnx") == (
        '`"C:\\Program Files\\python.exe" -m pip install onnx`'
    )


def test_an_unknown_option_is_told_with_its_commands_own_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["shield", "training", "photos", "-o", "out", "--rounds", "1"])
    told = capsys.readouterr().err
    assert "[--epochs N]" in told
    assert told.endswith("fluxguard shield training: error: unrecognized arguments: --rounds 1\n")

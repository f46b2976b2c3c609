"""The wheel as a user gets it: manifest, weights and command line, installed apart from the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, cwd=folder)
    return next(folder.glob("fluxguard-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    target = wheel.parent / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        arguments, capture_output=True, text=True, cwd=installed.parent, env=environment, check=True
    )


def test_the_wheel_holds_manifest_and_every_weight_file(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "fluxguard_core/models_manifest.json" in names
    weights = (ROOT / "fluxguard_core" / "mini" / "weights").rglob("*.safetensors")
    assert {path.relative_to(ROOT).as_posix() for path in weights} <= names
    metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
    assert {name.split("/")[0] for name in names - metadata} == {"fluxguard_core"}


def test_every_module_of_the_wheel_does_without_the_training(installed: Path) -> None:
    told = run(
        installed,
        sys.executable,
        "-c",
        """
import importlib, pkgutil, sys
sys.modules["training"] = None
import fluxguard_core
for module in pkgutil.walk_packages(fluxguard_core.__path__, "fluxguard_core."):
    print(importlib.import_module(module.name).__file__)
""",
    ).stdout.splitlines()
    assert {Path(line).relative_to(installed) for line in told} == {
        path.relative_to(ROOT)
        for path in (ROOT / "fluxguard_core").rglob("*.py")
        if path != ROOT / "fluxguard_core" / "__init__.py"
    }


def test_the_published_pack_leaves_the_developers_tools_out() -> None:
    left_out = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    assert {"training/", "tests/", "scripts/"} <= set(left_out)


def test_the_command_line_runs_from_the_wheel(installed: Path) -> None:
    where = run(
        installed, sys.executable, "-c", "import fluxguard_core; print(fluxguard_core.__file__)"
    )
    assert Path(where.stdout.strip()).is_relative_to(installed)
    script = str(installed / "bin" / "fluxguard")
    counted = json.loads(run(installed, sys.executable, script, "bench", "cost", "--json").stdout)
    assert counted["evaluations"] == {"released": 150, "paper": 108, "fireflow": 56}
    listed = run(installed, sys.executable, script, "models", "list").stdout
    assert "flux1-dev" in listed and "fluxguard-mini-flux" in listed

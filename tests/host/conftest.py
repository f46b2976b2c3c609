"""Fixtures: one real server for the whole run; without a host everything here is skipped."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from .server import PACK, Server, host_path, host_python, running

GOLDEN = PACK / "tests" / "golden"

torch.set_num_threads(1)


def prepare(base: Path) -> None:
    """Golden network, its inputs and a test network of other width in a base directory."""
    (base / "models" / "diffusion_models").mkdir(parents=True)
    (base / "models" / "vae").mkdir()
    (base / "models" / "loras").mkdir()
    (base / "input").mkdir()
    shutil.copy(GOLDEN / "open_flux.safetensors", base / "models" / "diffusion_models")
    run = load_file(GOLDEN / "open_run.safetensors")
    height, width = run["latent"].shape[-2:]
    grid = run["mask_tokens"].view(-1, 1, height // 2, width // 2)
    run["mask"] = grid.repeat_interleave(2, 2).repeat_interleave(2, 3)
    save_file(
        {k: v.float().contiguous() for k, v in run.items()}, base / "input" / "run.safetensors"
    )


@pytest.fixture(scope="session")
def installation() -> tuple[Path, Path]:
    """ComfyUI's folder and a Python that can run it."""
    host, python = host_path(), host_python()
    if host is None:
        pytest.skip("no ComfyUI: set COMFYUI_PATH or clone it to ~/comfy/ComfyUI")
    if python is None:
        pytest.skip("no environment for ComfyUI: run scripts/setup_host_env.sh")
    return host, python


@pytest.fixture(scope="session")
def server(
    installation: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("comfy")
    prepare(base)
    with running(*installation, base) as server:
        yield server


@pytest.fixture
def socket(server: Server) -> Iterator[Any]:
    """The websocket on which the server tells progress and notices."""
    websocket = pytest.importorskip("websocket")
    address = server.url.replace("http", "ws") + f"/ws?clientId={server.client}"
    connection = websocket.create_connection(address, timeout=120)
    yield connection
    connection.close()


def older_host() -> Path | None:
    """The oldest supported ComfyUI, where it lies beside the other."""
    newest = host_path()
    older = None if newest is None else newest.with_name(f"{newest.name}-0.25")
    return older if older is not None and (older / "main.py").is_file() else None


@pytest.fixture(scope="session", params=["newest", "0.25"] if older_host() else ["newest"])
def any_server(
    request: pytest.FixtureRequest,
    installation: tuple[Path, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    """One server after the other, where the oldest supported host lies beside the newest."""
    if request.param == "newest":
        yield request.getfixturevalue("server")
        return
    older = older_host()
    assert older is not None
    base = tmp_path_factory.mktemp("comfy025")
    prepare(base)
    with running(older, installation[1], base) as server:
        yield server

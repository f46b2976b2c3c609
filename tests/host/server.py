"""A real ComfyUI, started by the tests with a base directory of its own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[2]
PROBES = Path(__file__).parent / "probe_pack"
Graph = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """One prompt's end: outputs by node id, messages of errors, ids of the nodes that ran."""

    outputs: dict[str, Any]
    error: str | None
    failed_node: str | None
    executed: list[str]
    cached: list[str]


class Rejected(Exception):
    """The server refused the prompt; the text is its whole answer."""


@dataclass
class Server:
    """A running ComfyUI on loopback."""

    url: str
    base: Path
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)
    client: str = field(default_factory=lambda: uuid.uuid4().hex)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}", timeout=60) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def post(self, path: str, content: Any = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}{path}",
            json.dumps(content or {}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                body = answer.read()
        except urllib.error.HTTPError as error:
            raise Rejected(error.read().decode()) from error
        return json.loads(body) if body else None

    def queue(self, graph: Graph) -> str:
        answer = self.post("/prompt", {"prompt": graph, "client_id": self.client})
        if answer["node_errors"]:  # the server would run what is left of the graph
            raise Rejected(json.dumps(answer["node_errors"], indent=1))
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, seconds: float = 600) -> Outcome:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            history = self.get(f"/history/{prompt_id}")
            if prompt_id in history and history[prompt_id]["status"].get("status_str"):
                return _outcome(history[prompt_id])
            if self.process.poll() is not None:
                raise RuntimeError(f"the server died:\n{self.log.read_text()[-3000:]}")
            time.sleep(0.05)
        raise TimeoutError(f"no result after {seconds} s:\n{self.log.read_text()[-2000:]}")

    def run(self, graph: Graph, seconds: float = 600) -> Outcome:
        """Queue a graph and wait for its end."""
        return self.wait(self.queue(graph), seconds)

    def result(self, graph: Graph, seconds: float = 600) -> Outcome:
        """As ``run``, but a failure is a failure of the test."""
        outcome = self.run(graph, seconds)
        assert outcome.error is None, f"{outcome.failed_node}: {outcome.error}"
        return outcome

    def fails(self, graph: Graph) -> str:
        """The message of a graph that has to fail."""
        outcome = self.run(graph)
        assert outcome.error is not None, "the graph ran through"
        return outcome.error

    def output_file(self, entry: dict[str, str]) -> Path:
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]


def _outcome(entry: dict[str, Any]) -> Outcome:
    error, failed, executed, cached = None, None, [], []
    for kind, data in entry["status"]["messages"]:
        if kind == "execution_error":
            error, failed = data["exception_message"], data["node_id"]
            executed = data["executed"]
        elif kind == "execution_interrupted":
            error, failed = "interrupted", data["node_id"]
        elif kind == "execution_cached":
            cached = data["nodes"]
    return Outcome(entry["outputs"], error, failed, executed, cached)


def host_path() -> Path | None:
    """Where ComfyUI lies, or None."""
    path = Path(os.environ.get("COMFYUI_PATH", Path.home() / "comfy" / "ComfyUI"))
    return path if (path / "main.py").is_file() else None


def host_python() -> Path | None:
    """The environment that can run it: the one running now, or .venv-host."""
    for python in (Path(sys.executable), PACK / ".venv-host" / "bin" / "python"):
        if python.is_file() and _has_comfy_requirements(python):
            return python
    return None


def _has_comfy_requirements(python: Path) -> bool:
    code = "import torchaudio, aiohttp, comfyui_frontend_package"
    found = subprocess.run([str(python), "-c", code], capture_output=True, check=False)
    return found.returncode == 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(host: Path, python: Path, base: Path, *options: str) -> Iterator[Server]:
    """Start a ComfyUI with the pack and the probes installed, and stop it afterwards."""
    for name in ("models", "input", "output", "temp", "user", "custom_nodes"):
        (base / name).mkdir(parents=True, exist_ok=True)
    # Any folder name must do, so this one is not the repository's.
    (base / "custom_nodes" / "a-pack-of-portraits").symlink_to(PACK, target_is_directory=True)
    (base / "custom_nodes" / "probes").symlink_to(PROBES, target_is_directory=True)
    port, log = _free_port(), base / "server.log"
    arguments = ["--cpu", "--port", str(port), "--listen", "127.0.0.1", "--disable-api-nodes"]
    arguments += ["--base-directory", str(base), "--preview-method", "latent2rgb", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # The engine must be the one inside the pack, found from any directory.
    environment.pop("PYTHONPATH", None)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [str(python), "main.py", *arguments],
            cwd=host,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
        )
    server = Server(f"http://127.0.0.1:{port}", base, log, process)
    try:
        _await_start(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_start(server: Server, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if server.process.poll() is not None:
            raise RuntimeError(f"ComfyUI did not start:\n{server.log.read_text()[-4000:]}")
        try:
            server.get("/system_stats")
            return
        except (OSError, urllib.error.URLError):
            time.sleep(0.2)
    raise TimeoutError(f"ComfyUI did not answer:\n{server.log.read_text()[-4000:]}")

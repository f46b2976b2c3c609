"""Downloads against a real HTTP server on 127.0.0.1 that misbehaves as real ones do."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import hashlib
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fluxguard_core.cli import models as commands
from fluxguard_core.weights import ConsentError, DownloadError, Entry, OfflineError
from fluxguard_core.weights.download import download
from fluxguard_core.weights.transfer import Settings

DATA = random.Random(7).randbytes(300_000)
FAST = Settings(timeout=5.0, pause=0.0, tries=4)


@dataclass
class Site:
    """What the server serves and how; `seen` holds the headers of every request, in order."""

    files: dict[str, bytes]
    cuts: list[int] = field(default_factory=list)
    redirects: dict[str, str] = field(default_factory=dict)
    errors: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    version: str = "1"
    ranges: bool = True
    chunked: bool = False
    delay: threading.Event | None = None
    claimed: int | None = None
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    address: str = ""

    def etag(self, path: str) -> str:
        digest = hashlib.sha256(self.files[path] + self.version.encode()).hexdigest()
        return f'"{digest[:16]}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, *args: object) -> None:
        """Keep the test output clean."""

    def do_GET(self) -> None:
        site = self.site
        site.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        if site.errors:
            code, headers = site.errors.pop(0)
            self._head(code, {**headers, "Content-Length": "0"})
        elif self.path in site.redirects:
            self._head(302, {"Location": site.redirects[self.path], "Content-Length": "0"})
        elif self.path not in site.files:
            self._head(404, {"Content-Length": "0"})
        else:
            self._send()

    def _send(self) -> None:
        site, data = self.site, self.site.files[self.path]
        etag = site.etag(self.path)
        start = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if site.ranges and asked and self.headers.get("If-Range") == etag:
            start = int(asked[1])
        body = data[start:]
        headers = {"ETag": etag}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if site.chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(site.claimed or len(body))
        self._head(206 if start else 200, headers)
        cut = site.cuts.pop(0) if site.cuts else None
        if site.delay is not None:
            self.wfile.write(body[:1])
            self.wfile.flush()
            site.delay.wait(10)
            self.wfile.write(body[1:])
            return
        for block in self._blocks(body if cut is None else body[:cut]):
            self.wfile.write(block)
        if cut is not None:
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(2)
        elif site.chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _blocks(self, body: bytes) -> Iterator[bytes]:
        for i in range(0, len(body), 4096):
            block = body[i : i + 4096]
            yield b"%x\r\n%s\r\n" % (len(block), block) if self.site.chunked else block

    def _head(self, code: int, headers: dict[str, str]) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


@pytest.fixture
def serve() -> Iterator[Callable[..., Site]]:
    """serve(files, **behaviour) starts a server on a free port; all stop after the test."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    def start(files: dict[str, bytes] | None = None, **behaviour: Any) -> Site:
        site = Site({"/w.safetensors": DATA} if files is None else files, **behaviour)
        handler = type("Handler", (_Handler,), {"site": site})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        site.address = f"http://127.0.0.1:{server.server_address[1]}"
        return site

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def entry_for(site: Site, data: bytes = DATA, **changes: Any) -> Entry:
    entry = Entry(
        id="w",
        role="recogniser",
        file="w.safetensors",
        folder="fluxguard/recognisers",
        url=f"{site.address}/w.safetensors",
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        licence="MIT",
        licence_url=None,
        commercial_use=True,
        consent=False,
        used_by=("tests",),
    )
    return dataclasses.replace(entry, **changes)


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_arrives_and_nothing_else_stays(serve: Any, tmp_path: Path) -> None:
    site = serve()
    path = download(entry_for(site), tmp_path / "deep" / "w.safetensors", FAST)
    assert path.read_bytes() == DATA
    assert leftovers(path.parent) == ["w.safetensors"]
    download(entry_for(site), path, FAST)
    assert len(site.seen) == 1


@pytest.mark.parametrize("chunked", [False, True])
def test_cut_connections_resume_where_they_broke(serve: Any, tmp_path: Path, chunked: bool) -> None:
    site = serve(cuts=[100_000, 50_000], chunked=chunked)
    path = download(entry_for(site), tmp_path / "w.safetensors", FAST)
    assert path.read_bytes() == DATA
    ranges = [headers.get("range") for _, headers in site.seen]
    assert ranges[0] is None and len(ranges) == 3
    starts = [int(str(r).removeprefix("bytes=").rstrip("-")) for r in ranges[1:]]
    assert 0 < starts[0] <= 100_000 and starts[0] < starts[1] <= 150_000
    assert site.seen[1][1]["if-range"] == site.etag("/w.safetensors")


def test_a_later_run_goes_on_and_a_changed_file_starts_over(serve: Any, tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    site = serve(cuts=[100_000])
    with pytest.raises(DownloadError, match="bytes are kept"):
        download(entry_for(site), target, dataclasses.replace(FAST, tries=1))
    assert not target.exists()
    part = (tmp_path / "w.safetensors.part").stat().st_size
    assert 0 < part <= 100_000
    download(entry_for(site), target, FAST)
    assert site.seen[-1][1]["range"] == f"bytes={part}-"
    assert target.read_bytes() == DATA

    target.unlink()
    site.cuts = [100_000]
    unknown = entry_for(site, size=None, sha256=None)
    with pytest.raises(DownloadError):
        download(unknown, target, dataclasses.replace(FAST, tries=1))
    site.files["/w.safetensors"] = DATA[::-1]
    download(unknown, target, FAST)
    assert target.read_bytes() == DATA[::-1]


def test_a_server_without_ranges_is_read_from_the_start(serve: Any, tmp_path: Path) -> None:
    site = serve(cuts=[100_000], ranges=False)
    assert download(entry_for(site), tmp_path / "w.safetensors", FAST).read_bytes() == DATA


def test_no_progress_gives_up_after_the_tries(serve: Any, tmp_path: Path) -> None:
    site = serve(cuts=[0] * 9)
    with pytest.raises(DownloadError, match="4 tries"):
        download(entry_for(site), tmp_path / "w.safetensors", FAST)
    assert len(site.seen) == 4


def test_a_busy_server_is_asked_again_when_it_says(serve: Any, tmp_path: Path) -> None:
    site = serve(errors=[(503, {"Retry-After": "0"}), (429, {})])
    assert download(entry_for(site), tmp_path / "w.safetensors", FAST).read_bytes() == DATA


def test_refusals_say_what_to_do(serve: Any, tmp_path: Path) -> None:
    site = serve(errors=[(401, {}), (404, {})])
    with pytest.raises(DownloadError, match="HF_TOKEN"):
        download(entry_for(site), tmp_path / "w.safetensors", FAST)
    with pytest.raises(DownloadError, match="404"):
        download(entry_for(site), tmp_path / "w.safetensors", FAST)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("same_size", [True, False])
def test_another_file_is_never_published(serve: Any, tmp_path: Path, same_size: bool) -> None:
    site = serve({"/w.safetensors": DATA[::-1] if same_size else DATA + b"more"})
    expected = entry_for(site).sha256 if same_size else "300,000"
    with pytest.raises(DownloadError, match=expected):
        download(entry_for(site), tmp_path / "w.safetensors", FAST)
    assert leftovers(tmp_path) == []


STAND_INS = {
    b"<!doctype html><title>Sign in</title>" * 40: "a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 300000\n": "a Git LFS pointer",
    b'{"error": "Access to this file is restricted"}': "a text, no model",
}


@pytest.mark.parametrize("body", STAND_INS)
@pytest.mark.parametrize("known", [True, False])
def test_a_page_or_a_pointer_is_said_to_be_one(
    serve: Any, tmp_path: Path, body: bytes, known: bool
) -> None:
    site = serve({"/w.safetensors": body})
    entry = entry_for(site) if known else entry_for(site, size=None, sha256=None)
    with pytest.raises(DownloadError, match=STAND_INS[body]):
        download(entry, tmp_path / "w.safetensors", FAST)
    assert leftovers(tmp_path) == []


def test_a_body_longer_than_the_manifest_says_is_stopped(serve: Any, tmp_path: Path) -> None:
    site = serve({"/w.safetensors": DATA * 20}, chunked=True)
    with pytest.raises(DownloadError, match="more than"):
        download(entry_for(site), tmp_path / "w.safetensors", FAST)
    assert leftovers(tmp_path) == []


def test_a_redirect_to_another_host_is_reported_and_gets_no_login(
    serve: Any, tmp_path: Path
) -> None:
    far = serve({"/cdn/w": DATA})
    elsewhere = far.address.replace("127.0.0.1", "localhost") + "/cdn/w"
    near = serve({}, redirects={"/w.safetensors": "/same", "/same": elsewhere})
    mirror = near.address.replace("//", "//anna:s%20cret@") + "/{path}"
    said: list[str] = []
    settings = dataclasses.replace(FAST, mirror=mirror)
    path = download(entry_for(near), tmp_path / "w.safetensors", settings, say=said.append)
    assert path.read_bytes() == DATA
    login = "Basic " + base64.b64encode(b"anna:s cret").decode()
    assert [headers.get("authorization") for _, headers in near.seen] == [login, login]
    assert "authorization" not in far.seen[0][1]
    assert any("redirected" in text and "localhost" in text for text in said)
    assert not any("cret" in text for text in said)


@pytest.mark.parametrize(
    "place", ["http://example.com/w", "file:///etc/passwd", "ftp://127.0.0.1/w"]
)
def test_a_redirect_to_an_unsafe_address_is_refused(serve: Any, tmp_path: Path, place: str) -> None:
    site = serve({}, redirects={"/w.safetensors": place})
    with pytest.raises(DownloadError, match="https"):
        download(entry_for(site), tmp_path / "w.safetensors", FAST)
    assert leftovers(tmp_path) == []


CHILD = """
import json, sys
from pathlib import Path
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.weights import Entry
from fluxguard_core.weights.download import download
from fluxguard_core.weights.transfer import Settings
fields, target, limit = json.loads(sys.argv[1])
if limit:
    import resource
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
fields["used_by"] = tuple(fields["used_by"])
fields["needs"] = ()
try:
    download(Entry(**fields), Path(target), Settings(pause=0.0), say=print)
except FluxGuardError as error:
    print("ERROR", error)
"""


def child(entry: Entry, target: Path, limit: int = 0) -> subprocess.Popen[str]:
    arguments = json.dumps([dataclasses.asdict(entry), str(target), limit])
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [sys.executable, "-u", "-c", CHILD, arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    )


@pytest.mark.skipif(os.name != "posix", reason="needs RLIMIT_FSIZE")
def test_a_full_disk_leaves_no_final_file_and_goes_on_later(serve: Any, tmp_path: Path) -> None:
    site = serve()
    target = tmp_path / "w.safetensors"
    output, _ = child(entry_for(site), target, limit=131_072).communicate(timeout=20)
    assert "ERROR" in output and "disk is full" in output and "131,072 bytes are kept" in output
    assert not target.exists()
    assert download(entry_for(site), target, FAST).read_bytes() == DATA
    assert site.seen[-1][1]["range"] == "bytes=131072-"


def test_a_disk_without_room_is_seen_before_the_first_byte(serve: Any, tmp_path: Path) -> None:
    huge = 1 << 60
    site = serve(claimed=huge)
    with pytest.raises(DownloadError, match="disk is too full"):
        download(entry_for(site, size=huge), tmp_path / "w.safetensors", FAST)
    assert not (tmp_path / "w.safetensors.part").exists()


def test_two_downloads_at_once_fetch_once(serve: Any, tmp_path: Path) -> None:
    gate = threading.Event()
    site = serve(delay=gate)
    target = tmp_path / "w.safetensors"
    first = child(entry_for(site), target)
    deadline = time.monotonic() + 10
    while not site.seen and time.monotonic() < deadline:
        time.sleep(0.01)
    second = child(entry_for(site), target)
    assert second.stdout is not None
    assert "another process is downloading w" in second.stdout.readline()
    gate.set()
    assert "ERROR" not in first.communicate(timeout=20)[0]
    assert "already at" in second.communicate(timeout=20)[0]
    assert len(site.seen) == 1 and target.read_bytes() == DATA
    assert leftovers(tmp_path) == ["w.safetensors"]


def test_consent_and_offline_come_before_the_network(serve: Any, tmp_path: Path) -> None:
    site = serve()
    target = tmp_path / "w.safetensors"
    academic = entry_for(site, licence="academic only", commercial_use=False, consent=True)
    with pytest.raises(ConsentError, match=r"academic only.*--accept-licence"):
        download(academic, target, FAST)
    with pytest.raises(OfflineError, match="elsewhere"):
        download(entry_for(site), target, dataclasses.replace(FAST, offline=True))
    with pytest.raises(DownloadError, match="your own copy"):
        download(entry_for(site, url=None), target, FAST)
    assert site.seen == []
    assert download(academic, target, FAST, accept_licence=True).is_file()


def test_a_file_of_the_user_is_not_overwritten(serve: Any, tmp_path: Path) -> None:
    target = tmp_path / "w.safetensors"
    target.write_bytes(b"mine")
    with pytest.raises(DownloadError, match="replace it with 'replace'"):
        download(entry_for(serve()), target, FAST)
    assert target.read_bytes() == b"mine"
    assert download(entry_for(serve()), target, FAST, replace=True).read_bytes() == DATA


def run(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser()
    commands.register(parser.add_subparsers())
    args = parser.parse_args(["models", *arguments])
    return int(args.run(args))


def test_the_command_fetches_companions_and_verifies(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = serve({"/w.safetensors": DATA, "/c.json": b"{}"})
    main = dataclasses.asdict(entry_for(site, needs=("c",), commercial_use=False, consent=True))
    side = dataclasses.asdict(entry_for(site, b"{}", id="c", file="c.json"))
    side["url"] = f"{site.address}/c.json"
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"version": 1, "files": [main, side]}))
    root = tmp_path / "models"
    monkeypatch.setenv("FLUXGUARD_MODELS", str(root))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    flags = ["--manifest", str(manifest)]
    with pytest.raises(ConsentError):
        run(["download", "w", *flags])
    with pytest.raises(OfflineError):
        run(["download", "w", "--accept-licence", *flags])
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert run(["download", "w", "--accept-licence", *flags]) == 0
    folder = root / "fluxguard" / "recognisers"
    assert leftovers(folder) == ["c.json", "w.safetensors"]
    assert "300k/300k" in capsys.readouterr().err
    assert run(["verify", *flags]) == 0
    (folder / "w.safetensors").write_bytes(DATA[::-1])
    assert run(["verify", "w", *flags]) == 1
    assert "WRONG SHA256" in capsys.readouterr().out
    for body, words in STAND_INS.items():
        (folder / "w.safetensors").write_bytes(body)
        assert run(["verify", "w", *flags]) == 1
        assert f"WRONG: it is {words}" in capsys.readouterr().out
    (folder / "w.safetensors").unlink()
    assert run(["verify", "w", *flags]) == 1


def test_the_command_asks_a_mirror_and_tells_what_nothing_reads(
    serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = serve({"/owner/w/resolve/main/w.safetensors": DATA})
    address = "https://huggingface.co/owner/w/resolve/main/w.safetensors"
    early = dataclasses.asdict(entry_for(site, url=address, used_by=()))
    manifest = tmp_path / "m.json"
    manifest.write_text(json.dumps({"version": 1, "files": [early]}))
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    given = ["--manifest", str(manifest)]
    assert run(["list", *given]) == 0
    assert "nothing yet" in capsys.readouterr().out
    chosen = ["download", "w", *given, "--quiet", "--to", str(tmp_path / "models")]
    monkeypatch.setenv("FLUXGUARD_MIRROR", "http://127.0.0.1:9")  # --mirror goes before it
    assert run([*chosen, "--mirror", site.address]) == 0
    assert "Nothing in this version reads w" in capsys.readouterr().err
    arrived = tmp_path / "models" / "fluxguard" / "recognisers" / "w.safetensors"
    assert arrived.read_bytes() == DATA
    ((path, headers),) = site.seen
    assert path == "/owner/w/resolve/main/w.safetensors"
    assert "secret-token" not in str(headers)
    arrived.unlink()
    monkeypatch.setenv("FLUXGUARD_MIRROR", site.address)
    assert run(chosen) == 0 and len(site.seen) == 2
    arrived.unlink()
    with pytest.raises(OfflineError):
        run([*chosen, "--offline"])
    assert len(site.seen) == 2

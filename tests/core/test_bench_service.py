"""Services against a server on this machine that answers as their documentation says; nothing leaves it."""

from __future__ import annotations

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import torch

from fluxguard_core.cli.main import main
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.pictures.files import write_png
from fluxguard_core.pipelines.services import PROVIDERS, Client
from fluxguard_core.pipelines.services.signing import aliyun_form, aws_headers

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
FACEPP = {
    "confidence": 64.2,
    "thresholds": {"1e-3": 62.3, "1e-4": 69.1, "1e-5": 73.9},
    "request_id": "1",
    "time_used": 300,
    "faces1": [{"face_token": "a"}],
    "faces2": [{"face_token": "b"}],
}
ALIYUN = {
    "RequestId": "1",
    "Data": {
        "Confidence": 40.5,
        "Thresholds": [61.0, 69.0, 75.0],
        "RectAList": [0, 0, 9, 9],
        "RectBList": [0, 0, 9, 9],
    },
}
REKOGNITION = {
    "SourceImageFace": {"Confidence": 99.9},
    "FaceMatches": [{"Similarity": 12.0}, {"Similarity": 88.5}],
    "UnmatchedFaces": [],
}
Reply = tuple[int, dict[str, Any], dict[str, str]]


class Server:
    """Replies in turn, the last one for ever; keeps what was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies, self.asked = list(replies), list[tuple[dict[str, str], bytes]]()
        self.url = ""


@contextmanager
def serving(*replies: Reply) -> Iterator[Server]:
    server = Server(*replies)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.asked.append(({k.lower(): v for k, v in self.headers.items()}, body))
            reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            status, said, headers = reply
            data = json.dumps(said).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{http.server_port}/"
    thread = threading.Thread(
        target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()


def client(
    name: str, server: Server, waits: list[float], ask: Callable[[str], bool] = lambda _: True
) -> Client:
    return Client(
        PROVIDERS[name], ("id", "secret"), ask, "us-east-1", server.url, wait=waits.append
    )


PAIR = (("a.png", PNG), ("b.png", PNG))


def test_faceplusplus_is_asked_and_read_as_documented() -> None:
    with serving((200, FACEPP, {})) as server:
        answer = client("facepp", server, []).compare(*PAIR)
    assert answer is not None and answer.score == 64.2
    assert answer.thresholds == {"FAR 1e-3": 62.3, "FAR 1e-4": 69.1, "FAR 1e-5": 73.9}
    headers, body = server.asked[0]
    assert headers["content-type"].startswith("multipart/form-data; boundary=")
    for part in (b'name="api_key"\r\n\r\nid', b'name="api_secret"', b'name="image_file2"', PNG):
        assert part in body
    assert b"a.png" not in body and b"b.png" not in body  # the files' own names stay here


def test_alibaba_cloud_is_asked_and_read_as_documented() -> None:
    with serving((200, ALIYUN, {})) as server:
        answer = client("aliyun", server, []).compare(*PAIR)
    assert answer is not None and answer.score == 40.5 and answer.thresholds["FAR 1e-5"] == 75.0
    form = {name: values[0] for name, values in parse_qs(server.asked[0][1].decode()).items()}
    assert form["Action"] == "CompareFace" and form["Version"] == "2019-12-30"
    assert base64.b64decode(form["ImageDataB"]) == PNG and "secret" not in str(form)
    again = aliyun_form(
        {k: form[k] for k in ("Action", "Version", "ImageDataA", "ImageDataB")},
        ("id", "secret"),
        datetime.strptime(form["Timestamp"], "%Y-%m-%dT%H:%M:%SZ"),
        form["SignatureNonce"],
    )
    assert parse_qs(again.decode())["Signature"][0] == form["Signature"]


def test_rekognition_is_asked_and_read_as_documented() -> None:
    with serving((200, REKOGNITION, {})) as server:
        answer = client("rekognition", server, []).compare(*PAIR)
    assert answer is not None and answer.score == 88.5
    assert answer.thresholds == {"the service's default": 80.0}
    headers, body = server.asked[0]
    assert headers["x-amz-target"] == "RekognitionService.CompareFaces"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=id/")
    assert json.loads(body)["SimilarityThreshold"] == 0
    nobody = {"FaceMatches": [], "UnmatchedFaces": [{"Confidence": 99.0}]}
    with serving((200, nobody, {})) as server:
        answer = client("rekognition", server, []).compare(*PAIR)
    assert answer is not None and answer.score == 0


def test_signature_version_4_is_the_published_example() -> None:
    """Amazon's own example of a signing key and string (its documentation, ``iam``, 30 August 2015)."""
    import hashlib
    import hmac

    key = b"AWS4wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
    for part in ("20150830", "us-east-1", "iam", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    assert key.hex() == "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9"
    now = datetime(2015, 8, 30, 12, 36, tzinfo=timezone.utc)
    headers = aws_headers(
        "https://iam.amazonaws.com/", b"{}", ("AKID", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        "us-east-1", "iam", "T", now,
    )  # fmt: skip
    canonical = (
        "POST\n/\n\ncontent-type:application/x-amz-json-1.1\nhost:iam.amazonaws.com\n"
        "x-amz-date:20150830T123600Z\nx-amz-target:T\n\ncontent-type;host;x-amz-date;x-amz-target\n"
        + hashlib.sha256(b"{}").hexdigest()
    )
    text = "AWS4-HMAC-SHA256\n20150830T123600Z\n20150830/us-east-1/iam/aws4_request\n" + (
        hashlib.sha256(canonical.encode()).hexdigest()
    )
    assert headers["authorization"].endswith(
        hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    )


@pytest.mark.parametrize(
    ("name", "busy", "good"),
    [
        ("facepp", (403, {"error_message": "CONCURRENCY_LIMIT_EXCEEDED"}, {}), FACEPP),
        ("aliyun", (400, {"Code": "Throttling.User", "Message": "m"}, {}), ALIYUN),
        ("rekognition", (400, {"__type": "ThrottlingException", "Message": "m"}, {}), REKOGNITION),
        ("rekognition", (429, {}, {"Retry-After": "7"}), REKOGNITION),
    ],
)
def test_a_busy_service_is_asked_again_later(name: str, busy: Reply, good: dict[str, Any]) -> None:
    waits: list[float] = []
    with serving(busy, busy, (200, good, {})) as server:
        answer = client(name, server, waits).compare(*PAIR)
    assert answer is not None and len(server.asked) == 3
    between = [wait for wait in waits if wait >= 1]
    assert between == ([7, 7] if busy[2] else between) and sorted(between) == between
    assert len(between) >= 2


@pytest.mark.parametrize(
    ("name", "reply", "told"),
    [
        ("facepp", (401, {"error_message": "AUTHENTICATION_ERROR: api_key"}, {}), "does not accept the key"),
        ("facepp", (400, {"error_message": "INVALID_IMAGE_SIZE: image_file1"}, {}), "too large"),
        ("aliyun", (400, {"Code": "SignatureDoesNotMatch", "Message": "x"}, {}), "does not accept the key"),
        ("rekognition", (400, {"__type": "x#ImageTooLargeException"}, {}), "too large"),
        ("rekognition", (400, {"__type": "AccessDeniedException", "Message": "x"}, {}), "may not use"),
        ("rekognition", (418, {"__type": "Odd", "Message": "tea"}, {}), "Odd: tea"),
        ("aliyun", (200, {"Data": {}}, {}), "another form"),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_words_and_not_tried_again(name: str, reply: Reply, told: str) -> None:
    with serving(reply) as server, pytest.raises(FluxGuardError, match=told):
        client(name, server, []).compare(*PAIR)
    assert len(server.asked) == 1


def test_a_picture_without_a_face_is_an_answer() -> None:
    replies: dict[str, Reply] = {
        "rekognition": (400, {"__type": "com.amazon#InvalidParameterException"}, {}),
        "aliyun": (400, {"Code": "InvalidImage.NotFoundFace", "Message": "x"}, {}),
        "facepp": (200, {k: v for k, v in FACEPP.items() if k != "confidence"}, {}),
    }
    for name, reply in replies.items():
        with serving(reply) as server:
            answer = client(name, server, []).compare(*PAIR)
        assert answer is not None and answer.score is None and len(server.asked) == 1


def test_a_service_that_stays_busy_is_left_after_five_tries() -> None:
    waits: list[float] = []
    with serving((503, {}, {})) as server, pytest.raises(FluxGuardError, match="after 5 tries"):
        client("facepp", server, waits).compare(*PAIR)
    assert len(server.asked) == 5


def test_nothing_is_sent_without_a_yes_nor_in_the_open() -> None:
    questions: list[str] = []
    with serving((200, FACEPP, {})) as server:
        no = client("facepp", server, [], lambda what: bool(questions.append(what)))
        assert no.compare(*PAIR) is None and not server.asked
    for part in ("pixels of a.png and of b.png", "Face++", "127.0.0.1", "FACEPP_API_KEY"):
        assert part in questions[0]
    no.endpoint = "http://example.org/"
    with pytest.raises(FluxGuardError, match="HTTPS"):
        no.compare(*PAIR)
    with pytest.raises(FluxGuardError, match="at most"):
        client("facepp", server, []).compare(("a", PNG), ("b", bytes(3 * 2**20)))


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / f"{name}.png") for name in ("other", "before", "after")]
    for number, file in enumerate(files):
        write_png(file, torch.full((1, 3, 64, 64), 0.2 * (number + 1)))
    given = ["bench", "service", "--provider", "facepp", "--pictures", *files]
    assert main(given) == 2 and "FACEPP_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("FACEPP_API_KEY", "id")
    monkeypatch.setenv("FACEPP_API_SECRET", "secret")
    low = {**FACEPP, "confidence": 10.0}
    out = tmp_path / "figures.json"
    with serving((200, FACEPP, {}), (200, low, {})) as server:
        monkeypatch.setattr("sys.stdin", io.StringIO("y\nyes\n"))
        assert main([*given, "--endpoint", server.url, "--json", str(out)]) == 0
        told = capsys.readouterr().out
        assert "before.png (unprotected): 64.2" in told and "after.png (protected): 10.0" in told
        monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
        assert main([*given, "--endpoint", server.url]) == 0
        assert len(server.asked) == 2 and "2 comparisons were not made" in capsys.readouterr().out
    matched = {(m["picture"], m["at"]): m["value"] for m in json.loads(out.read_text())["matched"]}
    assert matched[("unprotected", "FAR 1e-3")] == 1 and matched[("protected", "FAR 1e-3")] == 0
    assert matched[("unprotected", "FAR 1e-4")] == 0


def test_no_node_knows_the_services() -> None:
    nodes = Path(__file__).parents[2] / "nodes"
    assert not [
        p for p in nodes.rglob("*.py") if "pipelines.services" in p.read_text(encoding="utf-8")
    ]

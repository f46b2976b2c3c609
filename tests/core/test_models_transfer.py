"""Addresses, credentials and redirects, without a connection."""

from __future__ import annotations

import urllib.request
from http.client import HTTPMessage
from io import BytesIO

import pytest

from fluxguard_core.weights import DownloadError, transfer
from fluxguard_core.weights.transfer import Settings, settings_from_environment


def test_https_never_falls_back_to_http() -> None:
    handler = transfer._Redirects(lambda text: None)
    asked = urllib.request.Request("https://huggingface.co/x")
    with pytest.raises(DownloadError, match="not an https"):
        handler.redirect_request(asked, BytesIO(), 302, "", HTTPMessage(), "http://127.0.0.1/x")


def test_the_token_is_for_hugging_face_only() -> None:
    settings = Settings(token="secret")
    for url, sent in {
        "https://huggingface.co/a/b": True,
        "https://huggingface.co.evil.example/a": False,
        "https://mirror.example/a": False,
        "http://localhost/a": False,
    }.items():
        assert ("Authorization" in transfer._headers(url, settings)[1]) is sent
    assert "secret" not in repr(settings)


@pytest.mark.parametrize(
    ("mirror", "expected"),
    [
        ("https://m.example/hf/", "https://m.example/hf/a/b?x=1"),
        ("https://m.example/{host}/{path}", "https://m.example/huggingface.co/a/b?x=1"),
    ],
)
def test_mirrors(mirror: str, expected: str) -> None:
    assert transfer.mirrored("https://huggingface.co/a/b?x=1", mirror) == expected
    other = "https://download.pytorch.org/vgg.pth"
    assert (transfer.mirrored(other, mirror) == other) is ("{host}" not in mirror)
    with pytest.raises(DownloadError, match="https address"):
        transfer.mirrored("https://huggingface.co/a", "http://m.example")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FLUXGUARD_MIRROR", "HF_ENDPOINT", "FLUXGUARD_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    assert settings_from_environment().mirror is None
    assert not settings_from_environment().offline
    monkeypatch.setenv("HF_ENDPOINT", "https://one.example")
    assert settings_from_environment().mirror == "https://one.example"
    monkeypatch.setenv("FLUXGUARD_MIRROR", "https://two.example")
    assert settings_from_environment().mirror == "https://two.example"
    assert settings_from_environment("https://three.example").mirror == "https://three.example"
    for value, offline in {"1": True, "TRUE": True, "0": False, "": False}.items():
        monkeypatch.setenv("FLUXGUARD_OFFLINE", value)
        assert settings_from_environment().offline is offline

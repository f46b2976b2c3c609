"""HTTP for downloads: which address, which credentials, which redirects, which range.

urllib only. https everywhere, http to this machine alone; credentials go to the host they are
meant for and to no other.
"""

from __future__ import annotations

import base64
import email.utils
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPException, HTTPMessage, HTTPResponse
from typing import IO, Any
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from .. import __version__
from .errors import DownloadError
from .manifest import allowed_url

Report = Callable[[str], None]
_HUGGING_FACE = "huggingface.co"
_PRIVATE = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclass(frozen=True)
class Settings:
    """How to fetch: mirror address, Hugging Face token, seconds without data, tries, offline."""

    mirror: str | None = None
    token: str | None = None
    timeout: float = 30.0
    tries: int = 5
    pause: float = 1.0
    offline: bool = False

    def __repr__(self) -> str:
        return f"Settings(mirror={hide_login(self.mirror)!r}, offline={self.offline})"


@dataclass(frozen=True)
class Body:
    """An answered request: `start` is the first byte it carries, `total` the whole file's size."""

    response: HTTPResponse
    start: int
    total: int | None
    validator: str | None
    address: str


class Retry(Exception):
    """A failure that another try may cure, after the pause in seconds that the server asked for."""

    def __init__(self, text: str, after: float | None = None, restart: bool = False) -> None:
        super().__init__(text)
        self.after, self.restart = after, restart


def settings_from_environment(mirror: str | None = None, offline: bool = False) -> Settings:
    """FLUXGUARD_MIRROR or HF_ENDPOINT, HF_TOKEN, FLUXGUARD_OFFLINE or HF_HUB_OFFLINE."""
    read = os.environ.get
    return Settings(
        mirror=mirror or read("FLUXGUARD_MIRROR") or read("HF_ENDPOINT") or None,
        token=read("HF_TOKEN") or None,
        offline=offline or _yes(read("FLUXGUARD_OFFLINE")) or _yes(read("HF_HUB_OFFLINE")),
    )


def _yes(value: str | None) -> bool:
    return value is not None and value.strip().lower() in {"1", "true", "yes", "on"}


def mirrored(url: str, mirror: str | None) -> str:
    """The address to ask instead of `url`.

    A mirror is an address in which {host} and {path} stand for the parts of the original
    (https://mirror.example/{host}/{path}); without them it replaces https://huggingface.co and
    leaves other hosts alone.
    """
    if mirror is None:
        return url
    parts = urlsplit(url)
    path = parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    if "{path}" in mirror:
        address = mirror.replace("{host}", parts.netloc).replace("{path}", path)
    elif parts.hostname == _HUGGING_FACE:
        address = f"{mirror.rstrip('/')}/{path}"
    else:
        return url
    if not allowed_url(address):
        raise DownloadError(
            f"The mirror {hide_login(mirror)!r} does not give an https address "
            "(http is allowed to this machine only).",
            "Set FLUXGUARD_MIRROR or ‹give mirror› to an "
            "address such as https://mirror.example or https://mirror.example/{host}/{path}.",
        )
    return address


def hide_login(url: str | None) -> str | None:
    """`url` without the user name and password it may carry."""
    return None if url is None else re.sub(r"(?<=//)[^/@]*@", "", url)


def request(url: str, settings: Settings, start: int, validator: str | None, say: Report) -> Body:
    """Ask for `url` from byte `start` on, if `validator` still names the same file.

    Raises Retry for what may pass (a cut connection, a busy server) and DownloadError for what
    will not.
    """
    plain, headers = _headers(url, settings)
    if start and validator:
        headers["Range"] = f"bytes={start}-"
        headers["If-Range"] = validator
    handlers: list[urllib.request.BaseHandler] = [_Redirects(say)]
    if urlsplit(plain).scheme == "http":  # allowed to this machine only, never through a proxy
        handlers.append(urllib.request.ProxyHandler({}))
    opener = urllib.request.build_opener(*handlers)
    try:
        response = opener.open(
            urllib.request.Request(plain, headers=headers), None, settings.timeout
        )
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and start:
                raise Retry("the server cannot go on from here", 0.0, restart=True) from None
            raise _refusal(plain, error) from None
    except (OSError, HTTPException) as error:
        raise Retry(f"no answer from {urlsplit(plain).hostname}: {error}") from None
    return _body(response, start if "Range" in headers else 0)


def _headers(url: str, settings: Settings) -> tuple[str, dict[str, str]]:
    parts = urlsplit(url)
    headers = {"User-Agent": f"fluxguard/{__version__}", "Accept-Encoding": "identity"}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = "Basic " + base64.b64encode(login.encode()).decode()
    elif settings.token and parts.hostname == _HUGGING_FACE and parts.scheme == "https":
        headers["Authorization"] = f"Bearer {settings.token}"
    netloc = parts.netloc.rpartition("@")[2]
    path = quote(parts.path, safe="/%:+,;=@!$&'()*~-._")
    return urlunsplit((parts.scheme, netloc, path, parts.query, "")), headers


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to allowed addresses; credentials stay with the host they were given."""

    max_redirections = 6

    def __init__(self, say: Report) -> None:
        self._say = say

    # Python 3.10 does not know the permanent redirect 308.
    http_error_308 = urllib.request.HTTPRedirectHandler.http_error_302

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        downgrade = old.scheme == "https" and new.scheme != "https"
        if not allowed_url(newurl) or downgrade or new.username is not None:
            raise DownloadError(
                f"{old.hostname} redirects to {hide_login(newurl)!r}, which is not an https "
                "address; nothing was fetched.",
                "Report this to the file's publisher.",
            )
        kept = dict(req.header_items())
        if (old.scheme, old.hostname, old.port) != (new.scheme, new.hostname, new.port):
            kept = {name: value for name, value in kept.items() if name.lower() not in _PRIVATE}
            self._say(f"redirected from {old.netloc} to {new.netloc}")
        kept = {name: value for name, value in kept.items() if name.lower() != "host"}
        return urllib.request.Request(newurl, headers=kept)


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    host = urlsplit(url).hostname
    if error.code in {408, 425, 429, 500, 502, 503, 504}:
        return Retry(f"{host} is busy ({error.code})", _retry_after(error.headers))
    if error.code in {401, 403}:
        page = url.split("/resolve/")[0]
        return DownloadError(
            f"{host} refuses access ({error.code}).",
            f"If the file is gated, accept its terms at "
            f"{page} and give your account's token as HF_TOKEN.",
        )
    if 300 <= error.code < 400:
        return DownloadError(f"{host} redirects in circles or to something that is not https.")
    return DownloadError(
        f"{host} answers {error.code} for {url}. The file may have moved: see its licence page, "
        "or set a mirror with FLUXGUARD_MIRROR."
    )


def _retry_after(headers: Message) -> float | None:
    value = headers.get("Retry-After")
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, moment.timestamp() - time.time())


def _body(response: Any, asked: int) -> Body:
    headers = response.headers
    etag = headers.get("ETag", "")
    validator = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
    length = headers.get("Content-Length", "")
    size = int(length) if length.isdigit() else None
    if response.status != 206:
        return Body(response, 0, size, validator, response.url)
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", "").strip())
    if match is None or int(match[1]) != asked:
        response.close()
        raise DownloadError(
            f"{urlsplit(response.url).hostname} answered a different range than the one asked "
            f"for ({headers.get('Content-Range')!r}).",
            "Delete the .part file and try again.",
        )
    return Body(response, asked, int(match[3]), validator, response.url)

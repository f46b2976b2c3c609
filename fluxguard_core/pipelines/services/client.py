"""Asking a service: not before the user has agreed, not faster than it allows, again where it was only busy."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ...errors import FluxGuardError
from .providers import NO_FACE, Answer, Fault, Provider, Request

Ask = Callable[[str], bool]
"""What would be sent -> whether the user agrees."""
TRIES, TIMEOUT = 5, 60.0
_AT_HOME = ("localhost", "127.0.0.1", "::1")


@dataclass(eq=False)
class Client:
    """One service with the user's key.

    Args:
        ask: asked before every upload.
        endpoint: instead of the provider's own; over HTTPS, but on this machine.
        wait: sleeps so many seconds.
    """

    provider: Provider
    keys: tuple[str, str]
    ask: Ask
    place: str = ""
    endpoint: str | None = None
    wait: Callable[[float], None] = time.sleep
    _last: float = field(default=float("-inf"), init=False)

    def compare(self, first: tuple[str, bytes], second: tuple[str, bytes]) -> Answer | None:
        """Compare two pictures (what to call it, PNG); None where the user does not agree.

        A picture in which the service finds no face is an answer without a score, not a refusal.

        Raises:
            FluxGuardError: the service refuses, or stays busy.
        """
        where = (self.endpoint or self.provider.endpoint).format(place=self.place)
        parts = urlsplit(where)
        if parts.scheme != "https" and parts.hostname not in _AT_HOME:
            raise FluxGuardError(
                f"Pictures are sent over HTTPS only, got {parts.scheme}://{parts.hostname}.",
                "Give an address that begins with https://.",
            )
        for told, data in (first, second):
            if len(data) > self.provider.largest:
                raise FluxGuardError(
                    f"{told} takes {len(data) / 2**20:.1f} MiB as PNG, and {self.provider.title} takes at most "
                    f"{self.provider.largest / 2**20:.0f}.",
                    "Give a smaller picture.",
                )
        size = (len(first[1]) + len(second[1])) / 2**10
        if not self.ask(
            f"Send the pixels of {first[0]} and of {second[0]} ({size:.0f} KiB as PNG, without names or metadata) "
            f"to {self.provider.title} at {parts.hostname}, under the key in {self.provider.keys[0]}?"
        ):
            return None
        return self._answered(where, first[1], second[1])

    def _answered(self, where: str, first: bytes, second: bytes) -> Answer:
        delay = max(1.0, self.provider.pause)
        for number in range(1, TRIES + 1):
            self._pace()
            request = self.provider.build(where, self.keys, self.place, first, second)
            status, said, retry = _post(request)
            if status == 200 and not {"error_message", "Code", "__type"} & set(said):
                return self._read(said)
            fault = self.provider.fault(status, said)
            if self._told(fault) == NO_FACE:
                return Answer(None)
            if not (fault.again or status == 429) or number == TRIES:
                raise self._refused(fault, number)
            self.wait(retry or delay)
            delay *= 2
        raise AssertionError("the last try returns or raises")

    def _read(self, said: Mapping[str, Any]) -> Answer:
        try:
            return self.provider.read(said)
        except (KeyError, TypeError, ValueError) as error:
            raise FluxGuardError(
                f"{self.provider.title} answered in another form than its documentation says "
                f"({type(error).__name__}: {error})."
            ) from error

    def _pace(self) -> None:
        rest = self.provider.pause - (time.monotonic() - self._last)
        if rest > 0:
            self.wait(rest)
        self._last = time.monotonic()

    def _told(self, fault: Fault) -> str:
        """A known code in plain words, or nothing."""
        known = (told for code, told in self.provider.words.items() if fault.code.startswith(code))
        return next(known, "")

    def _refused(self, fault: Fault, tries: int) -> FluxGuardError:
        told = self._told(fault) or f"{self.provider.title} refused."
        said = f"{fault.code}: {fault.message}" if fault.message else fault.code
        times = f" after {tries} tries" if tries > 1 else ""
        return FluxGuardError(f"{told} It said{times}: {said}")


def _post(request: Request) -> tuple[int, Mapping[str, Any], float | None]:
    """Status, JSON, and seconds to wait where the service says so; status 599 where nobody answers."""
    asked = urllib.request.Request(request.url, request.body, dict(request.headers), method="POST")
    try:
        with urllib.request.urlopen(asked, timeout=TIMEOUT) as response:
            return response.status, _json(response.read()), None
    except urllib.error.HTTPError as error:
        with error:
            wait = error.headers.get("Retry-After", "")
            return error.code, _json(error.read()), float(wait) if wait.isdigit() else None
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        return 599, {"error_message": f"NO_ANSWER: {reason}", "Message": str(reason)}, None


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}

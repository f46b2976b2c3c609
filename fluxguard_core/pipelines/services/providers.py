"""How three services are asked to compare two faces, and what they answer, as their documentation says.

Face++ Compare API v3 (multipart form; confidence 0..100 with thresholds at three rates), Alibaba Cloud Visual
Intelligence facebody CompareFace 2019-12-30 (signed form; Confidence with Thresholds), and Amazon Rekognition
CompareFaces 2016-06-27 (signed JSON; Similarity of each face found).
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from .signing import aliyun_form, aws_headers


@dataclass(frozen=True)
class Request:
    """One HTTP POST."""

    url: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What a service says of two pictures.

    Args:
        score: 0..100; None where it found no face to compare.
        thresholds: score from which it calls them one person, by what it says of the rate; of this call alone.
    """

    score: float | None
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """An answer that is none: the service's own code and words, and whether another try may help."""

    code: str
    message: str
    again: bool


@dataclass(frozen=True, eq=False)
class Provider:
    """A service.

    Args:
        keys: environment variables with the user's key and secret, and ``place`` with the region, if it has one.
        endpoint: where it is asked; ``{place}`` is the region.
        largest: bytes a picture may have.
        pause: seconds between two requests that its plans without charge allow.
        build: (endpoint, keys, place, two pictures as PNG) -> request.
        read: the JSON of a success -> answer.
        fault: (status, JSON) -> what went wrong.
        words: known codes by their beginnings, in plain words.
    """

    name: str
    title: str
    keys: tuple[str, str]
    endpoint: str
    largest: int
    pause: float
    build: Callable[[str, tuple[str, str], str, bytes, bytes], Request]
    read: Callable[[Mapping[str, Any]], Answer]
    fault: Callable[[int, Mapping[str, Any]], Fault]
    words: Mapping[str, str]
    place: tuple[str, str] | None = None


_KEY = "The service does not accept the key."
_BUSY = "The service is busy or the account's rate is used up."
NO_FACE = "The service found no face in a picture."
_LARGE = "A picture is too large for the service."
_FORMAT = "The service cannot read a picture."


def _facepp(
    endpoint: str, keys: tuple[str, str], place: str, first: bytes, second: bytes
) -> Request:
    boundary = secrets.token_hex(16)
    fields = [("api_key", keys[0]), ("api_secret", keys[1])]
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields
    ]
    for number, picture in ((1, first), (2, second)):
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image_file{number}"; '
            f'filename="{number}.png"\r\nContent-Type: image/png\r\n\r\n'
        )
        parts.append(head.encode() + picture + b"\r\n")
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return Request(endpoint, {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body)


def _facepp_answer(said: Mapping[str, Any]) -> Answer:
    if "confidence" not in said:
        return Answer(None)
    limits = {f"FAR {rate}": float(value) for rate, value in said.get("thresholds", {}).items()}
    return Answer(float(said["confidence"]), limits)


def _facepp_fault(status: int, said: Mapping[str, Any]) -> Fault:
    code, _, message = str(said.get("error_message", f"HTTP {status}")).partition(":")
    return Fault(code, message.strip(), "CONCURRENCY_LIMIT" in code or status >= 500)


def _aliyun(
    endpoint: str, keys: tuple[str, str], place: str, first: bytes, second: bytes
) -> Request:
    values = {
        "Action": "CompareFace",
        "Version": "2019-12-30",
        "ImageDataA": base64.b64encode(first).decode(),
        "ImageDataB": base64.b64encode(second).decode(),
    }
    body = aliyun_form(values, keys, datetime.now(timezone.utc), secrets.token_hex(16))
    return Request(endpoint, {"Content-Type": "application/x-www-form-urlencoded"}, body)


def _aliyun_answer(said: Mapping[str, Any]) -> Answer:
    data = said.get("Data", {})
    if not data.get("RectAList", True) or not data.get("RectBList", True):
        return Answer(None)
    rates = ("FAR 1e-3", "FAR 1e-4", "FAR 1e-5")
    limits = dict(zip(rates, map(float, data.get("Thresholds", ())), strict=False))
    return Answer(float(data["Confidence"]), limits)


def _aliyun_fault(status: int, said: Mapping[str, Any]) -> Fault:
    code = str(said.get("Code", f"HTTP {status}"))
    again = code.startswith(("Throttling", "ServiceUnavailable", "InternalError")) or status >= 500
    return Fault(code, str(said.get("Message", "")), again)


def _rekognition(
    endpoint: str, keys: tuple[str, str], place: str, first: bytes, second: bytes
) -> Request:
    body = json.dumps(
        {
            "SourceImage": {"Bytes": base64.b64encode(first).decode()},
            "TargetImage": {"Bytes": base64.b64encode(second).decode()},
            "SimilarityThreshold": 0,
            "QualityFilter": "NONE",
        }
    ).encode()
    headers = aws_headers(
        endpoint,
        body,
        keys,
        place,
        "rekognition",
        "RekognitionService.CompareFaces",
        datetime.now(timezone.utc),
    )
    return Request(endpoint, headers, body)


def _rekognition_answer(said: Mapping[str, Any]) -> Answer:
    scores = [float(match["Similarity"]) for match in said.get("FaceMatches", ())]
    limits = {"the service's default": 80.0}
    if scores:
        return Answer(max(scores), limits)
    return Answer(0.0 if said.get("UnmatchedFaces") else None, limits)


def _rekognition_fault(status: int, said: Mapping[str, Any]) -> Fault:
    code = str(said.get("__type", f"HTTP {status}")).rpartition("#")[2]
    message = str(said.get("Message", said.get("message", "")))
    busy = ("Throttling", "ProvisionedThroughputExceeded", "InternalServerError", "LimitExceeded")
    return Fault(code, message, code.startswith(busy) or status >= 500)


PROVIDERS: dict[str, Provider] = {
    "facepp": Provider(
        "facepp",
        "Face++ Compare",
        ("FACEPP_API_KEY", "FACEPP_API_SECRET"),
        "https://api-us.faceplusplus.com/facepp/v3/compare",
        2 * 2**20,
        1.0,
        _facepp,
        _facepp_answer,
        _facepp_fault,
        {
            "AUTHENTICATION_ERROR": _KEY,
            "AUTHORIZATION_ERROR": _KEY,
            "CONCURRENCY_LIMIT_EXCEEDED": _BUSY,
            "INVALID_IMAGE_SIZE": _LARGE,
            "IMAGE_FILE_TOO_LARGE": _LARGE,
            "IMAGE_ERROR_UNSUPPORTED_FORMAT": _FORMAT,
        },
    ),
    "aliyun": Provider(
        "aliyun",
        "Alibaba Cloud CompareFace",
        ("ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET"),
        "https://facebody.cn-shanghai.aliyuncs.com/",
        3 * 2**20,
        0.5,
        _aliyun,
        _aliyun_answer,
        _aliyun_fault,
        {
            "InvalidAccessKeyId": _KEY,
            "SignatureDoesNotMatch": _KEY,
            "Throttling": _BUSY,
            "InvalidImage.NotFoundFace": NO_FACE,
            "InvalidFile.Content": _FORMAT,
            "InvalidImage.Size": _LARGE,
        },
    ),
    "rekognition": Provider(
        "rekognition",
        "Amazon Rekognition CompareFaces",
        ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        "https://rekognition.{place}.amazonaws.com/",
        5 * 2**20,
        0.2,
        _rekognition,
        _rekognition_answer,
        _rekognition_fault,
        {
            "UnrecognizedClientException": _KEY,
            "InvalidSignatureException": _KEY,
            "AccessDeniedException": "The key may not use CompareFaces.",
            "Throttling": _BUSY,
            "ProvisionedThroughputExceeded": _BUSY,
            "ImageTooLargeException": _LARGE,
            "InvalidImageFormatException": _FORMAT,
            "InvalidParameterException": NO_FACE,
        },
        place=("AWS_REGION", "us-east-1"),
    ),
}
"""By the name that the command takes."""

"""Signatures that the services ask for: Alibaba Cloud's RPC signature 1.0, and Amazon's Signature Version 4."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime
from urllib.parse import quote, urlencode, urlsplit


def aliyun_form(
    values: Mapping[str, str], keys: tuple[str, str], now: datetime, nonce: str
) -> bytes:
    """A form body with common parameters and its HMAC-SHA1 over the sorted parameters of a POST."""
    all_values = {
        **values,
        "AccessKeyId": keys[0],
        "Format": "JSON",
        "SignatureMethod": "HMAC-SHA1",
        "SignatureNonce": nonce,
        "SignatureVersion": "1.0",
        "Timestamp": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    query = "&".join(f"{_escaped(k)}={_escaped(v)}" for k, v in sorted(all_values.items()))
    text = f"POST&{_escaped('/')}&{_escaped(query)}"
    digest = hmac.new(f"{keys[1]}&".encode(), text.encode(), hashlib.sha1).digest()
    return urlencode({**all_values, "Signature": base64.b64encode(digest).decode()}).encode()


def aws_headers(
    url: str,
    body: bytes,
    keys: tuple[str, str],
    region: str,
    service: str,
    target: str,
    now: datetime,
) -> dict[str, str]:
    """Headers of a signed POST of JSON."""
    host = urlsplit(url).netloc
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    signed = {
        "content-type": "application/x-amz-json-1.1",
        "host": host,
        "x-amz-date": stamp,
        "x-amz-target": target,
    }
    names = ";".join(signed)
    lines = "".join(f"{name}:{value}\n" for name, value in signed.items())
    canonical = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{day}/{region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{keys[1]}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    authorization = f"AWS4-HMAC-SHA256 Credential={keys[0]}/{scope}, SignedHeaders={names}, Signature={signature}"
    return {**signed, "authorization": authorization}


def _escaped(text: str) -> str:
    return quote(text, safe="-_.~")

"""The signatures of webhooks, as standardwebhooks.com has them: HMAC-SHA256 over id, time and body.

A tenant's secret follows from the deployment's key, so it is stored nowhere. While a key is being changed there are
two, and a delivery has a signature of each.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Sequence

LEAST_CHARACTERS = 24
PREFIX = "whsec_"


def checked_keys(text: str) -> str:
    """The setting itself. Raises ValueError, which does not repeat it."""
    keys = text.split()
    if not keys or any(len(key) < LEAST_CHARACTERS for key in keys):
        raise ValueError(
            f"one key, or a new one and after it the old one, each of at least {LEAST_CHARACTERS} characters, wanted; "
            "`openssl rand -hex 32` makes one"
        )
    return text


def secrets_of(keys: str, tenant: str) -> tuple[str, ...]:
    """The signing secrets of a tenant, one for each key, that of the newest first."""
    return tuple(PREFIX + base64.b64encode(_secret(key, tenant)).decode() for key in keys.split())


def _secret(key: str, tenant: str) -> bytes:
    return hmac.new(key.encode(), f"webhooks of {tenant}".encode(), hashlib.sha256).digest()


def signed_headers(secrets: Sequence[str], delivery_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a delivery. `timestamp`: seconds since 1970, of this attempt."""
    signed = f"{delivery_id}.{timestamp}.".encode() + body
    signatures = (
        hmac.new(base64.b64decode(secret.removeprefix(PREFIX)), signed, hashlib.sha256).digest() for secret in secrets
    )
    return {
        "webhook-id": delivery_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(f"v1,{base64.b64encode(one).decode()}" for one in signatures),
    }

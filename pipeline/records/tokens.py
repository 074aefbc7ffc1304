"""Tokens of the HTTP API: who may ask it, for which tenant, and for what. Stored is a digest, never the token."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from pipeline.schema import Versioned
from pipeline.stored import Moment

SCHEMA_VERSION = 1

EVERY_TENANT = "*"
_SIGN_IN = re.compile(r"([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_TOKEN = re.compile(r"tess_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


class Scope(StrEnum):
    """What a token may be used for."""

    READ = "read"  # see batches, images, schedules
    SUBMIT = "submit"  # submit, and change one's own: cancel, pause, retry, schedules
    ADMIN = "admin"  # everything, also what cannot be undone and what concerns workers


class TokenRecord(Versioned):
    """What is kept of a token. `tenant` is EVERY_TENANT for an operator's."""

    model_config = ConfigDict(extra="allow")

    schema_version: int = SCHEMA_VERSION
    id: str
    digest: str = Field(description="SHA-256 of the secret part, which has 256 random bits.")
    tenant: str
    scopes: tuple[Scope, ...]
    created_at: Moment
    expires_at: Moment | None = None
    note: str = Field("", max_length=200, description="Whose it is, or what it is for.")

    def matches(self, secret: str) -> bool:
        """Whether this is the secret part of the token."""
        return hmac.compare_digest(self.digest, _digest(secret))

    def expired(self, at: datetime) -> bool:
        """Whether it counts no more."""
        return self.expires_at is not None and at >= self.expires_at


class NewToken(BaseModel):
    """A token that was just made: the only moment at which its text is known."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    text: str = Field(repr=False)
    record: TokenRecord


def new_token(
    tenant: str, scopes: tuple[Scope, ...], at: datetime, *, expires_at: datetime | None, note: str = ""
) -> NewToken:
    """A token for this tenant; `at` is now."""
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    record = TokenRecord(
        id=token_id,
        digest=_digest(secret),
        tenant=tenant,
        scopes=scopes,
        created_at=at,
        expires_at=expires_at,
        note=note,
    )
    return NewToken(text=f"tess_{token_id}_{secret}", record=record)


class SignIn(Versioned):
    """What is kept of a link that begins a session once: whose, and the SHA-256 of its secret."""

    schema_version: int = SCHEMA_VERSION
    digest: str
    tenant: str
    scopes: tuple[Scope, ...]

    def matches(self, secret: str) -> bool:
        """Whether this is the secret part of the link."""
        return hmac.compare_digest(self.digest, _digest(secret))


def new_sign_in(tenant: str, scopes: tuple[Scope, ...]) -> tuple[str, str, SignIn]:
    """The id of a link, the text that stands behind its #, and what is kept of it."""
    sign_in_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    return sign_in_id, f"{sign_in_id}_{secret}", SignIn(digest=_digest(secret), tenant=tenant, scopes=scopes)


def parsed_sign_in(text: str) -> tuple[str, str] | None:
    """The id and the secret of a link; None if this is none."""
    found = _SIGN_IN.fullmatch(text)
    return (found[1], found[2]) if found else None


def parsed_token(text: str) -> tuple[str, str] | None:
    """The id and the secret of a token; None if this is none."""
    found = _TOKEN.fullmatch(text)
    return (found[1], found[2]) if found else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

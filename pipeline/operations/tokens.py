"""Make, list and revoke tokens of the HTTP API. Needs the rights of the controller's Redis user."""

from __future__ import annotations

from datetime import timedelta

from pipeline.errors import RecordUnreadable, RequestError
from pipeline.ledger import Ledger
from pipeline.names import checked_id
from pipeline.operations.status import Unreadable
from pipeline.records.tokens import (
    EVERY_TENANT,
    NewToken,
    Scope,
    TokenRecord,
    new_sign_in,
    new_token,
    parsed_sign_in,
)

_NOTE_CHARACTERS = 200


def create_token(
    ledger: Ledger, tenant: str, scopes: tuple[Scope, ...], *, life: timedelta | None, note: str = ""
) -> NewToken:
    """Make a token; a `life` of None never ends. Raises RequestError."""
    if tenant != EVERY_TENANT:
        checked_id(tenant, "tenant")
    if len(note) > _NOTE_CHARACTERS or not note.isprintable():
        raise RequestError(f"note {note[:60]!r}...: a printable text of at most {_NOTE_CHARACTERS} characters wanted")
    now = ledger.now()
    made = new_token(tenant, scopes, now, expires_at=None if life is None else now + life, note=note)
    ledger.tokens.put(made.record)
    return made


def create_sign_in(ledger: Ledger, tenant: str, scopes: tuple[Scope, ...], *, life: timedelta) -> str:
    """What stands behind the # of a link that begins one session in a browser, within `life`."""
    sign_in_id, text, record = new_sign_in(tenant, scopes)
    ledger.tokens.put_sign_in(sign_in_id, record, life)
    return text


def use_sign_in(ledger: Ledger, text: str, *, life: timedelta) -> NewToken | None:
    """A token for the session that this link begins, for `life`; None if it does not work, or has worked before."""
    parsed = parsed_sign_in(text)
    found = ledger.tokens.take_sign_in(parsed[0]) if parsed else None
    if parsed is None or found is None or not found.matches(parsed[1]):
        return None
    return create_token(ledger, found.tenant, found.scopes, life=life, note="a browser, by the link of `tessera up`")


def list_tokens(ledger: Ledger) -> list[TokenRecord | Unreadable]:
    """All tokens, in the order of their making, expired ones included; those that cannot be read come last."""
    each = ledger.tokens.each()
    return [Unreadable.of(name, one) if isinstance(one, RecordUnreadable) else one for name, one in each]


def revoke_token(ledger: Ledger, token_id: str) -> None:
    """End a token at once. Raises RequestError if there is none."""
    if not ledger.tokens.revoke(token_id):
        raise RequestError(f"no token {token_id[:80]!r}: `tessera token list` shows the ones there are")

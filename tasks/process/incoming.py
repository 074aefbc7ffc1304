"""What comes out of a queue: a hint, or a message of somebody else's making.

Celery believes an envelope's headers: a body in another encoding, a time in the year 9999 or a callback would end the
worker, occupy it or be obeyed; what cannot be decoded ends the consumer before any task of ours is reached. So nothing
that was received goes on: task and id are read here, and the envelope that Celery sees is made anew of these two.
Whatever is no hint costs itself: it is counted, logged in a line and kept as a dead letter.
"""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from pydantic import Field

from pipeline.deployment.broker import (
    CANCEL,
    EXPAND,
    FINALIZE,
    FIRE,
    PURGE,
    RECONCILE,
    RENDER,
    REOPEN,
    TICK,
    VERIFY_LEDGER,
)
from pipeline.errors import RecordUnreadable, RequestError, ServiceError
from pipeline.ledger.dead_letters import DeadLetters, Malformed
from pipeline.names import checked_batch_id
from pipeline.records.schedules.schedule import checked_name
from pipeline.schema import read_record
from pipeline.stored import Moment, Record
from tasks.process.metrics import Metrics

log = structlog.get_logger(__name__)

# A hint of ours has less than 1 KB.
MOST_BYTES = 64 * 1024

_BATCH, _SCHEDULE = (checked_batch_id,), (checked_name,)
# What each task is given.
_ARGUMENTS: Mapping[str, tuple[Callable[[str], str], ...]] = {
    EXPAND: _BATCH,
    REOPEN: _BATCH,
    CANCEL: _BATCH,
    FINALIZE: _BATCH,
    PURGE: _BATCH,
    RECONCILE: _BATCH,
    FIRE: _SCHEDULE,
    TICK: (),
    VERIFY_LEDGER: (),
    RENDER: (),
}


@dataclass(frozen=True)
class _Refused(Exception):
    reason: Malformed
    found: str


class _Headers(Record):
    task: str = Field(min_length=1, max_length=200)
    id: str = Field(min_length=1, max_length=200)
    expires: Moment | None = None


class _Properties(Record):
    body_encoding: Literal["base64"]
    delivery_tag: str = Field(min_length=1, max_length=200)


class _Envelope(Record):
    body: str
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: Literal["utf-8"] = Field(alias="content-encoding")
    headers: _Headers
    properties: _Properties


class Incoming:
    """The border between a queue and this process."""

    def __init__(self, dead_letters: DeadLetters, metrics: Metrics) -> None:
        self._dead_letters, self._metrics = dead_letters, metrics

    def hint(self, raw: bytes, queue: str) -> bytes | None:
        """The envelope of a hint, made anew; None if it is none, which is then seen to."""
        try:
            return _renewed(*_read(raw), queue)
        except _Refused as refused:
            self.refuse(refused.reason, refused.found, raw, queue)
        except Exception as error:  # our own program failed over it: it would end the worker, and the next one
            log.exception("a message could not be looked at", queue=queue)
            self.refuse(Malformed.NO_ENVELOPE, f"our own program failed: {type(error).__name__}", raw, queue)
        return None

    def clear_queue(self, keys: list[str]) -> None:
        """Remove what stands in a queue's place and is no list. Raises LedgerUnavailable."""
        for key in keys:
            if self._dead_letters.discard_unless_list(key):
                self.refuse(Malformed.NO_QUEUE, "a key of another type than a list", b"", key)

    def refuse(self, reason: Malformed, found: str, raw: bytes, queue: str) -> None:
        """Count a message that is no hint, log it, and keep it as a dead letter."""
        self._metrics.count_dead_letter(reason)
        log.warning(
            "a message is no hint and was taken out of its queue",
            queue=queue,
            reason=reason.value,
            found=found,
            size_bytes=len(raw),
        )
        try:
            self._dead_letters.add(queue, reason, found, raw)
        except ServiceError as error:
            log.warning("a dead letter could not be kept", reason=str(error))


def _read(raw: bytes) -> tuple[_Headers, list[str]]:
    if len(raw) > MOST_BYTES:
        raise _Refused(Malformed.TOO_LARGE, f"{len(raw):,} bytes; at most {MOST_BYTES:,} wanted")
    try:
        envelope = read_record(_Envelope, raw, what="message")
    except RecordUnreadable as error:
        raise _Refused(Malformed.NO_ENVELOPE, str(error.found)) from None
    task = envelope.headers.task
    if task not in _ARGUMENTS:
        raise _Refused(Malformed.UNKNOWN_TASK, f"task {task[:80]!r}")
    return envelope.headers, _arguments(task, _given(task, envelope.body))


def _given(task: str, body: str) -> list[Any]:
    """The arguments in a body: a list of them, keyword arguments, and what is to be done with the result."""
    try:
        parts = json.loads(base64.b64decode(body, validate=True))
    except (ValueError, RecursionError):
        raise _Refused(Malformed.BODY, f"{task}: no JSON in base64") from None
    if not isinstance(parts, list) or len(parts) != 3 or not isinstance(parts[0], list):
        raise _Refused(Malformed.BODY, f"{task}: JSON of another form than [arguments, keywords, options]")
    return parts[0]


def _arguments(task: str, given: list[Any]) -> list[str]:
    """What the task takes; what a newer version sends with it is in the ledger, too."""
    checks = _ARGUMENTS[task]
    if len(given) < len(checks):
        raise _Refused(Malformed.ARGUMENTS, f"{task} with {len(given)} arguments; {len(checks)} wanted")
    try:
        return [check(_text(argument)) for check, argument in zip(checks, given, strict=False)]
    except RequestError as error:
        raise _Refused(Malformed.ARGUMENTS, f"{task}: {error}") from None


def _text(argument: object) -> str:
    if not isinstance(argument, str):
        raise RequestError(f"an argument of type {type(argument).__name__} found; a name wanted")
    return argument


def _renewed(headers: _Headers, arguments: list[str], queue: str) -> bytes:
    """A message of Celery's protocol 2 (https://docs.celeryq.dev/en/stable/internals/protocol.html)."""
    own_id = str(uuid.uuid4())
    nothing = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps([arguments, {}, nothing]).encode()).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {
                "lang": "py",
                "task": headers.task,
                "id": own_id,
                "root_id": own_id,
                "expires": headers.expires.isoformat() if headers.expires else None,
                "ignore_result": True,
            },
            "properties": {
                "correlation_id": own_id,
                "delivery_mode": 2,
                "delivery_info": {"exchange": "", "routing_key": queue},
                "priority": 0,
                "body_encoding": "base64",
                "delivery_tag": str(uuid.uuid4()),
            },
        }
    ).encode()

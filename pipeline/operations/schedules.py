"""Change schedules: first in S3, where a schedule outlives an emptied Redis, then in the ledger."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pipeline.bucket.artifacts import Artifacts
from pipeline.errors import RequestError, StaleWrite, UnknownSchedule
from pipeline.ledger import Ledger
from pipeline.promptset.source import kind_of
from pipeline.records.schedules.schedule import (
    Run,
    ScheduleRecord,
    ScheduleSpec,
    changed,
    checked_name,
    firing_id,
    new_record,
)
from pipeline.records.schedules.schedule_keys import ScheduleObjects


def add(
    ledger: Ledger,
    artifacts: Artifacts,
    name: str,
    spec: ScheduleSpec,
    *,
    update: bool = False,
    paused: bool = False,
    declared: bool = False,
) -> tuple[ScheduleRecord, bool]:
    """A schedule of that name and spec, and whether it is another than before. It fires from now on.

    Adding the same again changes nothing. Raises RequestError if another is there and `update` does not allow to change
    it, or if the deployment's settings say it.
    """
    try:
        kind_of(spec.prompts)
    except RequestError as error:
        raise RequestError(
            f"{spec.prompts[:200]!r} found; a key that ends in .jsonl, .ndjson, .csv, .tsv or .txt, with .gz or .zst "
            "or without, wanted: its name says what it is"
        ) from error
    while True:
        record = ledger.schedules.get(checked_name(name))
        if record is None:
            record = new_record(name, spec, ledger.now(), paused=paused, declared=declared)
            _save(artifacts, record)
            if ledger.schedules.create(record):
                return record, True
            continue
        if record.declared != declared:
            raise RequestError(
                _declared(name, "changed")
                if record.declared
                else f"schedule {name!r} of the settings was added by hand before; remove it with `tessera schedule "
                f"remove {name}`, or name the one of the settings otherwise"
            )
        pauses = update and paused and not record.paused
        if record.spec == spec and not pauses:
            return record, False
        if not update:
            raise RequestError(
                f"schedule {name!r} exists with other values ({_differing(record.spec, spec)}); change it with "
                "--update, or choose another name"
            )
        now = ledger.now()
        paused_now = paused or record.paused
        if _written(ledger, artifacts, changed(record, at=now, spec=spec, cursor=now, paused=paused_now)):
            return ledger.schedules.get(name) or record, True


def pause(ledger: Ledger, artifacts: Artifacts, name: str) -> ScheduleRecord:
    """Let it fire no more; what runs goes on. Raises UnknownSchedule."""
    return _change(ledger, artifacts, name, lambda _now: {"paused": True})


def resume(ledger: Ledger, artifacts: Artifacts, name: str) -> ScheduleRecord:
    """Let it fire again from now on: what was due while it was paused is not made up for. Raises UnknownSchedule."""
    return _change(
        ledger, artifacts, name, lambda now: {"paused": False, "cursor": now}, unless=lambda record: not record.paused
    )


def run_now(ledger: Ledger, name: str, *, everything: bool = False) -> str:
    """Let it fire once, now, also while it is paused; returns the id that its batch will have.

    `everything` also renders rows that are not new. Raises UnknownSchedule.
    """
    token = secrets.token_hex(3)
    while True:
        record = _known(ledger, name)
        run = Run(token=token, asked_at=ledger.now(), everything=everything)
        try:
            ledger.schedules.write(changed(record, at=run.asked_at, runs=(*record.runs, run)))
        except StaleWrite:
            continue
        return firing_id(name, run.asked_at, token)


def remove(ledger: Ledger, artifacts: Artifacts, name: str, *, declared: bool = False) -> None:
    """Remove a schedule and its history; its batches stay, and what runs goes on.

    Raises UnknownSchedule, or RequestError if the deployment's settings say it.
    """
    record = _known(ledger, name)
    if record.declared and not declared:
        raise RequestError(_declared(name, "removed"))
    objects = ScheduleObjects(name)
    artifacts.delete(objects.record)  # first: what is not there cannot be found again
    ledger.schedules.remove(name)
    for key in list(artifacts.list(objects.root)):
        artifacts.delete(key)


def _change(
    ledger: Ledger,
    artifacts: Artifacts,
    name: str,
    changes: Callable[[datetime], Mapping[str, Any]],
    *,
    unless: Callable[[ScheduleRecord], bool] = lambda record: record.paused,
) -> ScheduleRecord:
    while True:
        record = _known(ledger, name)
        if unless(record):
            return record
        now = ledger.now()
        after = changed(record, at=now, **changes(now))
        if _written(ledger, artifacts, after):
            return after


def _known(ledger: Ledger, name: str) -> ScheduleRecord:
    record = ledger.schedules.get(name)
    if record is None:
        raise UnknownSchedule(name)
    return record


def _written(ledger: Ledger, artifacts: Artifacts, record: ScheduleRecord) -> bool:
    _save(artifacts, record)
    try:
        ledger.schedules.write(record)
    except StaleWrite:
        return False  # it fired, or somebody else changed it: look again
    return True


def _save(artifacts: Artifacts, record: ScheduleRecord) -> None:
    body = record.model_dump_json().encode()
    artifacts.put(ScheduleObjects(record.name).record, body, content_type="application/json")


def _declared(name: str, done: str) -> str:
    return (
        f"schedule {name!r} is one of the deployment's settings and is {done} there (schedules of the chart's values, "
        "TESSERA_SCHEDULES); here it can be paused, resumed and run"
    )


def _differing(before: ScheduleSpec, after: ScheduleSpec) -> str:
    names = [name for name in ScheduleSpec.model_fields if getattr(before, name) != getattr(after, name)]
    return ", ".join(names)

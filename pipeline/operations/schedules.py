"""Change schedules: first in S3, where a schedule survives the loss of Redis, then in the ledger."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.tenants import check_prompt_bucket
from pipeline.errors import NoDeployment, RecordUnreadable, RequestError, StaleWrite, UnknownSchedule
from pipeline.ledger import Ledger
from pipeline.ledger.update import update as update_record
from pipeline.promptset.formats.source import kind_of, suffixes
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

log = structlog.get_logger(__name__)


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
    """Add a schedule, which fires from now on; returns it, and whether that changed anything.

    Adding the same again changes nothing. Raises RequestError if one of this name has other values and `update` is
    False, or if it is one of the deployment's settings.
    """
    try:
        kind_of(spec.prompts)
    except RequestError as error:
        raise RequestError(
            f"{spec.prompts[:200]!r} found; a key that ends in {', '.join(suffixes())}, with .gz or .zst or without, "
            "wanted: its name says what it is"
        ) from error

    if not declared:
        _check_bucket(ledger, artifacts, spec)

    def change(record: ScheduleRecord | None) -> ScheduleRecord | None:
        now = ledger.now()
        if record is None:
            return new_record(name, spec, now, paused=paused, declared=declared)
        _check_owner(record, declared=declared)
        pauses = update and paused and not record.paused
        if record.spec == spec and not pauses:
            return None
        if not update:
            raise RequestError(
                f"schedule {name!r} exists with other values ({_differing(record.spec, spec)}); change it with "
                "--update, or choose another name"
            )
        return changed(record, at=now, spec=spec, cursor=now, paused=paused or record.paused)

    checked_name(name)
    updated = update_record(lambda: ledger.schedules.get(name), change, partial(_write, ledger, artifacts))
    return _there(name, updated.record), updated.written


def pause(ledger: Ledger, artifacts: Artifacts, name: str) -> ScheduleRecord:
    """Pause a schedule; batches that are running go on. Raises UnknownSchedule."""
    return _change(ledger, artifacts, name, lambda _now: {"paused": True})


def resume(ledger: Ledger, artifacts: Artifacts, name: str) -> ScheduleRecord:
    """Let it fire again from now on; firings missed while it was paused stay missed. Raises UnknownSchedule."""
    return _change(
        ledger, artifacts, name, lambda now: {"paused": False, "cursor": now}, unless=lambda record: not record.paused
    )


def run_now(ledger: Ledger, name: str, *, everything: bool = False) -> str:
    """Fire a schedule once now, even if it is paused; returns the id that the batch will have.

    `everything` also renders rows that are not new. Raises UnknownSchedule.
    """
    token = secrets.token_hex(3)

    def change(record: ScheduleRecord) -> ScheduleRecord:
        run = Run(token=token, asked_at=ledger.now(), everything=everything)
        return changed(record, at=run.asked_at, runs=(*record.runs, run))

    record = update_record(lambda: _known(ledger, name), change, ledger.schedules.write).record
    return firing_id(name, record.runs[-1].asked_at, token)


def remove(ledger: Ledger, artifacts: Artifacts, name: str, *, declared: bool = False) -> None:
    """Remove a schedule and its history, whatever can be read of it; its batches stay, and running ones go on.

    Raises UnknownSchedule, or RequestError if it is one of the deployment's settings.
    """
    objects = ScheduleObjects(checked_name(name))
    try:
        record = ledger.schedules.get(name)
    except RecordUnreadable as error:
        log.warning("a schedule that cannot be read is removed", schedule=name, reason=str(error))
    else:
        if record is None and artifacts.head(objects.record) is None:
            raise UnknownSchedule(name)
        if record is not None and record.declared and not declared:
            raise RequestError(_declared(name, "removed"))
    artifacts.delete(objects.record)  # first, so that nobody recovers it from there
    ledger.schedules.remove(name)
    for key in list(artifacts.list(objects.root)):
        artifacts.delete(key)


def _check_bucket(ledger: Ledger, artifacts: Artifacts, spec: ScheduleSpec) -> None:
    """Refuse here what the controller would refuse at each firing, if it has said which buckets it allows."""
    try:
        deployment = ledger.deployment()
    except NoDeployment:
        return
    if deployment.prompt_buckets is not None:
        check_prompt_bucket(
            spec.prompts,
            spec.tenant,
            own=artifacts.bucket,
            others=deployment.prompt_buckets,
            tenants=deployment.tenants,
        )


def _change(
    ledger: Ledger,
    artifacts: Artifacts,
    name: str,
    changes: Callable[[datetime], Mapping[str, Any]],
    *,
    unless: Callable[[ScheduleRecord], bool] = lambda record: record.paused,
) -> ScheduleRecord:

    def change(record: ScheduleRecord) -> ScheduleRecord | None:
        if unless(record):
            return None
        now = ledger.now()
        return changed(record, at=now, **changes(now))

    return update_record(lambda: _known(ledger, name), change, partial(_write, ledger, artifacts)).record


def _known(ledger: Ledger, name: str) -> ScheduleRecord:
    return _there(name, ledger.schedules.get(name))


def _there(name: str, record: ScheduleRecord | None) -> ScheduleRecord:
    if record is None:
        raise UnknownSchedule(name)
    return record


def _check_owner(record: ScheduleRecord, *, declared: bool) -> None:
    """Raise RequestError if a user changes a schedule of the settings, or the other way round."""
    if record.declared and not declared:
        raise RequestError(_declared(record.name, "changed"))
    if declared and not record.declared:
        raise RequestError(
            f"schedule {record.name!r} of the settings was added by hand before; remove it with `tessera schedule "
            f"remove {record.name}`, or name the one of the settings otherwise"
        )


def _write(ledger: Ledger, artifacts: Artifacts, record: ScheduleRecord) -> None:
    """Write a record, new or changed, to the bucket and then to the ledger. Raises StaleWrite.

    What the ledger refuses does not stay in the bucket, from where it would come back should Redis be lost.
    """
    _save(artifacts, record)
    try:
        _write_to_ledger(ledger, record)
    except StaleWrite:
        _save_standing(ledger, artifacts, record.name)
        raise


def _write_to_ledger(ledger: Ledger, record: ScheduleRecord) -> None:
    if record.revision > 1:
        ledger.schedules.write(record)
    elif not ledger.schedules.create(record):
        raise StaleWrite(f"schedule {record.name} was added by somebody else meanwhile")


def _save_standing(ledger: Ledger, artifacts: Artifacts, name: str) -> None:
    """Make the bucket's copy that of the ledger, also if others change the schedule meanwhile."""
    saved = None
    while (standing := ledger.schedules.get(name)) is not None and standing.revision != saved:
        _save(artifacts, standing)
        saved = standing.revision
    if standing is None:
        artifacts.delete(ScheduleObjects(name).record)


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

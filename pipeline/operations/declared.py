"""Schedules in the deployment's settings: only the settings change them; people may pause and run them."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import JobSettings
from pipeline.errors import RecordUnreadable, RequestError, SettingsError
from pipeline.ledger import Ledger
from pipeline.operations.schedules import add, remove
from pipeline.records.schedules.schedule import ScheduleSpec, checked_name, checked_spec

log = structlog.get_logger(__name__)


def declared_schedules(settings: JobSettings) -> dict[str, ScheduleSpec]:
    """The schedules of the settings. Raises SettingsError naming each that cannot be used."""
    specs, problems = {}, []
    for name, values in settings.schedules.items():
        try:
            specs[checked_name(name)] = checked_spec(values)
        except RequestError as error:
            problems.append(f"  TESSERA_SCHEDULES: {name}: {error}")
    if problems:
        raise SettingsError("settings cannot be used:\n" + "\n".join(problems))
    return specs


def declare(ledger: Ledger, artifacts: Artifacts, specs: Mapping[str, ScheduleSpec]) -> None:
    """Add, change and remove schedules until those of the settings are exactly these; paused ones stay paused."""
    for name, spec in specs.items():
        try:
            _record, news = add(ledger, artifacts, name, spec, update=True, declared=True)
        except (RequestError, RecordUnreadable) as error:  # a user's has this name, the prompt set's kind is not clear
            log.error("a schedule of the settings is not used", schedule=name, reason=str(error))
        else:
            log.info("schedule of the settings", schedule=name, changed=news)
    for entry in ledger.schedules.each():
        if isinstance(entry.record, RecordUnreadable):
            log.error("a schedule is left alone", schedule=entry.name, reason=str(entry.record))
        elif entry.record.declared and entry.name not in specs:
            remove(ledger, artifacts, entry.name, declared=True)
            log.info("removed a schedule that is no longer in the settings", schedule=entry.name)

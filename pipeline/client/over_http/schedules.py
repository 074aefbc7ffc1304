"""Schedules over HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack
from urllib.parse import quote

from pipeline.client.remote.connection import RemoteConnection
from pipeline.client.schedules import FiringStatus, ScheduleFields, Schedules, ScheduleStatus
from pipeline.operations.status import Unreadable
from pipeline.records.schedules.schedule import Firing, ScheduleRecord, checked_name, checked_spec
from pipeline.states import BatchState


class RemoteSchedules(Schedules):
    """The schedules of a deployment that the token's tenant may see."""

    def __init__(self, connection: RemoteConnection) -> None:
        self._api = connection.api

    def _ask(self, method: str, name: str, what: str = "", **more: Any) -> Any:
        return self._api.ask(method, f"/api/schedules/{quote(checked_name(name), safe='')}{what}", **more)

    def add(
        self,
        name: str,
        *,
        update: bool = False,
        paused: bool = False,
        missing_ok: bool = False,  # the service looks
        **fields: Unpack[ScheduleFields],
    ) -> ScheduleStatus:
        """Add a schedule, which fires from now on. `prompts` may be the id of an uploaded file."""
        spec = checked_spec(fields).model_dump(mode="json", exclude_unset=True)
        return _status(self._ask("PUT", name, body={"spec": spec, "update": update, "paused": paused}))

    def get(self, name: str) -> ScheduleStatus:
        """Its status. Raises UnknownSchedule."""
        return _status(self._ask("GET", name))

    def pause(self, name: str) -> ScheduleStatus:
        """Pause it."""
        return _status(self._ask("POST", name, "/pause"))

    def resume(self, name: str) -> ScheduleStatus:
        """Resume it."""
        return _status(self._ask("POST", name, "/resume"))

    def run_now(self, name: str, *, everything: bool = False) -> str:
        """Fire it once, now; returns the id that its batch will have."""
        return str(self._ask("POST", name, "/run", query={"everything": "true" if everything else None})["batch"])

    def remove(self, name: str) -> None:
        """Remove it and its history."""
        self._ask("DELETE", name)

    def history(self, name: str, limit: int = 20) -> Sequence[FiringStatus]:
        """Its last firings, newest first."""
        return [_firing(one) for one in self._ask("GET", name, "/history", query={"limit": limit})["data"]]

    def list(self) -> Sequence[ScheduleStatus | Unreadable]:
        """All that the token's tenant may see, by name."""
        found = self._api.ask("GET", "/api/schedules")["data"]
        return [Unreadable(one["id"], one["reason"]) if "cron" not in one else _status(one) for one in found]


def _status(found: Mapping[str, Any]) -> ScheduleStatus:
    return ScheduleStatus(
        ScheduleRecord.model_validate(found["record"]),
        tuple(found["running"]),
        _firing(found["last"]) if found["last"] else None,
    )


def _firing(found: Mapping[str, Any]) -> FiringStatus:
    firing = {name: value for name, value in found.items() if name in Firing.model_fields}
    state = found["batch_state"]
    return FiringStatus(Firing.model_validate(firing), BatchState(state) if state else None)

"""Which rows of a schedule are new at a firing: those that the last one did not have, or did not render."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from pipeline.bucket.artifacts import Artifacts
from pipeline.promptset.row import ResolvedRow
from pipeline.records.schedules.due import Turn
from pipeline.records.schedules.row_digests import NewRows
from pipeline.records.schedules.schedule import ScheduleRecord
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from tasks.control.unfinished_rows import is_unfinished, unfinished_rows
from tasks.process.context import Context


@dataclass(frozen=True)
class NewRowsFilter:
    """Chooses the rows that are new, and stores the digests of all rows for the next firing."""

    rows: NewRows
    artifacts: Artifacts
    key: str

    def wants(self, row: ResolvedRow) -> bool:
        return self.rows.wants(row)

    def finish(self) -> None:
        self.artifacts.put(self.key, self.rows.packed(), content_type="application/octet-stream")


def new_rows_filter(context: Context, record: ScheduleRecord, turn: Turn, replaced: tuple[str, ...]) -> NewRowsFilter:
    """The filter of one firing; rows that a batch before it left unfinished, and `replaced` ones, are new again."""
    key = ScheduleObjects(record.name).rows(turn.id, secrets.token_hex(4))
    if record.rows_key is None or (turn.run is not None and turn.run.everything):
        return NewRowsFilter(NewRows(b"", frozenset()), context.artifacts, key)
    broken_off = [one for one in record.open if one in replaced or not is_unfinished(context, one)]
    again = {digest for batch_id in broken_off for digest in unfinished_rows(context, batch_id)}
    return NewRowsFilter(NewRows(context.artifacts.get(record.rows_key) or b"", again), context.artifacts, key)

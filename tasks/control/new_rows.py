"""Which rows of a schedule are new at a firing: those that the last one did not have, or did not render."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pipeline.bucket.artifacts import Artifacts, sha256
from pipeline.errors import RecordUnreadable, RequestError, StoreUnavailable
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.records.schedules.due import Turn
from pipeline.records.schedules.row_digests import NewRows, checked_digests
from pipeline.records.schedules.schedule import ScheduleRecord
from pipeline.records.schedules.schedule_keys import ScheduleObjects
from tasks.control.unfinished_rows import is_unfinished, unfinished_rows
from tasks.process.context import Context

# How long a bucket may take to show what was put: longer than any cache was seen to.
LATE_READS = timedelta(minutes=5)


@dataclass
class NewRowsFilter:
    """Chooses the rows that are new, and stores the digests of all rows for the next firing.

    Attributes:
        key: where these lie, once they are stored.
    """

    rows: NewRows
    artifacts: Artifacts
    turn: Turn
    key: str | None = None

    def wants(self, row: ResolvedRow) -> bool:
        return self.rows.wants(row)

    def finish(self) -> str:
        body = self.rows.packed()
        self.key = ScheduleObjects(self.turn.schedule).rows(self.turn.id, sha256(body))
        self.artifacts.put(self.key, body, content_type="application/octet-stream")
        return self.key


def new_rows_filter(context: Context, record: ScheduleRecord, turn: Turn, replaced: tuple[str, ...]) -> NewRowsFilter:
    """The filter of one firing; rows that a batch before it left unfinished, and `replaced` ones, are new again."""
    if record.rows_key is None or (turn.run is not None and turn.run.everything):
        return NewRowsFilter(NewRows(b"", frozenset()), context.artifacts, turn)
    broken_off = [one for one in record.open if one in replaced or not is_unfinished(context, one)]
    again = {digest for batch_id in broken_off for digest in unfinished_rows(context, batch_id)}
    return NewRowsFilter(NewRows(_digests(context, record.rows_key, turn), again), context.artifacts, turn)


def _digests(context: Context, key: str, turn: Turn) -> bytes:
    """The digests of the last firing's rows. Absent is not empty: taken for none, every row would be rendered again.

    Raises StoreUnavailable for a while if they are not there, then RequestError; RecordUnreadable if they are damaged.
    """
    anew = f"`tessera schedule run-now {turn.schedule} --all` renders all of them and begins anew"
    if (found := context.artifacts.get(key)) is not None:
        try:
            return checked_digests(found, key)
        except RecordUnreadable as error:
            message = f"{key} is damaged, so that nobody knows which rows are new; {anew}"
            raise RecordUnreadable(key, error.found, error.wanted, message) from error
    if context.ledger.now() - turn.fire_at < LATE_READS:
        raise StoreUnavailable(f"{key} is not in the bucket, or not yet; the firing waits for it")
    raise RequestError(f"{key} is gone from the bucket, so that nobody knows which rows are new; {anew}")

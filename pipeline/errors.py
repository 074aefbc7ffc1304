"""What can go wrong on the user's side, and what to do about it.

A little over 300 lines: every error has its place in one tree.

TesseraError
├── SettingsError          a setting is missing, misspelt or out of range
├── PromptSetError         rows of a prompt set that cannot be rendered as written; carries all of them
├── RequestError           a call that cannot be right (a bad batch id, a taken one, an option out of range)
│   ├── BatchExists        the id is taken by a batch with other rows
│   ├── UnknownBatch       no batch of that id
│   ├── UnknownSchedule    no schedule of that name
│   ├── UnknownFile        no uploaded file of that id
│   ├── UnknownWebhook     no webhook, or no delivery, of that id
│   └── NothingNew         no row of a prompt set is wanted
├── ServiceError           something outside is away or refuses us; nothing was lost, try again once it is mended
│   ├── LedgerUnavailable  Redis
│   ├── StoreUnavailable   the S3 endpoint
│   │   ├── ObjectGone     an object that must be there is not, or not yet; carries its key
│   │   └── StoreRefused   it answers, and will not do what was asked
│   │       └── ClockSkewed  the clock of this machine is too far from the store's
│   ├── AcceptanceUnknown  no answer came to the request that accepts a batch; carries its id
│   ├── OutOfTime          the time was up before a service had answered (see pipeline.process.deadline)
│   ├── RecordUnreadable   a stored record that this version cannot read: damaged, or another version's; it stays
│   │   ├── RecordForeign  it is a record of another kind
│   │   └── RecordTooNew   its schema version says that a later version wrote it
│   ├── BatchLost          a batch is accepted in the bucket and Redis does not know it: `tessera resume`
│   └── NoDeployment       Redis answers, but no controller has announced itself there
├── ConflictError          somebody else moved first; the caller reads again
│   ├── StaleWrite         the record's revision moved on
│   ├── LedgerBehind       the ledger lacks what was written before: Redis was restored from an older state
│   ├── LedgerInDoubt      Redis may be an older ledger than it was; it is compared with the bucket first
│   ├── LeaseLost          another worker holds the job now
│   ├── ClaimRefused       another pod, or another attempt, holds the job now
│   └── NameTaken          something else holds an attempt's name (see pipeline.records.attempt)
├── BadCheckpoint          a model's file or folder that cannot be rendered with; the message says why and what to do
├── FileRefused            a file is not written: its name is none of ours, or something else is in its place
├── DownloadIncomplete     some files of a batch could not be downloaded; all others are there
├── WaitTimeout            a batch was not finished in time; it goes on
├── ReplayFailed           an image could not be rendered again; the message says why
└── IllegalMove            a state change that the table of moves does not have

Messages name what was found, what was wanted and what to do. They never hold credentials or prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class TesseraError(Exception):
    """Base of all errors that Tessera raises on purpose."""


class SettingsError(TesseraError):
    """A setting is missing, misspelt or out of range; the message names its environment variable."""


class NoneConfigured(SettingsError):
    """Neither the environment nor a local stack names a deployment."""


class RequestError(TesseraError):
    """A call that cannot be right as it stands."""


class BatchExists(RequestError):
    """The batch id is taken by a batch with other rows."""


class LimitReached(RequestError):
    """The tenant has as much as it may have at a time."""


class UnknownBatch(RequestError):
    """No batch of that id is known here."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(f"no batch {batch_id!r}: `tessera list` shows the ones there are")


class UnknownSchedule(RequestError):
    """No schedule of that name is known here."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(f"no schedule {name!r}: `tessera schedule list` shows the ones there are")


class UnknownFile(RequestError):
    """No uploaded file of that id is known here."""

    def __init__(self, file_id: str) -> None:
        self.file_id = file_id
        super().__init__(f"no file {file_id[:80]!r}: `GET /v1/files` lists the ones there are")


class UnknownWebhook(RequestError):
    """No webhook or delivery of that id is known here."""


class NothingNew(RequestError):
    """Every row of the prompt set is left out, because none is new."""


@dataclass(frozen=True)
class RowError:
    """One thing wrong with one row; `line` counts from 1, `field` is None when the whole row is meant."""

    line: int
    field: str | None
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.message}" if self.field else f"line {self.line}: {self.message}"


@dataclass(frozen=True)
class RowWarning:
    """Something a user would want to know of rows that are valid all the same: the first such row, and how many."""

    line: int
    field: str | None
    message: str
    rows: int = 1

    def __str__(self) -> str:
        more = f" (and {self.rows - 1:,} more)" if self.rows > 1 else ""
        return f"line {self.line}{more}: " + (f"{self.field}: {self.message}" if self.field else self.message)


SHOWN_ERRORS = 50


class PromptSetError(TesseraError):
    """Rows that cannot be rendered as written: all of them, up to a cap, so that one pass mends the file.

    Its message has the first fifty.
    """

    def __init__(self, source: str, errors: Sequence[RowError], total: int) -> None:
        self.source, self.errors, self.total = source, tuple(errors), total
        first = self.errors[:SHOWN_ERRORS]
        shown = "\n".join(f"  {error}" for error in first)
        more = f"\n  and {total - len(first)} more" if total > len(first) else ""
        noun = "error" if total == 1 else "errors"
        super().__init__(f"{source}: {total} {noun}, nothing was submitted\n{shown}{more}")


class ServiceError(TesseraError):
    """Something outside is away or refuses us."""


class LedgerUnavailable(ServiceError):
    """Redis does not answer, or refuses us."""


class StoreUnavailable(ServiceError):
    """The S3 endpoint does not answer, or refuses us."""


class ObjectGone(StoreUnavailable):
    """An object that must be there is not, or not yet."""

    def __init__(self, key: str, where: str) -> None:
        self.key = key
        super().__init__(f"{key} is not in {where}, or not yet")


class StoreRefused(StoreUnavailable):
    """The S3 endpoint answers, and will not do what was asked; asking again changes nothing."""


class ClockSkewed(StoreRefused):
    """The clock of this machine is too far from the store's, so that it refuses what we sign."""

    def __init__(self, where: str, skew_s: float | None) -> None:
        self.skew_s = skew_s
        off = (
            "is off" if skew_s is None else f"is {abs(skew_s) / 60:,.0f} minutes {'ahead' if skew_s > 0 else 'behind'}"
        )
        super().__init__(
            f"S3 at {where} refuses what this machine signs, because its clock {off} (at most 15 minutes wanted): set "
            "the clock of this machine, or that of the store. The credentials may well be right"
        )


class BatchLost(ServiceError):
    """A batch is accepted in the bucket, and the ledger knows nothing of it."""

    def __init__(self, batch_id: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"batch {batch_id} is in the bucket and Redis does not know it (was it emptied?): run `tessera resume`. "
            "No picture is lost, and what runs goes on"
        )


class AcceptanceUnknown(ServiceError):
    """No answer came to the one request that accepts a batch."""

    def __init__(self, batch_id: str, reason: str) -> None:
        self.batch_id = batch_id
        super().__init__(
            f"whether batch {batch_id} was accepted is not known: {reason}. When S3 is back, "
            f"`tessera status {batch_id}` says whether it was; submitting the same rows under this batch id again "
            "changes nothing then"
        )


class RecordUnreadable(ServiceError):
    """A stored record that this version cannot read; it stays as it is, for one that can.

    Attributes:
        what: its key, its path or what it is called.
        found: what is wrong with it, without any of its values.
        wanted: the kind of record that was to be read; of a RecordTooNew, the newest version that can be.
    """

    def __init__(self, what: str, found: object, wanted: object, message: str | None = None) -> None:
        self.what, self.found, self.wanted = what, found, wanted
        super().__init__(
            message
            or f"{what} cannot be read by this version of Tessera: {found} found, {wanted} wanted. It was left as it is"
        )


class RecordForeign(RecordUnreadable):
    """A stored record of another kind than the one that was to be read."""


class RecordTooNew(RecordUnreadable):
    """A record of a newer version than this one can read; it stays as it is, for a version that can."""

    found: int
    wanted: int

    def __init__(self, what: str, found: int, wanted: int) -> None:
        super().__init__(
            what,
            found,
            wanted,
            f"{what} of schema version {found} found; this version of Tessera reads up to {wanted}. "
            "It was left as it is: upgrade what runs here",
        )


class NoDeployment(ServiceError):
    """Redis answers, but no controller has ever announced itself under this prefix."""


class ConflictError(TesseraError):
    """Somebody else moved first."""


class StaleWrite(ConflictError):
    """The record was changed since it was read."""


class LedgerBehind(ConflictError):
    """The ledger lacks what was written to it before, so the next step may not be taken from it."""

    def __init__(self, batch_id: str, found: object, wanted: object) -> None:
        self.batch_id, self.found, self.wanted = batch_id, found, wanted
        super().__init__(
            f"batch {batch_id} stays as it is in the ledger: {found} found, {wanted} wanted; was Redis restored from "
            "an older state?"
        )


class LedgerInDoubt(ConflictError):
    """The ledger may have been rolled back, and has to be compared with the bucket before it is acted upon."""


class LeaseLost(ConflictError):
    """The lease on a job went to another worker."""


class ClaimRefused(ConflictError):
    """A pod may not report for this job: another pod or another attempt holds it."""


class BadCheckpoint(TesseraError):
    """A model's file or folder that cannot be rendered with."""


class FileRefused(TesseraError):
    """A file is not written: its name is none of ours, or something else is in its place."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self.reason = name, reason
        super().__init__(f"{name[:200]!a} was not written: {reason}")


class DownloadIncomplete(TesseraError):
    """Some files of a batch could not be downloaded; all others are there.

    Attributes:
        gallery: of what is there.
        problems: what is wrong with the first of them, and what to do.
        total: how many there are.
    """

    def __init__(self, batch_id: str, gallery: Path, problems: Sequence[str], total: int) -> None:
        self.gallery, self.problems, self.total = gallery, tuple(problems), total
        shown = "\n".join(f"  {problem}" for problem in self.problems)
        more = f"\n  and {total - len(self.problems)} more" if total > len(self.problems) else ""
        noun = "file" if total == 1 else "files"
        super().__init__(f"batch {batch_id}: {total} {noun} could not be downloaded, all others were\n{shown}{more}")


class WaitTimeout(TesseraError):
    """The batch was not finished in time; it goes on."""


class ReplayFailed(TesseraError):
    """The image could not be rendered again; the message says why."""


class RenderFailed(TesseraError):
    """The picture is not there; the message says why, and what to do."""


class IllegalMove(TesseraError):
    """A state change that the table of moves does not have."""

    def __init__(self, what: str, found: str, wanted: str) -> None:
        self.found, self.wanted = found, wanted
        super().__init__(f"{what} is {found}; it cannot become {wanted}")

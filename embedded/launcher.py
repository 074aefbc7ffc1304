"""Runs attempts on the local node: a `pipeline.records.attempt.Launcher` by files, and what became of each attempt."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from embedded.attempts import AttemptFolder, AttemptStatus, Gone
from pipeline.errors import RecordUnreadable
from pipeline.process.redact import redacted
from pipeline.records.attempt import (
    HOPELESS_EXIT_CODES,
    RANK_KILLED,
    AttemptOutcome,
    AttemptPhase,
    AttemptSpec,
    Code,
    LaunchResult,
    NameTaken,
    Observation,
    PodReport,
)

NODE = "local"

_SIGKILL = 9


class LocalLauncher:
    """A `Launcher` over the files of one data folder; works also while no node runs."""

    def __init__(self, data_dir: Path) -> None:
        self._attempts = AttemptFolder(data_dir)
        self._ended: dict[str, Observation] = {}

    def awaits(self, models: Collection[str]) -> str | None:
        """Always None: nothing copies weights here."""
        del models
        return None

    def launch(self, spec: AttemptSpec) -> LaunchResult:
        """Create the attempt, or adopt the one that exists with exactly this spec."""
        while True:
            try:
                self._attempts.create(spec)
            except Gone as error:
                raise NameTaken(spec.name, "none, for it was deleted", spec.digest) from error
            except FileExistsError:
                try:
                    found = self._attempts.spec(spec.name)
                except RecordUnreadable as error:
                    raise NameTaken(spec.name, "that cannot be read", spec.digest) from error
                if found is None:
                    continue  # deleted in the meantime: the next try raises Gone
                if found.digest != spec.digest:
                    raise NameTaken(spec.name, found.digest, spec.digest) from None
                return LaunchResult.ADOPTED
            else:
                return LaunchResult.CREATED

    def observe(self) -> Mapping[str, Observation]:
        """Every attempt that exists, from one directory listing."""
        names = self._attempts.listing().specs
        self._ended = {name: seen for name, seen in self._ended.items() if name in names}
        seen = {name: self._ended.get(name) or self._observe_one(name) for name in names}
        present = {name: one for name, one in seen.items() if one is not None}
        self._ended = {name: one for name, one in present.items() if one.phase is AttemptPhase.ENDED}
        return present

    def quiet_since(self, moment: float) -> bool:
        """Always False: listing a folder costs less than watching it."""
        del moment
        return False

    def delete(self, name: str) -> None:
        """End the attempt and forget it, in the background."""
        self._attempts.request_deletion(name)

    def _observe_one(self, name: str) -> Observation | None:
        try:
            status, damage = self._attempts.status(name), None
        except RecordUnreadable as error:  # the node writes it anew when the attempt ends, or when it starts itself
            status, damage = None, str(error)
        try:
            spec = self._attempts.spec(name)
        except RecordUnreadable:
            spec, batch_id, job_index = None, None, None
        else:
            if spec is None:
                return None  # deleted since the listing
            batch_id, job_index = spec.batch_id, spec.job_index
        if damage is not None:
            return Observation(name, AttemptPhase.RUNNING, damage, None, batch_id, job_index, spec)
        if status is None:
            return Observation(name, AttemptPhase.PENDING, "waits for the local node", None, batch_id, job_index, spec)
        if status.phase is AttemptPhase.RUNNING:
            return Observation(name, AttemptPhase.RUNNING, f"process {status.pid}", None, batch_id, job_index, spec)
        ended = outcome(status)
        return Observation(name, AttemptPhase.ENDED, ended.reason, ended, batch_id, job_index, spec)


def outcome(status: AttemptStatus) -> AttemptOutcome:
    """What became of an attempt that has ended; reads and changes nothing else.

    Only exit code 0 together with a report of success is a success, and it takes precedence over all else. Next come
    our own reasons for ending the attempt, because what the program then reports follows from them.
    """
    report = PodReport.from_message(status.message)

    def ended(code: Code, reason: str) -> AttemptOutcome:
        return AttemptOutcome(code, redacted(reason), exit_code=status.exit_code, report=report, node=NODE)

    if status.exit_code == 0 and report is not None and report.code is Code.SUCCEEDED:
        return ended(Code.SUCCEEDED, report.message)
    if status.node_lost:
        return ended(Code.NODE_LOST, "the local node ended while the attempt ran")
    if status.deleted:
        return ended(Code.DELETED, "the attempt was deleted")
    if status.deadline_exceeded:
        return ended(Code.DEADLINE, "the attempt ran longer than its deadline")
    if report is not None and report.code is not Code.SUCCEEDED:
        return ended(report.code, report.message)
    if status.exit_code in HOPELESS_EXIT_CODES:
        return ended(Code.CONFIG_ERROR, _describe_end(status, report, f"ended with exit code {status.exit_code}"))
    if report is None and (status.signal == _SIGKILL or RANK_KILLED.search(status.log_tail)):
        return ended(Code.KILLED, "a process of the attempt was killed by signal 9; was memory short?")
    how = f"ended by signal {status.signal}" if status.signal else f"ended with exit code {status.exit_code}"
    return ended(Code.UNKNOWN, _describe_end(status, report, how))


def _describe_end(status: AttemptStatus, report: PodReport | None, how: str) -> str:
    reported = "a report of success" if report else "no report"
    texts = [text.strip() for text in ("" if report else status.message, status.log_tail) if text.strip()]
    return "\n".join([f"{how} and {reported}", *texts])

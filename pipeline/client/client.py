"""The Python client.

from pipeline import Client

batch = Client().submit("prompts.jsonl", width=832, height=1216, steps=30)
batch.wait(progress=True)
for image in batch.images():
    image.save("renders")

A little over 300 lines: what can be asked of a deployment is a method here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Unpack

import structlog

from pipeline.client.batch import Batch
from pipeline.client.connect import connect
from pipeline.client.connection import Connection
from pipeline.client.image import RenderedImage
from pipeline.client.remote.connection import RemoteConnection, connect_remotely
from pipeline.client.replay import Replay, compare, only_row
from pipeline.client.schedules import Schedules
from pipeline.client.webhooks import Webhooks
from pipeline.deployment.settings import MachineSettings, load_part
from pipeline.errors import NoneConfigured, RecordTooNew, RecordUnreadable, RequestError, UnknownBatch
from pipeline.ledger.workers import ALL, Drain, Worker
from pipeline.names import TOKEN_VARIABLE
from pipeline.operations.batch_ids import full_id
from pipeline.operations.batch_pictures import inputs_of
from pipeline.operations.estimate import Estimate, Estimator
from pipeline.operations.listing import EVERY, BatchFilter, newest_batches
from pipeline.operations.purge import is_purged
from pipeline.operations.repair import apart, request_repair
from pipeline.operations.resume import recover_batch, unknown_batches
from pipeline.operations.standing import doubt_if_known
from pipeline.operations.status import BatchStatus, Unreadable, batch_status
from pipeline.operations.submit import TIMEOUT_S, Acceptance, Submission, accept, checked_options, from_here
from pipeline.outputs.pictures import open_prompts
from pipeline.process.deadline import Deadline, OutOfTime
from pipeline.promptset.checked import one_picture
from pipeline.promptset.decisions.levels import unreached_lines
from pipeline.promptset.fields.keywords import PictureFields
from pipeline.promptset.formats.by_form import DEFAULT_OPTIONS, InputFormat
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.formats.source import Prompts
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.batch import PRIORITIES, Repair
from pipeline.records.webhooks import Webhook

_WAKE_S = 10.0

log = structlog.get_logger(__name__)


class Client:
    """A client of a deployment: of the one that the environment names, or of the local stack (`tessera up`).

    Where there is neither, only `render` works; all else raises NoneConfigured.
    """

    def __new__(cls, connection: Connection | str | None = None, *, token: str | None = None) -> Client:
        """An instance of the subclass that asks an HTTP API, where that is what the connection leads to."""
        if cls is not Client:
            return super().__new__(cls)
        found = _connection(connection, token)
        if isinstance(found, RemoteConnection):
            from pipeline.client.over_http.client import RemoteClient

            made: Client = super().__new__(RemoteClient)
        else:
            made = super().__new__(cls)
        if found is not None:
            made._connection = found
        return made

    def __init__(self, connection: Connection | str | None = None, *, token: str | None = None) -> None:
        """A client.

        Args:
            connection: of `connect`, by default as the environment has it; or the address of an HTTP API.
            token: of that API; by default TESSERA_TOKEN.
        """
        if "_connection" not in self.__dict__ and (found := _connection(connection, token)) is not None:
            self._connection = found

    @cached_property
    def _connection(self) -> Connection:
        """To a deployment that has come up since. Raises NoneConfigured."""
        return connect()

    @cached_property
    def schedules(self) -> Schedules:
        """Its schedules: prompt sets that are rendered again and again."""
        return Schedules(self._connection)

    @cached_property
    def webhooks(self) -> Webhooks:
        """Where what becomes of batches is sent."""
        return Webhooks(self._connection)

    def submit(
        self,
        prompts: Prompts,
        *,
        batch_id: str | None = None,
        tenant: str = "default",
        priority: int = 5,
        batch_seed: int | None = None,
        skip_invalid: bool = False,
        timeout_s: float = TIMEOUT_S,
        input_format: InputFormat | None = None,
        reading: ReadOptions = DEFAULT_OPTIONS,
        override: PictureFields | None = None,
        labels: Mapping[str, str] | None = None,
        webhooks: Sequence[str | Webhook] = (),
        **picture: Unpack[PictureFields],
    ) -> Batch:
        """Submit a prompt set and return its batch, which is then accepted as a whole.

        Args:
            prompts: path or s3:// URL of a prompt set (docs/prompt-sets.md), "-" for standard input; or prompts,
                objects and `Row`s in memory.
            batch_id: your own id. Submitting the same rows under it again changes nothing.
            tenant: whose batch it is; tenants share the GPUs fairly.
            priority: 0 is served first, 9 last.
            batch_seed: rows without a seed get theirs from it; by default it follows from the batch id.
            skip_invalid: leave out invalid rows and list them in errors.jsonl, instead of refusing the prompt set.
            timeout_s: how long Redis and S3 may take in all; validating the rows is not counted.
            input_format: format of the prompt set, if its name does not show it.
            reading: how it is read where that leaves it open: ReadOptions(comments=True, extra_columns="metadata").
            override: values that replace what rows say themselves: override={"steps": 12}.
            labels: names and values to find it by: labels={"project": "atlas"}.
            webhooks: URLs that are sent what becomes of it; `Webhook(url, events)` of some events (docs/webhooks.md).
            picture: values for rows that leave them open: steps=20, size="832x1216", scheduler="Euler a", and all other
                fields of a row but prompt, custom_id and metadata.

        Raises PromptSetError with everything that is wrong with the rows, RequestError, or ServiceError when Redis or
        S3 cannot be used; nothing was accepted then, unless it is AcceptanceUnknown.
        """
        accepted = self.accept(
            from_here(
                Submission(
                    prompts=prompts,
                    defaults=checked_options(picture),
                    overrides=checked_options(override or {}),
                    labels=labels or {},
                    webhooks=webhooks,
                    batch_id=batch_id,
                    tenant=tenant,
                    priority=priority,
                    seed=batch_seed,
                    skip_invalid=skip_invalid,
                    timeout_s=timeout_s,
                    input_format=input_format,
                    reading=reading,
                )
            )
        )
        for warning in accepted.warnings:
            log.warning(str(warning), batch=accepted.manifest.id)
        for line in unreached_lines(accepted.manifest.unreached, accepted.manifest.rows):
            log.warning(line, batch=accepted.manifest.id)
        return self.batch(accepted.manifest.id)

    def render(
        self, prompt: str, *, timeout_s: float | None = None, progress: bool = False, **picture: Unpack[PictureFields]
    ) -> RenderedImage:
        """Render one picture and wait for it: `client.render("a fox", size="1024x1024").save("fox.png")`.

        Where there is no deployment, this machine renders it without one, and keeps the model for TESSERA_WARM_S.

        Args:
            prompt: what to paint.
            timeout_s: how long to wait for it.
            progress: show progress, as `Batch.wait` does.
            picture: as in `submit`; of several images of a row, submit them.

        Raises RenderFailed with the reason, PromptSetError, RequestError, WaitTimeout, ServiceError.
        """
        one_picture(picture)
        if not self._is_connected():
            from pipeline.client.render_here import render_here

            data_dir, news = load_part(MachineSettings).data_dir, _print_line if progress else log.info
            return render_here(data_dir, os.environ, prompt, picture, timeout_s=timeout_s, on_news=news)
        batch = self.submit([{"prompt": prompt}], priority=PRIORITIES[0], **picture)
        batch.wait(timeout_s, progress=progress)
        return batch.only_image()

    def _is_connected(self) -> bool:
        try:
            return self._connection is not None
        except NoneConfigured:
            return False

    def accept(self, submission: Submission) -> Acceptance:
        """Submit, and return what was accepted."""
        accepted = accept(submission, self._connection.ledger, self._connection.artifacts)
        try:
            # It only saves time: the batch is accepted, and the controller finds it by itself.
            Deadline(_WAKE_S).call(
                "waking the controller", lambda: self._connection.ledger.wakes.ask(accepted.manifest.id)
            )
        except OutOfTime as error:
            log.warning("the controller is not woken; its next tick looks", reason=str(error))
        return accepted

    def estimate(
        self,
        prompts: Prompts,
        *,
        pods: int | None = None,
        input_format: InputFormat | None = None,
        reading: ReadOptions = DEFAULT_OPTIONS,
        skip_invalid: bool = False,
        override: PictureFields | None = None,
        **picture: Unpack[PictureFields],
    ) -> Estimate:
        """Estimate what the prompt set would cost, before anything runs.

        Args:
            prompts, override, picture: as in `submit`.
            pods: that would run at the same time; by default, as many as workers have room for.
            input_format: format of the prompt set, if its name does not show it.
            reading: how it is read where that leaves it open: ReadOptions(comments=True, extra_columns="metadata").
            skip_invalid: leave out invalid rows instead of refusing the whole prompt set.

        Raises PromptSetError if a row is invalid, RequestError or ServiceError.
        """
        submission = Submission(
            prompts,
            checked_options(picture),
            overrides=checked_options(override or {}),
            input_format=input_format,
            reading=reading,
            skip_invalid=skip_invalid,
        )
        return self.estimate_of(from_here(submission), pods=pods)

    def estimate_of(self, submission: Submission, *, pods: int | None = None) -> Estimate:
        """The same of what would be submitted."""
        ledger, artifacts = self._connection.ledger, self._connection.artifacts
        deployment = ledger.deployment()
        source = open_prompts(
            submission.prompts,
            input_format=submission.input_format,
            bucket=artifacts,
            models=deployment.models,
            options=submission.reading,
        )
        found, estimator = Validation(source.name), Estimator(deployment, ledger.speeds.all())
        found.inputs = inputs_of(
            artifacts, submission.tenant, submission.folders, submission.check_url, sent=submission.sent
        )
        if submission.skip_invalid:
            found.most_invalid = deployment.max_rows
        overrides = submission.overrides
        for row in resolved_rows(source, submission.defaults, deployment, found, batch_seed=0, overrides=overrides):
            estimator.add(row)
        found.raise_if_refused(skip_invalid=submission.skip_invalid)
        at_once = pods or max(1, sum(ledger.workers.free_slots().values()))
        return estimator.estimate(pods=at_once, left_out=found.invalid_rows)

    def replay(self, file: str | Path, *, timeout_s: float | None = None, progress: bool = False) -> Replay:
        """Render an image again as its record says, and compare.

        Args:
            file: the image, its sidecar, or a results.jsonl with only its line; or an image of another program whose
                metadata are known (docs/metadata.md), as far as they can be carried over.
            timeout_s: how long to wait for it.
            progress: show progress, as `Batch.wait` does.

        Raises RequestError if there is no record, or several; ReplayFailed, WaitTimeout, and as `submit` does.
        """
        then = only_row(Path(file), self._connection.ledger.deployment().models)
        batch = self.batch(self.accept(Submission([then.row], checked_options({}))).manifest.id)
        batch.wait(timeout_s, progress=progress)
        return compare(then, batch, self._connection.artifacts)

    def batch(self, batch_id: str) -> Batch:
        """A batch that was submitted before. Nothing is asked yet."""
        return Batch(self._connection, batch_id)

    def resume(self) -> list[str]:
        """After Redis has lost its data, take up every accepted batch that it does not know, ended or not.

        The controller then rebuilds them from the bucket and adopts pods that still run. So it does with batches whose
        end Redis and bucket differ about, as after a restore of Redis; all others stay unchanged. `Batch.verify` looks
        closer. Returns the ids. Raises ServiceError.
        """
        ledger, artifacts = self._connection.ledger, self._connection.artifacts
        taken_up = [m.id for m in unknown_batches(ledger, artifacts, ended=True) if recover_batch(ledger, m)]
        for batch_id in apart(ledger, artifacts):
            request_repair(ledger, artifacts, batch_id, Repair.OBJECTS)
            taken_up.append(batch_id)
        for batch_id in taken_up:
            ledger.wakes.ask(batch_id)
        return taken_up

    def workers(self) -> list[Worker]:
        """The render workers that are alive."""
        return self._connection.ledger.workers.listing()

    def drain(self, worker: str | None, *, hand_over: bool = False) -> list[str]:
        """Give a worker, or every one (None), no more jobs; returns the names of those drained. See `undrain`.

        `worker` is its name or its host. It looks after its jobs until they end; with `hand_over` others take them at
        once. Pods are left alone either way. Raises RequestError if there is no such worker.
        """
        workers = self._connection.ledger.workers
        names = self._names_of(worker)
        for name in [ALL] if worker is None else names:
            workers.drain(name, Drain.HAND_OVER if hand_over else Drain.FINISH)
        return names

    def undrain(self, worker: str | None) -> list[str]:
        """Give a worker, or all (None), jobs again; returns their names. Raises RequestError if there is none."""
        workers = self._connection.ledger.workers
        names = self._names_of(worker)
        if worker is not None and workers.drained(ALL):
            raise RequestError("all workers are drained, this one too: run `tessera undrain --all` first")
        for name in [ALL, *names] if worker is None else names:
            workers.undrain(name)
        return names

    def _names_of(self, worker: str | None) -> list[str]:
        living = [one.name for one in self._connection.ledger.workers.listing()]
        named = [name for name in living if worker in (None, name) or name.partition("@")[2].startswith(f"{worker}-")]
        if worker is not None and not named:
            raise RequestError(f"no worker {worker!r}; alive: {', '.join(living) or 'none'}")
        return named

    def doubt(self) -> str | None:
        """Why nothing is decided now: Redis was emptied, restored or restarted, and is compared with the bucket.

        None if the ledger is in order, as far as this user may know.
        """
        return doubt_if_known(self._connection.ledger)

    def purgeable(self, batch_id: str) -> BatchStatus | None:
        """The status of a batch; None if its record is damaged, or if only remains of a purged one are there.

        Raises UnknownBatch, BatchLost.
        """
        try:
            return self.batch(batch_id).status()
        except RecordTooNew:
            raise
        except RecordUnreadable:
            return None
        except UnknownBatch:
            if not is_purged(self._connection.artifacts, batch_id):
                raise
            return None

    def ended_before(self, age: timedelta) -> Iterator[BatchStatus]:
        """The batches that ended longer ago than `age`, oldest submission first."""
        ledger = self._connection.ledger
        for record in ledger.batches.ended_before(ledger.now() - age):
            with suppress(UnknownBatch):  # removed since
                yield batch_status(ledger, record.id)

    def batches(self, limit: int = 20, wanted: BatchFilter = EVERY) -> list[BatchStatus | Unreadable]:
        """The newest batches, or the newest of those that are `wanted`.

        One whose record cannot be read is an entry that says why, where all are wanted.
        """
        return newest_batches(self._connection.ledger, limit, wanted)

    def full_id(self, named: str) -> str:
        """The id of the batch that is meant by its beginning, or by `last`; the text itself if there is none."""
        return full_id(self._connection.ledger, named)


def _connection(named: Connection | str | None, token: str | None) -> Connection | None:
    """That to what is named, or found; None if nothing is."""
    if isinstance(named, str):
        return connect_remotely(named, os.environ.get(TOKEN_VARIABLE, "") if token is None else token)
    try:
        return named or connect()
    except NoneConfigured:
        return None


def _print_line(line: str) -> None:
    sys.stderr.write(f"{line}\n")

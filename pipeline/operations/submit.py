"""Accept a batch: validate its rows, stage them in S3, write `batch.json`, which accepts it, and record it in Redis."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch_manifest
from pipeline.deployment.announcement import Deployment
from pipeline.deployment.tenants import limits_of
from pipeline.errors import (
    BatchExists,
    LedgerUnavailable,
    LimitReached,
    NothingNew,
    RequestError,
    RowWarning,
)
from pipeline.inputs.gathered import kept_for_a_while
from pipeline.inputs.paths import NOTHING_SENT, SentPaths
from pipeline.ledger import Ledger
from pipeline.names import checked_batch_id, checked_id, seed_of
from pipeline.operations.batch_pictures import any_url, inputs_of, no_urls
from pipeline.operations.put_manifest import put_manifest
from pipeline.operations.staging import append, put_picture, stage, unstage
from pipeline.operations.webhooks import checked_webhooks
from pipeline.outputs.pictures import open_prompts
from pipeline.process.deadline import Deadline, OutOfTime
from pipeline.process.files import spool
from pipeline.promptset.checked import checked_options
from pipeline.promptset.fields.row import Options, ResolvedRow
from pipeline.promptset.fields.values import MAX_SEED
from pipeline.promptset.formats.by_form import DEFAULT_OPTIONS, InputFormat
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.formats.source import Prompts, folders_of
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.batch import PRIORITIES, BatchManifest, BatchRecord, BatchRequest, Origin
from pipeline.records.labels import checked_labels
from pipeline.records.object_keys import BatchObjects
from pipeline.records.results import RefusedLine
from pipeline.records.webhooks import Webhook
from pipeline.version import installed_version

__all__ = ["TIMEOUT_S", "Acceptance", "RowFilter", "Submission", "accept", "checked_options", "from_here"]

log = structlog.get_logger(__name__)

TIMEOUT_S = 300.0


class RowFilter(Protocol):
    """Decides which rows of a prompt set become part of a batch."""

    def wants(self, row: ResolvedRow) -> bool:
        """Whether the row is part of the batch."""

    def finish(self) -> str:
        """Called after the last row, before the batch is accepted or found to be empty; where its rows_key leads."""


@dataclass(frozen=True)
class Submission:
    """A batch as it is requested: prompt set, what holds for all rows, tenant, and how long Redis and S3 may take.

    `folders` are where paths of rows' images begin; none reads no file of this machine, and `sent` says what paths are
    on the machine that they come from. `check_url` raises RequestError for an s3:// URL of an image that is not for
    whoever submits; by default for each, since it is read with our rights.
    """

    prompts: Prompts
    defaults: Options
    batch_id: str | None = None
    tenant: str = "default"
    priority: int = 5
    seed: int | None = None
    skip_invalid: bool = False
    timeout_s: float = TIMEOUT_S
    input_format: InputFormat | None = None
    reading: ReadOptions = DEFAULT_OPTIONS
    row_filter: RowFilter | None = None
    origin: Origin | None = None
    overrides: Options = field(default_factory=Options)
    labels: Mapping[str, str] = field(default_factory=dict)
    request: BatchRequest | None = None
    webhooks: Sequence[str | Webhook] = ()
    folders: tuple[Path, ...] = ()
    sent: SentPaths = NOTHING_SENT
    check_url: Callable[[str], object] = no_urls


@dataclass(frozen=True)
class Acceptance:
    """A batch that is accepted.

    `created` is False if it had been accepted before. `recorded` is False if Redis could not be reached at the last
    moment; the controller then finds the batch in the bucket. `left_out` rows were left out by the row filter.
    `warnings` say what a user would want to know of the rows.
    """

    manifest: BatchManifest
    created: bool
    recorded: bool
    left_out: int = 0
    warnings: tuple[RowWarning, ...] = ()


def from_here(submission: Submission) -> Submission:
    """The same, whose rows are the user's own: their images may be files of this machine, and any object."""
    return replace(submission, folders=folders_of(submission.prompts), check_url=any_url)


def accept(submission: Submission, ledger: Ledger, artifacts: Artifacts) -> Acceptance:
    """Validate and stage a batch, then put it into the ledger.

    Either the whole batch is accepted or none of it. Submitting the same rows under the same id again changes nothing,
    and completes a submission that was interrupted. Raises PromptSetError, RequestError (NothingNew if the row filter
    leaves every row out, LimitReached if the tenant is at its limit) or ServiceError; nothing was accepted then, unless
    it is AcceptanceUnknown.
    """
    batch_id = _checked(submission)
    deadline = Deadline(submission.timeout_s)
    redis, s3 = f"Redis at {ledger.store.where}", f"S3 at {artifacts.where}"
    now = deadline.call(f"asking {redis} for the time; nothing was accepted", ledger.now)
    if batch_id is None:
        batch_id = f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    deployment = deadline.call(f"asking {redis} what is rendered; nothing was accepted", ledger.deployment)
    webhooks = checked_webhooks(submission.webhooks, deployment)
    deadline.call(f"checking {s3}; nothing was accepted", artifacts.check)
    objects = BatchObjects(batch_id)
    # Follows from the id, so that the same submission under the same id has the same seeds.
    seed = submission.seed if submission.seed is not None else seed_of(batch_id)
    source = open_prompts(
        submission.prompts,
        input_format=submission.input_format,
        bucket=artifacts,
        models=deployment.models,
        options=submission.reading,
    )
    row_filter, origin = submission.row_filter, submission.origin
    validation = Validation(source.name)
    if submission.skip_invalid:
        validation.most_invalid = deployment.max_rows
    digest = hashlib.sha256()
    begun_with: set[str] = set()
    with spool() as rows, spool() as refused, kept_for_a_while() as kept:
        validation.inputs = inputs = inputs_of(
            artifacts, submission.tenant, submission.folders, submission.check_url, keep=kept, sent=submission.sent
        )
        validation.sink = lambda error: append(refused, RefusedLine.of(error).model_dump_json().encode())
        wanted = row_filter.wants if row_filter is not None else None
        for row in resolved_rows(
            source,
            submission.defaults,
            deployment,
            validation,
            batch_seed=seed,
            overrides=submission.overrides,
            wanted=wanted,
        ):
            begun_with.update(one.sha256 for one in row.inputs)
            digest.update(append(rows, row.model_dump_json().encode()))
        validation.raise_if_refused(skip_invalid=submission.skip_invalid)
        if row_filter is not None:
            rows_key = row_filter.finish()
            origin = origin and origin.model_copy(update={"rows_key": rows_key})
        if not validation.rows:
            raise NothingNew(f"{source.name}: none of {validation.unwanted} rows is new")
        manifest = BatchManifest(
            id=batch_id,
            incarnation=secrets.token_hex(4),
            tenant=submission.tenant,
            priority=submission.priority,
            created_at=now,
            rows=validation.rows,
            images=validation.images,
            invalid_rows=validation.invalid_rows,
            seed=seed,
            staged=secrets.token_hex(8),
            input_sha256=digest.hexdigest(),
            image=deployment.image,
            defaults=submission.defaults.model_dump(mode="json", exclude_unset=True),
            overrides=submission.overrides.model_dump(mode="json", exclude_unset=True),
            unreached=validation.unreached,
            labels=checked_labels(submission.labels),
            webhooks=webhooks,
            client_version=installed_version(),
            origin=origin,
            request=submission.request,
        )
        before = deadline.call(
            f"looking into {s3}; nothing was accepted", lambda: _accepted_before(artifacts, manifest)
        )
        if before is None:
            deadline.call(f"asking {redis} for open batches", lambda: _check_room(ledger, deployment, manifest))
            staged = {objects.input(manifest.staged): rows, objects.invalid(manifest.staged): refused}
            deadline.call(f"writing the rows to {s3}; nothing was accepted", lambda: stage(artifacts, staged))
            for sha256, path in inputs.kept(sorted(begun_with)):
                put = partial(put_picture, artifacts, objects.input_picture(sha256), path)
                deadline.call(f"writing a picture to {s3}; nothing was accepted", put)
            if not put_manifest(artifacts, manifest, deadline):
                # Another client was first, so nothing refers to what we staged.
                deadline.call(f"removing our rows from {s3}", lambda: unstage(artifacts, staged))
                before = deadline.call(f"looking into {s3}", lambda: _accepted_before(artifacts, manifest))
    # If the ledger has lost a batch that was accepted before, it gets a new incarnation, so that its names differ from
    # those of attempts that still run. If the ledger has it, the record is not changed.
    standing = manifest if before is None else before.model_copy(update={"incarnation": manifest.incarnation})
    record = BatchRecord(manifest=standing, updated_at=now, recovered=before is not None)
    recorded = _record(ledger, record, deadline)
    warnings = tuple(validation.warnings)
    return Acceptance(before or manifest, before is None, recorded, validation.unwanted, warnings)


def _check_room(ledger: Ledger, deployment: Deployment, manifest: BatchManifest) -> None:
    """Raise LimitReached if the tenant would have more open images than it may.

    Two clients that submit at the same instant may both find room.
    """
    most = limits_of(deployment.tenants, manifest.tenant).open_images
    if most is None:
        return
    batches = ledger.batches.open_images(manifest.tenant)
    if (there := sum(batches.values())) + manifest.images <= most:
        return
    tenant, do = f"tenant {manifest.tenant!r}", "ask whoever runs the deployment for a higher limit"
    if manifest.images > most:
        do = f"submit it in parts of at most {most:,} images, or {do}"
    else:
        do = f"wait until {there + manifest.images - most:,} of them are done, cancel a batch, or {do}"
    raise LimitReached(
        f"{tenant} has {there:,} images waiting or being rendered, in {len(batches)} batches, and this batch has "
        f"{manifest.images:,}; it may have {most:,} at a time (TESSERA_TENANTS). Nothing was accepted; {do}"
    )


def _record(ledger: Ledger, record: BatchRecord, deadline: Deadline) -> bool:
    try:
        deadline.call("recording it in Redis", lambda: ledger.batches.create(record))
    except (LedgerUnavailable, OutOfTime) as error:
        # The batch is accepted; the controller finds it in the bucket.
        log.warning("accepted, but not recorded in the ledger yet", batch=record.id, error=str(error))
        return False
    return True


def _checked(submission: Submission) -> str | None:
    checked_id(submission.tenant, "tenant")
    if submission.priority not in PRIORITIES:
        raise RequestError(f"priority {submission.priority} found; 0 (first) to 9 (last) wanted")
    if submission.seed is not None and not 0 <= submission.seed <= MAX_SEED:
        raise RequestError(f"seed {submission.seed} found; 0 to {MAX_SEED} wanted")
    return checked_batch_id(submission.batch_id) if submission.batch_id is not None else None


def _accepted_before(artifacts: Artifacts, manifest: BatchManifest) -> BatchManifest | None:
    before = fetch_manifest(artifacts, manifest.id)
    if before is None:
        return None
    if before.purge is not None:
        raise RequestError(
            f"batch id {manifest.id!r} is of a batch that is being purged, or whose images were kept when it was; "
            f"choose another id, or remove what is left of it: tessera purge {manifest.id}"
        )
    if before.input_sha256 != manifest.input_sha256:
        raise BatchExists(
            f"batch {manifest.id!r} exists with other rows ({before.rows} rows, {before.images} images, submitted "
            f"{before.created_at:%Y-%m-%d %H:%M} UTC); choose another id"
        )
    return before

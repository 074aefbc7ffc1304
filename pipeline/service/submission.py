"""A prompt set as a request names it, and its acceptance for the caller's tenant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.errors import BatchExists, PromptSetError, RequestError, UnknownBatch
from pipeline.inputs.paths import SentPaths
from pipeline.operations.submit import Acceptance, Submission, checked_options
from pipeline.operations.uploads import get_upload
from pipeline.promptset.formats.by_form import InputFormat
from pipeline.promptset.formats.lines import ReadOptions
from pipeline.promptset.formats.source import kind_of
from pipeline.records.uploads import UploadRecord
from pipeline.records.webhooks import Webhook
from pipeline.service.access import Caller
from pipeline.service.context import Service

_KEY_CHARACTERS = 200


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("printable text wanted")
    return text


Reason = Annotated[str, Field(max_length=300), AfterValidator(_printable)]


class PromptSetBody(BaseModel):
    """A prompt set, in the request or uploaded before, and what holds for all of its rows."""

    model_config = ConfigDict(extra="forbid")

    tenant: str | None = Field(None, description="For operators; everybody else submits as their own.")
    prompts: list[str | dict[str, Any]] | None = Field(None, description="Prompts, or rows as in docs/prompt-sets.md.")
    input_file: str | None = Field(None, description="Id of an uploaded file, instead.")
    input_format: InputFormat | None = Field(None, description="Of that file, if its name does not show it.")
    comments: bool = Field(False, description="Lines of a text that begin with # are no prompts.")
    extra_columns: Literal["metadata"] | None = Field(None, description="Where columns go that are no fields.")
    skip_invalid: bool = Field(False, description="Leave invalid rows out, instead of refusing the prompt set.")
    pictures: dict[str, str] = Field({}, description="Ids of uploaded pictures, by the paths that rows name them by.")
    unreadable: dict[str, Reason] = Field({}, description="Of other paths that rows name, why there is no picture.")
    options: dict[str, Any] = Field({}, description="For rows that leave them open: steps, size, scheduler, ...")
    override: dict[str, Any] = Field({}, description="Replace what rows say themselves.")


class BatchBody(PromptSetBody):
    """A batch as it is submitted."""

    batch_id: str | None = Field(None, description="Your own id; the same rows under it again change nothing.")
    priority: int = Field(5, description="0 is served first, 9 last.")
    batch_seed: int | None = Field(None, description="Rows without a seed get theirs from it.")
    labels: dict[str, str] = {}
    webhooks: list[str | Webhook] = Field([], description="URLs that are sent what becomes of it; docs/webhooks.md.")


def submission_of(service: Service, caller: Caller, body: PromptSetBody) -> Submission:
    """What is submitted, for the caller's tenant. Raises RequestError, UnknownFile."""
    if (body.prompts is None) == (body.input_file is None):
        raise RequestError("prompts or input_file wanted, one of them")
    more: dict[str, Any] = {}
    if isinstance(body, BatchBody):
        more = {"batch_id": body.batch_id, "priority": body.priority, "seed": body.batch_seed, "labels": body.labels}
        more["webhooks"] = body.webhooks
    tenant = caller.tenant_of_new(body.tenant)
    prompts: Any = body.prompts
    kind = body.input_format
    if body.input_file is not None:
        upload = get_upload(service.artifacts, tenant, body.input_file)
        prompts, kind = url_of(service, upload), kind or kind_of_upload(upload)
    return Submission(
        prompts=prompts,
        defaults=checked_options(body.options),
        overrides=checked_options(body.override),
        tenant=tenant,
        skip_invalid=body.skip_invalid,
        input_format=kind,
        reading=ReadOptions(comments=body.comments, extra_columns=body.extra_columns),
        sent=SentPaths(body.pictures, body.unreadable),
        **more,
    )


def url_of(service: Service, upload: UploadRecord) -> str:
    """Where the bucket has it."""
    return service.artifacts.root + upload.key


def kind_of_upload(upload: UploadRecord) -> InputFormat:
    """How it is written. Raises RequestError if its name did not show it."""
    return kind_of(upload.key if upload.suffix else upload.filename)


def with_key(submission: Submission, key: str | None) -> Submission:
    """The submission under the id that follows from an idempotency key: the same key is the same batch."""
    if key is None or submission.batch_id is not None:
        return submission
    if not key.isprintable() or not 0 < len(key) <= _KEY_CHARACTERS:
        raise RequestError(f"Idempotency-Key: 1 to {_KEY_CHARACTERS} printable characters wanted")
    digest = hashlib.sha256(f"{submission.tenant}\n{key}".encode()).hexdigest()[:24]
    return replace(submission, batch_id=f"key-{digest}")


def accepted(service: Service, caller: Caller, submission: Submission) -> Acceptance:
    """Accept it. Raises as `pipeline.operations.submit.accept`; an id that another tenant has is only taken."""
    batch_id = submission.batch_id
    with named(service, submission):
        try:
            found = service.client.accept(submission)
        except BatchExists:
            if batch_id is not None and not _is_own(service, caller, batch_id):
                raise _taken(batch_id) from None
            raise
    if found.manifest.tenant != submission.tenant:
        raise _taken(found.manifest.id)
    return found


def _is_own(service: Service, caller: Caller, batch_id: str) -> bool:
    try:
        return caller.may_see(service.ledger.batches.get(batch_id).manifest.tenant)
    except UnknownBatch:
        return False


def _taken(batch_id: str) -> BatchExists:
    return BatchExists(f"batch id {batch_id!r} is taken; choose another")


@contextmanager
def named(service: Service, submission: Submission) -> Iterator[None]:
    """Have errors call an uploaded file by the name its user gave it, and not by where it lies."""
    if not isinstance(submission.prompts, str):
        yield
        return
    file_id = submission.prompts.rpartition("/")[2].partition(".")[0]
    try:
        yield
    except PromptSetError as error:
        name = get_upload(service.artifacts, submission.tenant, file_id).filename
        raise PromptSetError(name, error.errors, error.total) from None
    except RequestError as error:
        if submission.prompts not in str(error):
            raise
        name = get_upload(service.artifacts, submission.tenant, file_id).filename
        raise RequestError(str(error).replace(submission.prompts, name)) from None


def acceptance_body(found: Acceptance) -> Mapping[str, Any]:
    """What the answer to a submission says."""
    manifest = found.manifest
    return {
        "batch": manifest.id,
        "rows": manifest.rows,
        "images": manifest.images,
        "invalid_rows": manifest.invalid_rows,
        "created": found.created,
        "tenant": manifest.tenant,
        "manifest": manifest.model_dump(mode="json"),
        "unreached": dict(manifest.unreached),
        "warnings": [
            {"line": one.line, "field": one.field, "message": one.message, "rows": one.rows} for one in found.warnings
        ],
    }

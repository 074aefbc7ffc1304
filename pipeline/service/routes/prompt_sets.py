"""Prompt sets: submitted, checked, estimated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import Field

from pipeline.errors import RowError
from pipeline.operations.estimate import Estimate
from pipeline.operations.validation import validated
from pipeline.service.access import Reader, Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.submission import (
    BatchBody,
    PromptSetBody,
    acceptance_body,
    accepted,
    named,
    submission_of,
    with_key,
)

router = APIRouter(prefix="/api", tags=["prompt sets"], route_class=CallerRoute)

_MOST_ERRORS = 10_000


class EstimateBody(PromptSetBody):
    """A prompt set whose cost is wanted."""

    pods: int | None = Field(None, ge=1, description="That would run at the same time.")


@router.post("/batches", status_code=201)
def submit(
    service: ServiceOf,
    caller: Submitter,
    body: BatchBody,
    response: Response,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Mapping[str, Any]:
    """Submit a prompt set: it is accepted as a whole, or refused with everything that is wrong with it.

    200 instead of 201 if it had been accepted before, under the same id or the same Idempotency-Key.
    """
    found = accepted(service, caller, with_key(submission_of(service, caller, body), idempotency_key))
    if not found.created:
        response.status_code = 200
    response.headers["Location"] = f"/api/batches/{found.manifest.id}"
    return acceptance_body(found)


@router.post("/validate")
def validate(service: ServiceOf, caller: Reader, body: PromptSetBody) -> Mapping[str, Any]:
    """Everything that is wrong with a prompt set, without submitting it: the first 10,000 errors, and how many."""
    submission = submission_of(service, caller, body)
    errors = list[RowError]()
    with named(service, submission):
        found = validated(
            submission,
            service.ledger.deployment(),
            service.artifacts,
            lambda error: errors.append(error) if len(errors) < _MOST_ERRORS else None,
        )
    return {
        "rows": found.rows,
        "images": found.images,
        "invalid_rows": found.invalid_rows,
        "acceptable": bool(found.rows) and (body.skip_invalid or not found.invalid),
        "errors": [{"line": one.line, "field": one.field, "message": one.message} for one in errors],
        "total": found.invalid,
        "warnings": [
            {"line": one.line, "field": one.field, "message": one.message, "rows": one.rows} for one in found.warnings
        ],
        "unreached": dict(found.unreached),
    }


@router.post("/estimate")
def estimate(service: ServiceOf, caller: Reader, body: EstimateBody) -> Estimate:
    """What a prompt set would cost, before anything runs."""
    submission = submission_of(service, caller, body)
    with named(service, submission):
        return service.client.estimate_of(submission, pods=body.pods)

"""An image made again, from what is on record of it: with another seed, or larger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, ConfigDict, Field

from pipeline.input_picture import MAX_SIDE_PX
from pipeline.outputs.extract import row_of
from pipeline.records.results import ImageResult
from pipeline.service.access import Submitter
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.own import image_result, own_batch
from pipeline.service.submission import BatchBody, acceptance_body, accepted, submission_of, with_key

router = APIRouter(prefix="/api/batches/{batch_id}", tags=["images"], route_class=CallerRoute)

_STEP_PX = 64


class AgainWanted(BaseModel):
    """What is to be other than it was."""

    model_config = ConfigDict(extra="forbid")

    seed: int | None = Field(None, description="Another one, -1 any; none: the image's own.")
    longer_side: int | None = Field(
        None, ge=_STEP_PX, le=MAX_SIDE_PX, description="Pixels; both sides follow, in steps of 64. None: as it is."
    )


@router.post("/images/{image_id}/again", status_code=201)
def again(
    service: ServiceOf,
    caller: Submitter,
    batch_id: str,
    image_id: str,
    *,
    response: Response,
    wanted: AgainWanted | None = None,
    idempotency_key: Annotated[str | None, Header()] = None,
) -> Mapping[str, Any]:
    """Submit the row of this image again, for the tenant of its batch. The answer is that of a submission."""
    own_batch(service, caller, batch_id)
    tenant = service.ledger.batches.get(batch_id).manifest.tenant
    row = _row(image_result(service, batch_id, image_id), wanted or AgainWanted())
    submission = submission_of(service, caller, BatchBody(prompts=[row], tenant=tenant))
    found = accepted(service, caller, with_key(submission, idempotency_key))
    if not found.created:
        response.status_code = 200
    response.headers["Location"] = f"/api/batches/{found.manifest.id}"
    return acceptance_body(found)


def _row(image: ImageResult, wanted: AgainWanted) -> dict[str, Any]:
    row = row_of(image)
    if wanted.seed is not None:
        row["seed"] = wanted.seed
    if wanted.longer_side is not None:
        longer = max(image.width, image.height)
        row |= {side: _scaled(row[side], wanted.longer_side, longer) for side in ("width", "height")}
    return row


def _scaled(side: int, wanted: int, longer: int) -> int:
    return max(_STEP_PX, round(side * wanted / longer / _STEP_PX) * _STEP_PX)

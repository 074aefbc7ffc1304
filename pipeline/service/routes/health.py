"""Probes: whether the process lives, and whether it can serve."""

from __future__ import annotations

from fastapi import APIRouter, Response

from pipeline.bucket.artifacts import PROBES
from pipeline.errors import TesseraError
from pipeline.service.context import ServiceOf
from pipeline.service.refusals import error_response

router = APIRouter(include_in_schema=False)


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """It lives; asks nobody else, so that an outage of Redis restarts nothing."""
    return {"status": "ok"}


@router.get("/readyz", response_model=None)
def readyz(service: ServiceOf) -> dict[str, str] | Response:
    """Redis and S3 can be used, and a controller has announced what is rendered."""
    try:
        service.ledger.deployment()
        service.artifacts.get(f"{PROBES}ready", 1, patient=False)  # not there: what counts is the answer
    except TesseraError as error:
        return error_response(error)
    return {"status": "ok"}

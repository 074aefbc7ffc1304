"""`/v1/models`: what the deployment renders with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from pipeline.deployment.announcement import Deployment
from pipeline.service.access import Reader
from pipeline.service.caller_route import CallerRoute
from pipeline.service.context import ServiceOf
from pipeline.service.refusals import NotFound

router = APIRouter(prefix="/v1/models", tags=["openai"], route_class=CallerRoute)


@router.get("")
def list_models(service: ServiceOf, _caller: Reader) -> dict[str, Any]:
    """The models of the allow-list, the default first."""
    deployment = service.ledger.deployment()
    names = sorted(deployment.models, key=lambda name: (name != deployment.default_model, name))
    return {"object": "list", "data": [_model(deployment, name) for name in names]}


@router.get("/{name:path}")
def get_model(service: ServiceOf, _caller: Reader, name: str) -> dict[str, Any]:
    """One model."""
    deployment = service.ledger.deployment()
    if name not in deployment.models:
        raise NotFound(f"model {name[:80]!r} found; {deployment.model_names()} wanted")
    return _model(deployment, name)


def _model(deployment: Deployment, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "tessera",
        "revision": deployment.models[name].revision,
        "native_px": deployment.models[name].native_px,
    }

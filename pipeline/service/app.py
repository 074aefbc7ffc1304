"""The application: its routes, and what holds for all of them."""

from __future__ import annotations

from fastapi import FastAPI

from pipeline.client.connect import Connection
from pipeline.service import refusals
from pipeline.service.context import Service
from pipeline.service.feed import Feeds
from pipeline.service.head_method import HeadMethod
from pipeline.service.http_guard import HttpGuard
from pipeline.service.openai import batches as openai_batches
from pipeline.service.openai import files, generations, models
from pipeline.service.page import html, pages, session, sharing
from pipeline.service.routes import (
    again,
    batches,
    changes,
    deployment,
    events,
    health,
    images,
    objects,
    prompt_sets,
    schedules,
    webhooks,
)
from pipeline.version import installed_version


def create_app(connection: Connection) -> FastAPI:
    """The service of a deployment. It keeps nothing: ledger and bucket are the truth."""
    app = FastAPI(
        title="Tessera",
        version=installed_version(),
        description="Render large prompt sets. Send `Authorization: Bearer TOKEN`.",
        openapi_url="/api/openapi.json",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.service = Service(connection)
    app.state.feeds = Feeds(connection.ledger)
    app.add_middleware(HeadMethod)  # within the other: what is added last has the first word
    app.add_middleware(HttpGuard, upload_bytes=connection.settings.api_upload_megabytes << 20)
    refusals.add_to(app)
    html.add_to(app)
    for routes in (
        *(health, deployment, batches, prompt_sets, changes, events, images, again, objects, schedules),
        *(models, files, openai_batches, generations),
    ):
        app.include_router(routes.router)
    app.include_router(webhooks.router)
    app.include_router(webhooks.of_batch)
    app.include_router(files.own_router)
    app.include_router(sharing.own_router)
    for part in (session, sharing, pages):
        app.include_router(part.router)
    return app

"""Where an image's file is fetched: through the API with a token, or from the bucket by a link of minutes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from pipeline.records.results import ImageResult
from pipeline.service.context import Service, ServiceOf


async def _base(request: Request, service: ServiceOf) -> str:
    return (service.settings.api_url or str(request.base_url)).rstrip("/")


# What the API's own links begin with: its address.
Base = Annotated[str, Depends(_base)]


def image_url(service: Service, base: str, batch_id: str, image: ImageResult) -> str:
    """Of the file. A presigned link is a credential: it is in answers, and never in logs."""
    if service.settings.api_links == "presigned":
        return presigned(service, image.key)
    return f"{base}/api/batches/{batch_id}/images/{image.image_id}/file"


def presigned(service: Service, key: str) -> str:
    """A link to an object that works without credentials for as long as the settings say."""
    return service.artifacts.presigned(key, timedelta(minutes=service.settings.api_link_minutes))

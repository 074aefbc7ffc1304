"""What the HTTP API allows, and how its answers lead to files."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, field_validator

from pipeline.deployment.settings.variables import SettingsPart


class ApiSettings(SettingsPart):
    """Of `tessera serve`."""

    api_url: str | None = Field(
        None, description="Address under which clients reach the API, for links in its answers; none: as they asked."
    )
    api_requests_per_minute: int = Field(6000, ge=1, description="Requests that one token may make in a minute.")
    api_upload_megabytes: int = Field(1024, ge=1, description="Largest prompt set or picture that may be uploaded.")
    api_wait_s: float = Field(
        120.0, ge=0, le=3600, description="How long `/v1/images/generations` waits for its pictures."
    )
    api_links: Literal["streamed", "presigned"] = Field(
        "streamed",
        description="How files are fetched: through the API, or from the bucket, where clients can reach it.",
    )
    api_links_endpoint: str | None = Field(
        None, description="URL of the S3 endpoint as clients reach it, for presigned links; none: `s3_endpoint`."
    )
    api_link_minutes: float = Field(15.0, gt=0, le=7 * 24 * 60, description="How long a presigned link works.")
    api_trusted_header: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Header by which a proxy that signs users in (OIDC) names the tenant; none trusts no header.",
    )
    api_trusted_proxies: tuple[str, ...] = Field(
        (), description="Addresses or networks of the proxies that are believed (JSON list)."
    )

    @field_validator("api_trusted_proxies")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

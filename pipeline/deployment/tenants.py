"""Tenants: who shares a deployment fairly, and what one of them may have of it at a time."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.errors import RequestError
from pipeline.names import checked_id

EVERYBODY_ELSE = "*"


class TenantLimits(BaseModel):
    """What one tenant may have at a time; None is as much as there is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    running_jobs: int | None = Field(None, ge=1, description="Jobs that workers look after: its pods.")
    open_images: int | None = Field(None, ge=1, description="Images that are accepted and have no outcome yet.")
    prompt_buckets: tuple[str, ...] | None = Field(
        None, description="Buckets of its schedules' prompts, beside the deployment's; None: TESSERA_PROMPT_BUCKETS."
    )


NO_LIMITS = TenantLimits()


def checked_tenant(name: str) -> str:
    """The name itself. Raises ValueError."""
    try:
        return checked_id(name, "tenant")
    except RequestError as error:
        raise ValueError(str(error)) from error


Tenant = Annotated[str, AfterValidator(checked_tenant)]


def _check_names(limits: dict[str, TenantLimits]) -> dict[str, TenantLimits]:
    for name in limits.keys() - {EVERYBODY_ELSE}:
        checked_tenant(name)
    return limits


Tenants = Annotated[dict[str, TenantLimits], AfterValidator(_check_names)]


def limits_of(tenants: Mapping[str, TenantLimits], name: str) -> TenantLimits:
    """The limits of a tenant: its own, or else those of everybody else."""
    return tenants.get(name, tenants.get(EVERYBODY_ELSE, NO_LIMITS))


def check_prompt_bucket(
    url: str, tenant: str, *, own: str, others: Collection[str], tenants: Mapping[str, TenantLimits]
) -> None:
    """Raise RequestError if a schedule of this tenant may not have its prompts in the bucket of an s3:// URL.

    The controller reads them with its own credentials, which may open more than its users may.

    Args:
        own: the deployment's bucket, which everybody may use.
        others: buckets that tenants may use who have no list of their own.
    """
    listed = limits_of(tenants, tenant).prompt_buckets
    allowed = sorted({own, *(others if listed is None else listed)})
    bucket = url.removeprefix("s3://").partition("/")[0]
    if bucket not in allowed:
        setting = "TESSERA_PROMPT_BUCKETS" if listed is None else "TESSERA_TENANTS"
        raise RequestError(
            f"prompts in bucket {bucket[:100]!r} found; tenant {tenant!r} may have them in {', '.join(allowed)}. Put "
            f"them there, or ask whoever runs the deployment to add the bucket to {setting}"
        )

"""Which buckets a schedule's prompts may lie in."""

from __future__ import annotations

import pytest

from pipeline.deployment.tenants import TenantLimits, check_prompt_bucket
from pipeline.errors import RequestError

TENANTS = {"acme": TenantLimits(prompt_buckets=("acme-art",)), "*": TenantLimits(open_images=1)}


@pytest.mark.parametrize(
    ("bucket", "tenant", "allowed"),
    [
        ("own", "acme", True),
        ("own", "zoo", True),
        ("acme-art", "acme", True),
        ("acme-art", "zoo", False),
        ("shared", "zoo", True),
        ("shared", "acme", False),  # its own list counts instead
        ("OWN", "zoo", False),
        ("own.evil", "zoo", False),
        ("ow", "zoo", False),
        ("", "zoo", False),
    ],
)
def test_the_deployments_bucket_and_those_of_the_tenant_are_allowed(bucket: str, tenant: str, *, allowed: bool) -> None:
    url = f"s3://{bucket}/own/shared/x.jsonl"
    if allowed:
        check_prompt_bucket(url, tenant, own="own", others=("shared",), tenants=TENANTS)
        return
    setting = "TESSERA_TENANTS" if tenant == "acme" else "TESSERA_PROMPT_BUCKETS"
    with pytest.raises(
        RequestError, match=rf"prompts in bucket '{bucket}' found; tenant '{tenant}' may .* own.*{setting}"
    ):
        check_prompt_bucket(url, tenant, own="own", others=("shared",), tenants=TENANTS)

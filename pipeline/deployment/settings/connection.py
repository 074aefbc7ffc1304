"""Where a deployment's Redis and S3 are, and how they are reached: what its clients need to know, too."""

from __future__ import annotations

import re
from typing import Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, field_validator, model_validator

from pipeline.deployment.settings.sentinels import Sentinels, parsed_sentinels
from pipeline.deployment.settings.variables import HomePath, SettingsPart

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


class ConnectionSettings(SettingsPart):
    """Where Redis and S3 are."""

    redis_url: SecretStr = Field(
        description="redis:// or rediss:// URL of one Redis or Valkey (not a Cluster), or sentinel:// or "
        "rediss+sentinel:// of one that Redis Sentinel watches."
    )
    redis_ca: HomePath | None = Field(None, description="CA certificates (PEM) for rediss://; none means the system's.")
    redis_cert: HomePath | None = Field(
        None, description="Our certificate (PEM), where Redis wants one of its clients."
    )
    redis_key: HomePath | None = Field(None, description="Key of our certificate (PEM).")
    redis_durability: Literal["warn", "refuse"] = Field(
        "warn", description="What workers do at start about a Redis without AOF, or that may evict records."
    )
    redis_prefix: str = Field("tessera", description="Namespace of all keys and queues, so releases can share a Redis.")
    s3_endpoint: str | None = Field(None, description="URL of the S3 endpoint; none means AWS.")
    s3_region: str = Field("us-east-1", description="Region that requests are signed for.")
    s3_bucket: str = Field(description="Bucket of all artifacts; it must exist.")
    s3_prefix: str = Field("", description="Folder inside the bucket, without slashes at its ends.")
    connect_timeout_s: float = Field(
        5.0, gt=0, le=300, description="How long a first connection may take before it fails."
    )

    @field_validator("redis_url")
    @classmethod
    def _check_url(cls, value: SecretStr) -> SecretStr:
        if parsed_sentinels(value.get_secret_value()) is not None:
            return value
        url = urlsplit(value.get_secret_value())
        scheme = url.scheme
        if scheme not in ("redis", "rediss"):
            raise ValueError(
                f"scheme {scheme!r} found, redis://, rediss://, sentinel:// or rediss+sentinel:// wanted (Redis "
                "Cluster cannot be a broker)"
            )
        if url.query or url.fragment:  # ssl_cert_reqs=none, say, which would switch off all checks silently
            raise ValueError("options found behind '?' or '#', none wanted; TLS has settings of its own")
        return value

    @field_validator("redis_prefix")
    @classmethod
    def _check_prefix(cls, value: str) -> str:
        if not _NAME.fullmatch(value) or len(value) > 40:
            raise ValueError(f"{value!r} found; wanted 1 to 40 of a-z, 0-9 and inner dashes")
        return value

    @field_validator("s3_prefix")
    @classmethod
    def _check_folder(cls, value: str) -> str:
        if value and not all(re.fullmatch(r"[A-Za-z0-9._-]+", part) and part.strip(".") for part in value.split("/")):
            raise ValueError(f"{value!r} found; wanted path parts of letters, digits, '.', '_' and '-' joined by '/'")
        return value

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        given = [name for name in ("redis_ca", "redis_cert", "redis_key") if getattr(self, name) is not None]
        if given and not self.redis_tls:
            raise ValueError(f"{' and '.join(given)} found, and redis_url is neither rediss:// nor rediss+sentinel://")
        if (self.redis_cert is None) is not (self.redis_key is None):
            raise ValueError("redis_cert and redis_key are wanted together")
        return self

    @property
    def redis_sentinels(self) -> Sentinels | None:
        """The sentinels that say which Redis is the primary; None if the URL names a server."""
        return parsed_sentinels(self.redis_url.get_secret_value())

    @property
    def redis_has_secret(self) -> bool:
        """Whether the URL holds a user or a password."""
        url = self.redis_url.get_secret_value()
        return "@" in url or "sentinel_password" in url

    @property
    def redis_tls(self) -> dict[str, Any]:
        """What redis-py and kombu need for TLS; empty without it. Certificate and host name are always checked."""
        if urlsplit(self.redis_url.get_secret_value()).scheme not in ("rediss", "rediss+sentinel"):
            return {}
        files = {"ssl_ca_certs": self.redis_ca, "ssl_certfile": self.redis_cert, "ssl_keyfile": self.redis_key}
        return {
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
            **{name: str(path) for name, path in files.items() if path is not None},
        }


def without_credentials(url: str) -> str:
    """The URL as it may be shown: its user and password replaced, its query dropped (presigned URLs sign there)."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, f"***@{host}" if "@" in parts.netloc else host, parts.path, "", ""))

"""A client of the deployment's Redis: of one server, or of whichever Redis Sentinel says is the primary now."""

from __future__ import annotations

from typing import Any

import redis
from redis.retry import Retry
from redis.sentinel import Sentinel

from pipeline.deployment.settings import ConnectionSettings


def redis_client(
    settings: ConnectionSettings, *, connect_timeout_s: float, timeout_s: float, retry: Retry, **options: Any
) -> Any:
    """A client whose every wait ends; nothing is sent yet. `options` are redis-py's."""
    common: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout_s,
        "socket_timeout": timeout_s,
        "socket_keepalive": True,
    }
    tls, sentinels = settings.redis_tls, settings.redis_sentinels
    if sentinels is None:
        return redis.Redis.from_url(settings.redis_url.get_secret_value(), **tls, **common, retry=retry, **options)
    watchers = Sentinel(sentinels.nodes, sentinel_kwargs={**common, "retry": retry, **sentinels.node_options(tls)})
    return watchers.master_for(
        sentinels.service,
        db=sentinels.db,
        username=sentinels.username,
        password=sentinels.password,
        **({"ssl": True} | tls if tls else {}),
        **common,
        retry=retry,
        **options,
    )

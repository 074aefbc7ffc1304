"""What goes through Celery: ten names, two queues, and ids as arguments. A message is only a hint.

Whatever is lost or doubled here, the controller's next tick mends; the truth is in the ledger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import structlog

from pipeline.deployment.broker_keys import CONTROL_QUEUE, FANOUT, RENDER_QUEUE, broker_prefix, queue_name
from pipeline.deployment.settings import ConnectionSettings

if TYPE_CHECKING:
    from celery import Celery

log = structlog.get_logger(__name__)

EXPAND = "tessera.expand"  # batch id: cut an accepted batch into jobs
REOPEN = "tessera.reopen"  # batch id: open the jobs again that a retry was asked for
CANCEL = "tessera.cancel"  # batch id: cancel its waiting jobs
FINALIZE = "tessera.finalize"  # batch id: write the results of a batch whose jobs are all final
TICK = "tessera.tick"  # nothing: mend what stands still
PURGE = "tessera.purge"  # batch id: remove it
RECONCILE = "tessera.reconcile"  # batch id: bring ledger and bucket in line
FIRE = "tessera.fire"  # schedule name: see to the firings of a schedule that are due
VERIFY_LEDGER = "tessera.verify_ledger"  # nothing: compare a ledger that is in doubt with the bucket
RENDER = "tessera.render"  # nothing: there may be a job to claim

# Celery compares the clocks of who sends and who takes. Longer than these may differ before S3 refuses what they
# sign, and short enough that few ticks wait for a controller that was away.
HINT_LASTS_S = 1800.0

SOCKET_TIMEOUT_S = 30.0

_CONTROL = (EXPAND, REOPEN, CANCEL, FINALIZE, PURGE, RECONCILE, TICK, FIRE, VERIFY_LEDGER)
_QUEUES = dict.fromkeys(_CONTROL, CONTROL_QUEUE) | {RENDER: RENDER_QUEUE}


def celery_app(settings: ConnectionSettings) -> Celery:
    """A Celery application of this deployment that can send, and knows no tasks yet."""
    from celery import Celery  # a seventh of the client's time to import, and most commands give no hint

    app, prefix = Celery("tessera"), settings.redis_prefix
    app.conf.update(
        broker_url=_broker_url(settings),
        # Without it kombu would take any certificate. RedBeat reads it, too.
        broker_use_ssl=settings.redis_tls or None,
        broker_transport_options={
            "global_keyprefix": broker_prefix(prefix),
            "queue_order_strategy": "priority",
            # kombu subscribes to its channel as to a pattern, which Redis allows only by its very name:
            # pipeline/ledger/server/acl.py has it. By default it would hold the number of the database.
            "fanout_prefix": FANOUT,
            "socket_connect_timeout": settings.connect_timeout_s,
            # A half-open connection would otherwise hang for ever.
            "socket_timeout": SOCKET_TIMEOUT_S,
            "socket_keepalive": True,
            **_sentinel_options(settings),
        },
        broker_connection_retry_on_startup=True,
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_create_missing_queues=True,
        task_default_queue=queue_name(prefix, CONTROL_QUEUE),
        task_routes={name: {"queue": queue_name(prefix, queue)} for name, queue in _QUEUES.items()},
        # A hint that is lost with its worker is given again, so there is nothing to acknowledge late.
        task_acks_late=False,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        timezone="UTC",
    )
    return app


def _broker_url(settings: ConnectionSettings) -> str:
    """The URL as kombu reads it: it knows sentinels by a URL each, and has the service's name among its options."""
    sentinels = settings.redis_sentinels
    if sentinels is None:
        return settings.redis_url.get_secret_value()
    user = quote(sentinels.username or "", safe="")
    secret = f"{user}:{quote(sentinels.password, safe='')}@" if sentinels.password else f"{user}@" if user else ""
    hosts = (f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in sentinels.nodes)
    return ";".join(f"sentinel://{secret}{host}/{sentinels.db}" for host in hosts)


def _sentinel_options(settings: ConnectionSettings) -> dict[str, Any]:
    sentinels = settings.redis_sentinels
    if sentinels is None:
        return {}
    timeouts = {"socket_connect_timeout": settings.connect_timeout_s, "socket_timeout": settings.connect_timeout_s}
    return {
        "master_name": sentinels.service,
        "sentinel_kwargs": timeouts | sentinels.node_options(settings.redis_tls),
    }


def beat_options(settings: ConnectionSettings) -> dict[str, Any]:
    """Where RedBeat finds Redis."""
    sentinels = settings.redis_sentinels
    if sentinels is None:
        return {"redbeat_redis_url": settings.redis_url.get_secret_value()}
    return {
        "redbeat_redis_url": "redis-sentinel://",
        "redbeat_redis_options": {
            "sentinels": list(sentinels.nodes),
            "service_name": sentinels.service,
            "db": sentinels.db,
            "username": sentinels.username,
            "password": sentinels.password,
            "socket_timeout": SOCKET_TIMEOUT_S,
            "sentinel_kwargs": _sentinel_options(settings)["sentinel_kwargs"],
        },
    }


def send_hint(app: Celery, name: str, *args: str) -> bool:
    """Say that there is work; False if the broker is away, which costs no more than the time to the next tick."""
    from kombu.exceptions import OperationalError

    options: dict[str, Any] = {"retry": False, "ignore_result": True, "expires": HINT_LASTS_S}
    try:
        app.send_task(name, args=list(args), **options)
    except (OperationalError, ConnectionError, TimeoutError) as error:
        log.warning("the broker did not take a hint; the next tick mends it", task=name, error=str(error))
        return False
    return True

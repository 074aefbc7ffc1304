"""kombu's transport over Redis, through which a worker gets hints and nothing else (`tasks/process/incoming.py`).

kombu decodes what it has taken out of a list in the consumer's own loop, where an error ends the worker; the earliest
place that is ours is the answer of Redis. Acknowledgements are not emulated: an unacknowledged message would be kept
and given again, but a hint that is lost is given again by the tick, and one that is not kept poisons nothing.
"""

from __future__ import annotations

import functools
from queue import Empty
from typing import Any

import redis as redis_py
from celery import Celery
from kombu.transport import TRANSPORT_ALIASES, redis

from pipeline.ledger.dead_letters import Malformed
from tasks.process.incoming import Incoming

_KEPT_OF_A_BROADCAST = 500


class _HintsOnlyRedis(redis.PrefixedStrictRedis):
    """Takes what is no hint for an answer without a message."""

    def __init__(self, *args: Any, incoming: Incoming, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self._incoming = incoming

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        answer = super().parse_response(connection, command_name, **options)  # type: ignore[no-untyped-call]
        if command_name != "BRPOP" or not answer:
            return answer
        key, raw = answer
        envelope = self._incoming.hint(raw, key.decode())
        return None if envelope is None else (key, envelope)


class _HintsOnly:
    """What both channels do otherwise than kombu's."""

    incoming: Incoming

    def _get_client(self) -> Any:
        options = {"global_keyprefix": self.global_keyprefix, "incoming": self.incoming}  # type: ignore[attr-defined]
        return functools.partial(_HintsOnlyRedis, **options)

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except redis_py.ResponseError as error:
            if "WRONGTYPE" in f"{getattr(error, 'status_code', '')} {error}":
                self.incoming.clear_queue(self._keys())
                raise Empty from error
            # A replica after a failover, say: what ends when somebody mends the server is an outage, and waited out.
            raise redis_py.ConnectionError(str(error)) from error

    def _keys(self) -> list[str]:
        channel: Any = self
        queues, steps = channel.active_queues, channel.priority_steps
        return [channel.global_keyprefix + channel._q_for_pri(queue, step) for queue in queues for step in steps]

    def _deliver_fanout_message(self, message: Any, exchange: str) -> Any:
        properties = message.get("properties") if isinstance(message, dict) else None
        if not isinstance(properties, dict) or not isinstance(properties.get("delivery_tag"), str):
            raw = repr(message)[:_KEPT_OF_A_BROADCAST].encode()
            self.incoming.refuse(Malformed.REMOTE_CONTROL, "no envelope", raw, exchange)
            raise Empty
        return super()._deliver_fanout_message(message, exchange)  # type: ignore[misc]


class Channel(_HintsOnly, redis.Channel):
    """Of one Redis."""

    from_transport_options = (*redis.Channel.from_transport_options, "incoming")  # type: ignore[assignment]


class Transport(redis.Transport):
    """Of one Redis."""

    Channel = Channel


class SentinelChannel(_HintsOnly, redis.SentinelChannel):
    """Of whichever Redis its sentinels name."""

    from_transport_options = (*redis.SentinelChannel.from_transport_options, "incoming")  # type: ignore[assignment]


class SentinelTransport(redis.SentinelTransport):
    """Of whichever Redis its sentinels name."""

    Channel = SentinelChannel


def take_hints_only(app: Celery, incoming: Incoming) -> None:
    """Have this process take what it gets from queues through `incoming`."""
    # By scheme and not by the application: kombu goes back to the scheme's when it turns to another sentinel.
    own = f"{__name__}:{Transport.__name__}"
    TRANSPORT_ALIASES.update(redis=own, rediss=own, sentinel=f"{__name__}:{SentinelTransport.__name__}")
    app.conf.update(
        broker_transport_options={
            **app.conf.broker_transport_options,
            "incoming": incoming,
            "ack_emulation": False,
        },
    )

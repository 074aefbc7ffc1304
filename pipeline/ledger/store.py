"""One Redis: commands, atomic steps by name, and Redis' errors translated once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import AskError, ClusterCrossSlotError, ClusterDownError, MovedError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from pipeline.deployment.settings import ConnectionSettings, without_credentials
from pipeline.errors import LedgerUnavailable, RecordUnreadable
from pipeline.ledger.keys import Keys
from pipeline.ledger.redis_client import redis_client
from pipeline.ledger.scripts import Argument, script

# A command that hangs longer is on a half-open connection; a script of ours takes well under a second.
SOCKET_TIMEOUT_S = 10.0
RETRIES = 3

_CLUSTER_ANSWERS = (MovedError, AskError, ClusterDownError, ClusterCrossSlotError)

# Refusals that end when somebody mends the server: outages, not our mistakes.
_NOT_NOW = {
    "OOM": "is full (maxmemory); give it room",
    "READONLY": "is a replica, which nobody may write to; TESSERA_REDIS_URL must lead to the primary",
    "MASTERDOWN": "is a replica that has lost its primary; TESSERA_REDIS_URL must lead to the primary",
    "NOREPLICAS": "has fewer replicas than it wants before it writes (min-replicas-to-write)",
    "MISCONF": "cannot write to its disk; its own log says why",
    "BUSY": "is busy with a script of another program",
}


class Store:
    """A pool of connections to the deployment's Redis. Safe to share between threads."""

    def __init__(self, settings: ConnectionSettings) -> None:
        self.keys = Keys(settings.redis_prefix)
        self._url = settings.redis_url.get_secret_value()
        # redis-py's types do not know what decode_responses decodes; our callers state what they get
        self.redis: Any = redis_client(
            settings,
            connect_timeout_s=settings.connect_timeout_s,
            timeout_s=SOCKET_TIMEOUT_S,
            retry=Retry(ExponentialBackoff(cap=1.0, base=0.1), RETRIES),
            decode_responses=True,
            # What is no text is an unreadable record, found where it is read, and no error of the connection.
            encoding_errors="surrogateescape",
            health_check_interval=15,
            redis_connect_func=self._connect,
        )
        self._scripts: dict[str, Any] = {}
        self._connections = itertools.count(1)
        self.connected = 0  # how many connections there were: another Redis answers only over another connection

    def _connect(self, connection: Any) -> None:
        self.connected = next(self._connections)
        # `on_connect` would check its health before the handshake, which connects again where credentials are refused.
        connection.on_connect_check_health(check_health=False)

    def run(self, name: str, /, *more: Argument, **named: Argument) -> Any:
        """Run one atomic step, with the arguments that its file names, and `more` after them if it takes others.

        It may be asked for twice when a connection breaks: each step is guarded against that.
        """
        with self.errors():
            return self._registered(name)(keys=[self.keys.prefix], args=script(name).arguments(named, more))

    def run_each(self, name: str, each: Iterable[Mapping[str, Argument]]) -> list[Any]:
        """Run an atomic step once for each set of arguments, sent together; returns the answers in order.

        Steps of other clients may run between two of them.
        """
        with self.errors():
            pipe = self.redis.pipeline(transaction=False)
            for named in each:
                args = script(name).arguments(named, ())
                self._registered(name)(keys=[self.keys.prefix], args=args, client=pipe)
            return list(pipe.execute())

    def _registered(self, name: str) -> Any:
        if name not in self._scripts:
            self._scripts[name] = self.redis.register_script(script(name).source)
        return self._scripts[name]

    def now(self) -> datetime:
        """Redis' clock: the one that all of a deployment's processes share."""
        with self.errors():
            seconds, microseconds = self.redis.time()
        return datetime.fromtimestamp(seconds + microseconds / 1e6, UTC)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn Redis' errors into LedgerUnavailable, whose message says what to do."""
        try:
            yield
        except redis.AuthenticationError as error:
            raise LedgerUnavailable(
                f"Redis at {self.where} refuses our credentials ({error}); check user and password in TESSERA_REDIS_URL"
            ) from error
        except redis.ResponseError as error:
            if is_of_wrong_type(error):
                raise RecordUnreadable("a key in Redis", "a value of another type", "the ledger's own") from error
            if "is not an integer" in str(error):
                raise RecordUnreadable("a counter in Redis", "something else", "a number") from error
            if (meaning := self._meaning(error)) is None:
                raise
            raise LedgerUnavailable(f"Redis at {self.where} {meaning}") from error
        except MasterNotFoundError as error:
            raise LedgerUnavailable(
                f"no sentinel of {self.where} names a primary ({error}); it may be failing over, or the service is "
                "called otherwise: check TESSERA_REDIS_URL"
            ) from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            if "certificate" in str(error).lower():
                raise LedgerUnavailable(
                    f"Redis at {self.where}: TLS failed ({error}); check TESSERA_REDIS_CA, and TESSERA_REDIS_CERT and "
                    "TESSERA_REDIS_KEY if it wants a certificate of its clients"
                ) from error
            raise LedgerUnavailable(
                f"Redis at {self.where} does not answer ({type(error).__name__}); "
                "check TESSERA_REDIS_URL, and whether what leads there (a port-forward, a VPN) still does"
            ) from error

    @staticmethod
    def _meaning(error: redis.ResponseError) -> str | None:
        """What is wrong with Redis; None if our request was wrong."""
        words = _tokens(error)
        for word, meaning in _NOT_NOW.items():
            if word in words:
                return f"{meaning} ({error})"
        if "NOPERM" in words or "NOAUTH" in words:
            return f"refuses us ({error}); check user and password in TESSERA_REDIS_URL"
        if isinstance(error, _CLUSTER_ANSWERS):
            return (
                f"is part of a Redis Cluster ({error}), which can be neither broker nor ledger; "
                "one Redis or Valkey wanted"
            )
        return None

    @property
    def where(self) -> str:
        """The URL without its credentials."""
        return without_credentials(self._url)


def is_of_wrong_type(error: redis.ResponseError) -> bool:
    """Whether a key holds something else than what the command is for."""
    return "WRONGTYPE" in _tokens(error)


def _tokens(error: redis.ResponseError) -> list[str]:
    return f"{getattr(error, 'status_code', None) or ''} {error}".split()

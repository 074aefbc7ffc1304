"""How fast this deployment has been: sums over finished jobs, one hash per kind of job."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, fields

import redis
import structlog
from pydantic import ConfigDict, RootModel

from pipeline.deployment.displacement import Exchange
from pipeline.deployment.layouts import Layout
from pipeline.deployment.speed import Speed, SpeedKey
from pipeline.errors import RecordUnreadable
from pipeline.ledger.store import Store
from pipeline.schema import read_record

log = structlog.get_logger(__name__)

_PARTS = tuple(field.name for field in fields(Speed))
_WHOLE = frozenset({"images", "pixels", "bytes", "pods"})


class Speeds:
    """The sums only grow, each by one atomic step. Only estimates depend on them, so losing them costs little."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def learn(self, done: Mapping[SpeedKey, Speed]) -> None:
        """Add the figures of a finished job."""
        for key, speed in done.items():
            amounts = [text for part, amount in asdict(speed).items() for text in (part, amount)]
            self._store.run("learn", *amounts, kind=_name(key))

    def all(self) -> dict[SpeedKey, Speed]:
        """All sums, by kind of job. What cannot be read is passed over: it is learned again."""
        with self._store.errors():
            names = sorted(self._store.redis.smembers(self._store.keys.speeds))
            pipe = self._store.redis.pipeline(transaction=False)
            for name in names:
                pipe.hgetall(self._store.keys.speed(name))
            found = pipe.execute(raise_on_error=False)
        learned: dict[SpeedKey, Speed] = {}
        for name, sums in zip(names, found, strict=True):
            try:
                learned[_key(name)] = _speed(sums)
            except (RecordUnreadable, ValueError) as error:
                log.warning("what was learned of a kind of job cannot be read", kind=name, reason=str(error))
        return learned


# Both stand in the device's name, since earlier versions read a name of five parts, and these as another device's.
_AT_A_TIME = re.compile(r"(.*), (\d{1,3}) at a time", re.DOTALL)
_EXCHANGES = {f", {one.value} exchange": one for one in Exchange if one is not Exchange.DISPLACED}


def _name(key: SpeedKey) -> str:
    device = key.device + "".join(text for text, one in _EXCHANGES.items() if one is key.exchange)
    device = device if key.slots == 1 else f"{device}, {key.slots} at a time"
    return json.dumps([key.model, str(key.layout), key.exact, device, key.size])


class _Name(RootModel[tuple[str, str, bool, str, int]]):
    """The name of a kind of job: the fields of its SpeedKey, in order."""

    model_config = ConfigDict(frozen=True)


def _key(name: str) -> SpeedKey:
    model, layout, exact, device, size = read_record(_Name, name, what="the name of a kind of job").root
    several = _AT_A_TIME.fullmatch(device)
    slots = int(several[2]) if several else 1
    device = several[1] if several else device
    said = next((text for text in _EXCHANGES if device.endswith(text)), "")
    exchange = _EXCHANGES.get(said, Exchange.DISPLACED)
    return SpeedKey(model, Layout.parse(layout), exact, device.removesuffix(said), size, slots, exchange)


def _speed(sums: Mapping[str, str] | redis.ResponseError) -> Speed:
    if isinstance(sums, redis.ResponseError):
        raise RecordUnreadable("sums of a kind of job", "a key of another type", "a hash")
    found = {name: float(sums.get(name, 0)) for name in _PARTS}
    if not all(0 <= amount < math.inf for amount in found.values()) or (found["seconds"] and not found["tera"]):
        raise RecordUnreadable("sums of a kind of job", "some that are lost or no sums", "seconds and work")
    return Speed(**{name: int(found[name]) if name in _WHOLE else found[name] for name in _PARTS})  # type: ignore[arg-type]

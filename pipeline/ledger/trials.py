"""Which job tries a model that no pod has loaded yet, and what a pod of a batch found wrong with one.

All of it expires: what is forgotten is tried once more.
"""

from __future__ import annotations

import time
from datetime import timedelta

from pipeline.errors import RecordUnreadable
from pipeline.ledger.store import Store

# How long others wait for a job whose worker is gone; a living one renews its trial at every look.
TRIAL_S = 60.0
PROVEN_FOR, REFUSED_FOR = timedelta(days=7), timedelta(days=1)
# A proof is written again no sooner, for each of a thousand jobs would.
PROVEN_AGAIN_S = 60.0

_PROVEN = "proven"  # no ref of a job: it has no slash


class Trials:
    """By digests: of a model as pods load it, and of that model in one batch."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._proved: dict[str, float] = {}  # when by this process, by a monotonic clock

    def standing(self, model: str, in_batch: str) -> tuple[bool, str | None]:
        """Whether a pod has rendered with this model, and what a pod of the batch found wrong with it."""
        keys = self._store.keys
        with self._store.errors():
            found, reason = self._store.redis.mget(keys.trial(model), keys.refusal(in_batch))
        return self._is_proof(model, found), None if reason is None else str(reason)

    def _is_proof(self, model: str, found: object) -> bool:
        if found != _PROVEN:
            self._proved.pop(model, None)
        return found == _PROVEN

    def begin(self, model: str, ref: str) -> str | None:
        """Have job `ref` try this model; None if it does, or if the model is proven, else which job tries it."""
        key, redis, lasts_ms = self._store.keys.trial(model), self._store.redis, int(TRIAL_S * 1000)
        try:
            with self._store.errors():
                pipe = redis.pipeline(transaction=False)
                pipe.set(key, ref, nx=True, get=True, px=lasts_ms)
                pipe.pexpire(key, lasts_ms, nx=True)  # whoever wrote what is there: it ends
                found = pipe.execute()[0]
        except RecordUnreadable:  # something else lies there
            found = ref
        if found == ref:
            with self._store.errors():
                redis.set(key, ref, px=lasts_ms)
        return None if found in (None, ref, _PROVEN) else str(found)

    def is_proven(self, model: str) -> bool:
        """Whether a pod has rendered with this model."""
        return self._is_proof(model, self._found(model))

    def _found(self, model: str) -> str | None:
        with self._store.errors():
            [found] = self._store.redis.mget(self._store.keys.trial(model))  # nothing where something else lies
        return None if found is None else str(found)

    def prove(self, model: str) -> None:
        """A pod has begun to render with this model: any number may load it."""
        now = time.monotonic()
        if now - self._proved.get(model, -PROVEN_AGAIN_S) < PROVEN_AGAIN_S:
            return
        with self._store.errors():
            self._store.redis.set(self._store.keys.trial(model), _PROVEN, ex=PROVEN_FOR)
        self._proved[model] = now

    def end(self, model: str, ref: str) -> None:
        """The trial of job `ref` has shown nothing: another may try."""
        if self._found(model) == ref:
            with self._store.errors():
                self._store.redis.delete(self._store.keys.trial(model))

    def refuse(self, model: str, in_batch: str, reason: str) -> None:
        """A pod has found that this model cannot be rendered with: no other one of that batch is to try."""
        with self._store.errors():
            self._store.redis.set(self._store.keys.refusal(in_batch), reason, ex=REFUSED_FOR)
            self._store.redis.delete(self._store.keys.trial(model))
        self._proved.pop(model, None)

"""Which job tries a model that no pod has loaded yet, and what a pod of a batch found wrong with one.

All of it expires: what is forgotten is tried once more.
"""

from __future__ import annotations

from datetime import timedelta

from pipeline.ledger.store import Store

# How long others wait for a job whose worker is gone; a living one renews its trial at every look.
TRIAL_S = 60.0
PROVEN_FOR, REFUSED_FOR = timedelta(days=7), timedelta(days=1)

_PROVEN = "proven"  # no ref of a job: it has no slash


class Trials:
    """By digests: of a model as pods load it, and of that model in one batch."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def begin(self, model: str, ref: str) -> str | None:
        """Have job `ref` try this model; None if it does, or if the model is proven, else which job tries it."""
        key = self._store.keys.trial(model)
        with self._store.errors():
            found = self._store.redis.set(key, ref, nx=True, get=True, px=int(TRIAL_S * 1000))
            if found == ref:
                self._store.redis.set(key, ref, xx=True, px=int(TRIAL_S * 1000))
        return None if found in (None, ref, _PROVEN) else str(found)

    def is_proven(self, model: str) -> bool:
        """Whether a pod has rendered with this model."""
        with self._store.errors():
            return bool(self._store.redis.get(self._store.keys.trial(model)) == _PROVEN)

    def prove(self, model: str) -> None:
        """A pod has begun to render with this model: any number may load it."""
        with self._store.errors():
            self._store.redis.set(self._store.keys.trial(model), _PROVEN, ex=PROVEN_FOR)

    def end(self, model: str, ref: str) -> None:
        """The trial of job `ref` has shown nothing: another may try."""
        with self._store.errors():
            if self._store.redis.get(self._store.keys.trial(model)) == ref:
                self._store.redis.delete(self._store.keys.trial(model))

    def refuse(self, model: str, in_batch: str, reason: str) -> None:
        """A pod has found that this model cannot be rendered with: no other one of that batch is to try."""
        with self._store.errors():
            self._store.redis.set(self._store.keys.refusal(in_batch), reason, ex=REFUSED_FOR)
            self._store.redis.delete(self._store.keys.trial(model))

    def refusal(self, in_batch: str) -> str | None:
        """What a pod of the batch found wrong with the model."""
        with self._store.errors():
            reason = self._store.redis.get(self._store.keys.refusal(in_batch))
        return None if reason is None else str(reason)

"""Objects of batches deleted, damaged and hidden, chosen by a number in [0, 1)."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

from pipeline.records.object_keys import BatchObjects
from tests.faults.deployment import Deployment

# Without these nobody can know what was asked for.
ROWS = re.compile(r"/staged/|/shards/")


@dataclass
class ObjectHarm:
    """What was done to the objects of a deployment, past the wire on which commits are counted."""

    deployment: Deployment
    say: Callable[[str], object]  # called with what was done to which object
    harmed: Counter[str] = field(default_factory=Counter)
    lost_rows: set[str] = field(default_factory=set)

    def delete(self, batch_id: str, pick: float) -> None:
        if (key := self._one(batch_id, pick)) is not None:
            self._note(batch_id, key, "deleted")
            self.deployment.artifacts.delete(key)

    def damage(self, batch_id: str, pick: float) -> None:
        """Cut short, emptied, or in its place something of another kind."""
        if (key := self._one(batch_id, pick)) is None or (body := self.deployment.artifacts.get(key)) is None:
            return
        self._note(batch_id, key, "damaged")
        wrong = random.Random(pick).choice([body[: len(body) // 2], b"", b"\x00" * 64, b'{"schema_version": 1}\n'])
        self.deployment.artifacts.put(key, wrong, content_type="application/octet-stream")

    def hide(self, batch_id: str, pick: float) -> ExitStack:
        """Reads of one object, or of a whole kind, answer 404 until the stack is closed. Lists still show it."""
        stack = ExitStack()
        if (key := self._one(batch_id, pick)) is not None:
            self.say(f"hidden: {key}{'' if pick < 0.5 else ' and its kind'}")
            pattern = re.escape(key) if pick < 0.5 else f"/{re.escape(key.split('/')[2])}(/|$)"
            for method in ("GET", "HEAD"):
                stack.enter_context(self.deployment.s3_wire.breaking(method=method, key=pattern, status=404))
        return stack

    def _one(self, batch_id: str, pick: float) -> str | None:
        objects = BatchObjects(batch_id)
        keys = [key for key in self.deployment.artifacts.list(objects.root) if key != objects.manifest]
        return random.Random(pick).choice(keys) if keys else None

    def _note(self, batch_id: str, key: str, done: str) -> None:
        self.say(f"{done}: {key}")
        self.harmed[key] += 1
        if ROWS.search(key):
            self.lost_rows.add(batch_id)

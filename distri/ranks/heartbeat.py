"""Every rank's heartbeat: a thread says how far it is, another hears the others and notices what does not go on.

NCCL's `work.wait()` returns at once and raises nothing, and a stream that hangs cannot be unwound; a rank that is
stopped runs no code at all. So what a rank waits for is watched from threads of its own, on the host, whatever its main
thread and its device do: one asks the device how far it is, one says so in the store through which the ranks met, which
torchrun's agent keeps, and reads the others, and one looks at the clock. Device and store may not answer either; the
last one asks neither.
"""

import atexit
import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from distri.ranks.errors import SILENT, PeerLost
from distri.ranks.missing_ranks import Heard, how_it_hangs, judge
from distri.ranks.progress import Progress, Standing

GRACE_S = 5.0  # how long ranks get to give a sign when a message has failed
RESERVE_S = 30.0  # of the timeout: for the report, and for what is rendered and not yet committed
LOOK_S = 0.05

log = logging.getLogger(__name__)


def limit_of(timeout_s: float) -> float:
    """How long nothing may move before it is noticed, so that report and end come within the timeout."""
    return timeout_s - min(RESERVE_S, timeout_s / 3)


class Heartbeat:
    """One rank's side, from now on until it is stopped.

    Args:
        store: shared by all ranks; None where there is only one.
        name: of this set of ranks within the store.
        rank: this one.
        count: how many there are.
        progress: what this rank says of itself.
        timeout: by when a hang is to have been noticed, named and ended.
        on_lost: called once, in a thread of its own, when something does not go on; None writes it into the log.
        device: whose marks `progress` asks for.
    """

    def __init__(
        self,
        store: Any,
        name: str,
        rank: int,
        count: int,
        progress: Progress,
        *,
        timeout: timedelta,
        on_lost: Callable[[PeerLost], None] | None = None,
        device: torch.device | None = None,
    ) -> None:
        # A client of its own, which no thread that waits in the store can block.
        own = dist.HashStore() if store is None else store.clone()  # type: ignore[attr-defined]
        self._store = dist.PrefixStore(f"tessera.heartbeat.{name}", own)  # type: ignore[attr-defined]
        self._rank, self._count, self._progress, self._device = rank, count, progress, device
        self._on_lost = on_lost or (lambda error: log.error("%s", error))
        self._grace_s = min(GRACE_S, timeout.total_seconds())
        self._limit_s = limit_of(timeout.total_seconds())
        self._interval_s = min(2.0, max(LOOK_S, timeout.total_seconds() / 60))
        now = time.monotonic()
        self._asked_at = now  # when the device last answered
        self._heard = {one: Heard(Standing(), -1, now, now) for one in range(count)}
        self._lock = threading.Lock()
        self._beats, self._beat_at = 0, now  # the last round through the store
        self._stop, self._at_once = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=act, name=name, daemon=True)
            for act, name in (
                (self._ask, "own progress"),
                (self._say_and_hear, "heartbeat"),
                (self._watch, "missing ranks"),
            )
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.stop)  # a thread that is in the store when Python ends would abort the process

    def stop(self) -> None:
        """Say that this rank has ended as it should, and end."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._at_once.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(self._grace_s)
        atexit.unregister(self.stop)

    def missing(self, ranks: Sequence[int]) -> dict[int, str] | None:
        """Ranks that give no sign within the grace, else those that hang, and how; None if the store is silent."""
        began = time.monotonic()
        self._at_once.set()
        others = set(ranks) - {self._rank}
        while time.monotonic() < began + self._grace_s:
            if self._beat_at > began and all(self._heard[one].heard_at > began for one in others):
                break
            time.sleep(LOOK_S)
        if self._beat_at <= began:
            return None
        with self._lock:
            silent = {one: SILENT for one in sorted(others) if self._heard[one].heard_at <= began}
            return silent or {
                one: how_it_hangs(self._heard[one].standing)
                for one in sorted(others)
                if not self._heard[one].standing.waits and began - self._heard[one].moved_at > self._limit_s / 2
            }

    def _ask(self) -> None:
        if self._device is not None and self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # asking for a mark would make a context on the first GPU
        while not self._stop.wait(self._interval_s):
            try:
                standing = self._progress.standing()
            except RuntimeError:  # the device has failed: the rank's own thread raises it, unless it hangs as well
                standing = self._heard[self._rank].standing
            with self._lock:
                self._asked_at = now = time.monotonic()
                own = self._heard[self._rank]
                if standing != own.standing:
                    own.standing, own.moved_at = standing, now

    def _say_and_hear(self) -> None:
        try:
            while True:
                ending = self._stop.is_set()
                self._beats += 1
                says = {"beat": self._beats, "left": ending, "standing": asdict(self._own())}
                self._store.set(str(self._rank), json.dumps(says))
                self._hear()
                self._beat_at = time.monotonic()
                if ending:
                    return
                self._at_once.wait(self._interval_s)
                self._at_once.clear()
        except RuntimeError as error:  # what a store raises whose host is gone
            if not self._stop.is_set():
                log.warning("the store of the ranks does not answer: %s", error)

    def _hear(self) -> None:
        others = [one for one in range(self._count) if one != self._rank]
        present = [one for one in others if self._store.check([str(one)])]
        texts = self._store.multi_get([str(one) for one in present]) if present else []
        for one, text in zip(present, texts, strict=True):
            says = json.loads(text)
            now, standing = time.monotonic(), Standing(**says["standing"])
            with self._lock:
                heard = self._heard[one]
                if says["beat"] == heard.beat:
                    continue
                moved_at = heard.moved_at if standing == heard.standing else now
                self._heard[one] = Heard(standing, says["beat"], now, moved_at, says["left"])

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stop.wait(self._interval_s):
            now = time.monotonic()
            self._forget(now - last - 2 * self._interval_s)
            last = now
            if (error := self._verdict(now)) is not None and not self._stop.is_set():
                self._on_lost(error)
                return

    def _forget(self, gap_s: float) -> None:
        """Leave out a time in which this rank was stopped itself: nothing could be heard in it."""
        if gap_s <= 0:
            return
        with self._lock:
            self._beat_at += gap_s
            self._asked_at += gap_s
            for one in self._heard.values():
                one.heard_at += gap_s
                one.moved_at += gap_s

    def _verdict(self, now: float) -> PeerLost | None:
        ranks = tuple(range(self._count))
        own = self._own()
        with self._lock:
            mine = self._heard[self._rank]
            mine.heard_at = now
            if now - self._beat_at > self._limit_s / 2:  # nobody can be heard
                if not own.waits or now - mine.moved_at <= self._limit_s:
                    return None
                return PeerLost(missing=None, ranks=ranks, reason=f"waited for {own.what}")
            found = judge({**self._heard, self._rank: replace(mine, standing=own)}, now, self._limit_s)
        return None if found is None else PeerLost(missing=found[0], ranks=ranks, reason=found[1])

    def _own(self) -> Standing:
        """What this rank has last found of itself, or that its device does not even answer."""
        with self._lock:
            standing, since_s = self._heard[self._rank].standing, time.monotonic() - self._asked_at
        if since_s <= self._limit_s / 2:
            return standing
        return replace(standing, what="a call of CUDA that does not return", waits=False, device=True)

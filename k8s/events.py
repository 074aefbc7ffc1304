"""Events of the namespace: they explain what Jobs and pods wait for, and how some ended. Nobody waits long for them."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import structlog

from k8s.cluster import Cluster
from k8s.reading import Object
from pipeline.errors import ServiceError

# How long a look at the attempts waits for a list that explains one of them; it comes later to the next look.
WAIT_S = 2.0
# After a list that failed, or took longer than that, none is waited for so long.
REST_S = 10.0

log = structlog.get_logger(__name__)


class Events:
    """The last list of events, by the attempt that each is about; a thread of its own makes one list at a time."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._about: Mapping[str, Sequence[Object]] = {}
        self._listed_at = self._slow_at = float("-inf")
        self._listing: threading.Thread | None = None

    def about(self, name: str) -> Sequence[Object]:
        """Events about the attempt of this name, its Job's and its pods'."""
        return self._about.get(name, ())

    def refresh(self, older_than_s: float) -> None:
        """List events again if those here are older; returns when they are here, or after WAIT_S."""
        with self._lock:
            now = time.monotonic()
            if now - self._listed_at < older_than_s:
                return
            if self._listing is None or not self._listing.is_alive():
                self._listing = threading.Thread(target=self._list, name="events", daemon=True)
                self._listing.start()
            listing, within_s = self._listing, WAIT_S if now - self._slow_at > REST_S else 0.0
        listing.join(within_s)
        if within_s and listing.is_alive():
            log.warning("events are late; what they explain is explained later", seconds=within_s)
            self._slow_at = time.monotonic()

    def _list(self) -> None:
        try:
            events = self._cluster.events()
        except ServiceError as error:  # they only explain; a later look tries again
            log.warning("events could not be listed", reason=str(error))
            self._slow_at = time.monotonic()
            return
        found: defaultdict[str, list[Object]] = defaultdict(list)
        for one in events:
            about = one["involvedObject"]
            name = about.get("name", "")
            found[name if about.get("kind") == "Job" else name.rpartition("-")[0]].append(one)
        self._about, self._listed_at = dict(found), time.monotonic()

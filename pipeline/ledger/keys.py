"""Every key that Tessera keeps in Redis, below the deployment's prefix.

| key | type | holds |
|---|---|---|
| `deployment` | string | what this deployment renders (JSON), announced by its controller |
| `batches` | zset | batch ids by time of creation, for lists |
| `open` | set | ids of batches that are not final, or are being purged: what the tick looks at |
| `batch:<id>` | hash | `record` (JSON), `state`, `revision`, `incarnation` |
| `batch:<id>:counts` | hash | `image.<state>` and `job.<state>`: always the sum of the states |
| `batch:<id>:images` | string | four bits an image: its state's code |
| `batch:<id>:jobs` | zset | refs of jobs that are not final, score = index |
| `batch:<id>:begun` | zset | those of them that are not waiting for their first attempt, score = index |
| `batch:<id>:parked` | set | refs of jobs that are put aside while the batch is paused |
| `batch:<id>:events` | stream | the last moves, capped |
| `job:<ref>` | hash | `record`, `state`, `revision`, `incarnation`, `fence`, `worker`, `stumbles`, ... |
| `ticket:<ref>` | hash | what pods may read: `state`, `open`, the `attempt` on record, its `token` as SHA-1 |
| `claim:<ref>` | hash | `pod` (its UID) and `attempt`: whose reports count; pods write it |
| `backlog:<tenant>` | zset | refs of jobs that may be claimed, score = priority, then age |
| `tenants` | hash | tenants that have a backlog or leases: how many leases each |
| `delayed` | zset | refs of jobs that wait before their next attempt, score = when |
| `leases` | zset | refs of jobs that a worker holds, score = when its lease ends |
| `workers` | zset | render workers, score = when they were last heard of |
| `draining` | hash | workers that take no more jobs (`*`: all), and what happens to those they have |
| `slots` | hash | how many pods each worker could still look after |
| `schedules` | zset | names of schedules, score = when each is due next |
| `schedule:<name>` | hash | `record` (JSON), `revision` |
| `schedule:<name>:firings` | list | what became of its last firings (JSON), newest first, capped |
| `speeds` | set | kinds of jobs that were finished: model, layout, exact, device, size |
| `speed:<kind>` | hash | sums over them: images, work, seconds, pixels, bytes, pods, idle seconds |
| `due:<name>` | string | when something that is done now and then was done last |
| `rest:<name>` | string | it is not done while this is there, which ends by itself |
| `lock:<name>` | string | who runs the tick, expands or finalizes, with a time to live |
"""

from __future__ import annotations

from dataclasses import dataclass

EVENTS_KEPT = 1_000
BITS_PER_IMAGE = 4


@dataclass(frozen=True)
class Keys:
    """Key names below one prefix."""

    prefix: str

    def __call__(self, *parts: str) -> str:
        return ":".join((self.prefix, *parts))

    @property
    def deployment(self) -> str:
        return self("deployment")

    @property
    def batches(self) -> str:
        return self("batches")

    @property
    def open(self) -> str:
        return self("open")

    @property
    def speeds(self) -> str:
        return self("speeds")

    def speed(self, name: str) -> str:
        return self("speed", name)

    def batch(self, batch_id: str) -> str:
        return self("batch", batch_id)

    def counts(self, batch_id: str) -> str:
        return self("batch", batch_id, "counts")

    def images(self, batch_id: str) -> str:
        return self("batch", batch_id, "images")

    def jobs(self, batch_id: str) -> str:
        return self("batch", batch_id, "jobs")

    def begun(self, batch_id: str) -> str:
        return self("batch", batch_id, "begun")

    def events(self, batch_id: str) -> str:
        return self("batch", batch_id, "events")

    def job(self, ref: str) -> str:
        return self("job", ref)

    def claim(self, ref: str) -> str:
        return self("claim", ref)

    def backlog(self, tenant: str) -> str:
        return self("backlog", tenant)

    @property
    def tenants(self) -> str:
        return self("tenants")

    @property
    def delayed(self) -> str:
        return self("delayed")

    @property
    def leases(self) -> str:
        return self("leases")

    @property
    def workers(self) -> str:
        return self("workers")

    @property
    def draining(self) -> str:
        return self("draining")

    @property
    def slots(self) -> str:
        return self("slots")

    @property
    def schedules(self) -> str:
        return self("schedules")

    def schedule(self, name: str) -> str:
        return self("schedule", name)

    def firings(self, name: str) -> str:
        return self("schedule", name, "firings")

    def lock(self, name: str) -> str:
        return self("lock", name)

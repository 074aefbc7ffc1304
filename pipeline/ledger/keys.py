"""Every key that Tessera keeps in Redis, below the deployment's prefix, and what is fixed about their values.

No other file spells a key: scripts get these names by their header (scripts.py), the rights of Redis users are made of
them (server/acl.py). What Celery keeps stands in pipeline/deployment/broker_keys.py.

| key | type | holds |
|---|---|---|
| `deployment` | string | what this deployment renders (JSON), announced by its controller |
| `batches` | zset | batch ids by time of creation, for lists |
| `open` | set | ids of batches that are not final, or are being purged: what the tick looks at |
| `batch:<id>` | hash | `record` (JSON), `state`, `revision`, `incarnation`; `cut_into` jobs at revision `cut_at` |
| `batch:<id>:counts` | hash | `image.<state>` and `job.<state>`: always the sum of the states |
| `batch:<id>:images` | string | four bits an image: its state's code |
| `batch:<id>:jobs` | zset | refs of jobs that are not final, score = index |
| `batch:<id>:begun` | zset | those of them whose first attempt has begun, score = index |
| `batch:<id>:parked` | set | refs of jobs set aside while the batch is paused |
| `batch:<id>:events` | stream | the last moves, capped |
| `batch:<id>:handed` | string | which of its events have become deliveries to webhooks (JSON) |
| `job:<ref>` | hash | `record`, `state`, `revision`, `incarnation`, `fence`, `worker`, `stumbles`, ... |
| `ticket:<ref>` | hash | what pods may read: `state`, `open`, the `attempt` on record, its `token` as SHA-1 |
| `claim:<ref>` | hash | `pod` (its UID) and `attempt`: whose reports count; pods write it |
| `backlog:<tenant>` | zset | refs of jobs that may be claimed, score = priority, then age |
| `tenants` | hash | tenants that have a backlog or leases: how many leases each |
| `delayed` | zset | refs of jobs that wait before their next attempt, score = when |
| `leases` | zset | refs of jobs that a worker holds, score = when its lease ends |
| `workers` | zset | render workers, score = when each last reported |
| `draining` | hash | workers that take no more jobs (`*`: all), and what happens to the jobs they hold |
| `slots` | hash | how many more pods each worker can watch |
| `schedules` | zset | names of schedules, score = when each is due next |
| `schedule:<name>` | hash | `record` (JSON), `revision` |
| `schedule:<name>:firings` | list | what became of its last firings (JSON), newest first, capped |
| `speeds` | set | kinds of jobs that were finished: model, layout, exact, device, size |
| `speed:<kind>` | hash | sums over them: images, work, seconds, pixels, bytes, pods, idle seconds |
| `dead_letters` | list | messages that were no hints (JSON), newest first, capped; expires |
| `share:<id>` | string | a link that shows one batch (JSON), its secret as SHA-256; expires |
| `batch:<id>:shares` | set | ids of the links that show it |
| `wakes` | zset | batches that clients ask a controller to look at, all with score 0 |
| `endpoints` | hash | webhooks of tenants: id to record (JSON) |
| `watched` | set | ids of batches that have moved since their events were handed over to webhooks |
| `delivery:<id>` | string | an event on its way to a webhook (JSON); expires |
| `deliveries` | zset | ids of deliveries by time, capped |
| `undelivered` | zset | those of them that are on their way, score = when each is tried next |
| `generation` | hash | `token`, `sequence` (as `ledger.json` in the bucket), `server`, `doubt`: may it be believed |
| `due:<name>` | string | when this periodic work was last done |
| `rest:<name>` | string | while this exists, that work is not due; it expires by itself |
| `absent:<key>` | string | since when an object is looked for in vain; expires |
| `stumbles:<step> <id>` | string | how many internal errors this step of a batch met; expires |
| `tokens` | hash | tokens of the HTTP API by their id: records (JSON) with digests |
| `sign_in:<id>` | string | a link that begins a session once (JSON), its secret as SHA-256; expires |
| `rate:<token>@<minute>` | string | how many requests this token has made in this minute; expires |
| `trial:<model>` | string | which job tries a model (its digest), or that it is proven; expires |
| `refusal:<model>` | string | what a pod found wrong with a model in one batch; expires |
| `lock:<name>` | string | which process runs the tick, expands or finalizes; expires |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

EVENTS_KEPT = 1_000
BITS_PER_IMAGE = 4
PRIORITY_STEP = 10**13  # in a backlog's scores: more than milliseconds since 1970 will be for centuries

_ID = "{}"  # in the name of a key


class _One:
    """The only key of its kind."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, keys: Keys, _owner: type) -> str:
        return f"{keys.prefix}:{self.name}"


class _Each:
    """A key for each batch, each job and so on."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, keys: Keys, _owner: type) -> Callable[[str], str]:
        return lambda one: f"{keys.prefix}:{self.name.format(one)}"


@dataclass(frozen=True)
class Keys:
    """Key names below one prefix."""

    prefix: str

    deployment = _One("deployment")
    batches = _One("batches")
    open = _One("open")
    batch = _Each("batch:{}")
    counts = _Each("batch:{}:counts")
    images = _Each("batch:{}:images")
    jobs = _Each("batch:{}:jobs")
    begun = _Each("batch:{}:begun")
    parked = _Each("batch:{}:parked")
    events = _Each("batch:{}:events")
    handed = _Each("batch:{}:handed")
    shares = _Each("batch:{}:shares")
    share = _Each("share:{}")
    job = _Each("job:{}")
    ticket = _Each("ticket:{}")
    claim = _Each("claim:{}")
    backlog = _Each("backlog:{}")
    tenants = _One("tenants")
    delayed = _One("delayed")
    leases = _One("leases")
    workers = _One("workers")
    draining = _One("draining")
    slots = _One("slots")
    schedules = _One("schedules")
    schedule = _Each("schedule:{}")
    firings = _Each("schedule:{}:firings")
    speeds = _One("speeds")
    speed = _Each("speed:{}")
    dead_letters = _One("dead_letters")
    wakes = _One("wakes")
    endpoints = _One("endpoints")
    watched = _One("watched")
    delivery = _Each("delivery:{}")
    deliveries = _One("deliveries")
    undelivered = _One("undelivered")
    generation = _One("generation")
    due = _Each("due:{}")
    rest = _Each("rest:{}")
    absent = _Each("absent:{}")
    stumbles = _Each("stumbles:{}")
    trial = _Each("trial:{}")
    refusal = _Each("refusal:{}")
    lock = _Each("lock:{}")
    tokens = _One("tokens")
    sign_in = _Each("sign_in:{}")
    rate = _Each("rate:{}")


ALL_NAMES = frozenset(name for name, key in vars(Keys).items() if isinstance(key, _One | _Each))


def lua_keys(names: Iterable[str] = ALL_NAMES) -> str:
    """These keys as a table in Lua, below the prefix that a script gets as its only key.

    A script also names keys of jobs and batches that it finds by itself, which is why there is one Redis and never a
    Cluster.
    """
    return "\n".join(("local keys = {", *(f"  {name} = {_in_lua(vars(Keys)[name])}," for name in sorted(names)), "}"))


def _in_lua(key: _One | _Each) -> str:
    if isinstance(key, _One):
        return f"KEYS[1] .. ':{key.name}'"
    before, after = key.name.split(_ID)
    end = f" .. '{after}'" if after else ""
    return f"function(id) return KEYS[1] .. ':{before}' .. id{end} end"

"""The ledger as the rest of Tessera uses it: one object with a part for each kind of record."""

from __future__ import annotations

from datetime import datetime

from pipeline.deployment.announcement import Deployment
from pipeline.deployment.settings import Settings
from pipeline.errors import NoDeployment
from pipeline.ledger.batches import Batches
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.generations import Generations
from pipeline.ledger.images import Images
from pipeline.ledger.jobs import Jobs
from pipeline.ledger.leases import Leases
from pipeline.ledger.locks import Locks
from pipeline.ledger.queues import Queues
from pipeline.ledger.schedules import ScheduleRecords
from pipeline.ledger.shares import Shares
from pipeline.ledger.speeds import Speeds
from pipeline.ledger.store import Store
from pipeline.ledger.tokens import Tokens
from pipeline.ledger.trials import Trials
from pipeline.ledger.wakes import Wakes
from pipeline.ledger.webhooks import WebhookRecords
from pipeline.ledger.workers import Workers
from pipeline.schema import read_record


class Ledger:
    """The records of one deployment. Nothing is sent before the first call."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings)
        self.batches = Batches(self.store)
        self.jobs = Jobs(self.store)
        self.images = Images(self.store)
        self.workers = Workers(self.store)
        self.locks = Locks(self.store)
        self.schedules = ScheduleRecords(self.store)
        self.speeds = Speeds(self.store)
        self.generations = Generations(self.store)
        self.leases = Leases(self.store, settings.tenants, self.generations)
        self.dead_letters = DeadLetters(self.store)
        self.queues = Queues(self.store, self.batches)
        self.wakes = Wakes(self.store)
        self.shares = Shares(self.store)
        self.tokens = Tokens(self.store)
        self.webhooks = WebhookRecords(self.store)
        self.trials = Trials(self.store)

    def now(self) -> datetime:
        """The ledger's clock."""
        return self.store.now()

    def announce(self, deployment: Deployment) -> None:
        """Publish what this deployment renders."""
        with self.store.errors():
            self.store.redis.set(self.store.keys.deployment, deployment.model_dump_json())

    def deployment(self) -> Deployment:
        """What this deployment renders. Raises NoDeployment if no controller ever announced it."""
        with self.store.errors():
            text = self.store.redis.get(self.store.keys.deployment)
        if text is None:
            raise NoDeployment(
                f"Redis at {self.store.where} answers, but no Tessera controller has announced itself under the prefix "
                f"{self.store.keys.prefix!r}; check TESSERA_REDIS_PREFIX, or start the deployment"
            )
        return read_record(Deployment, str(text), what=self.store.keys.deployment)

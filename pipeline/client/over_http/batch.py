"""A batch over HTTP. Its files are read as ever, from artifacts that ask the API."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from pipeline.client.batch import Batch
from pipeline.client.remote.connection import RemoteConnection
from pipeline.errors import RequestError
from pipeline.operations.discrepancies import Verification
from pipeline.operations.retry import Retried
from pipeline.operations.status import BatchStatus, JobStatus
from pipeline.states import BatchState


class RemoteBatch(Batch):
    """A submitted batch."""

    def __init__(self, connection: RemoteConnection, batch_id: str) -> None:
        super().__init__(connection, batch_id)
        self._api = connection.api

    def _ask(self, method: str, what: str, body: Mapping[str, Any] | None = None) -> Any:
        return self._api.ask(method, f"/api/batches/{self.id}{what}", body)

    def status(self) -> BatchStatus:
        """Its status now. Raises UnknownBatch, BatchLost."""
        return BatchStatus.from_dict(self._ask("GET", "/status"))

    def jobs(self) -> list[JobStatus]:
        """Its jobs under way."""
        return [JobStatus.from_dict(one) for one in self._ask("GET", "/jobs")["data"]]

    def _await_change(self, after: str, wait_s: float) -> str:
        time.sleep(wait_s)
        return after

    def _check_known(self) -> None:
        self.status()

    def retry(self, *codes: str) -> Retried:
        """Render again the failures that a retry may mend, or those with these codes."""
        found = self._ask("POST", "/retry", {"codes": list(codes)})
        return Retried(found["images"], found["failed"])

    def pause(self) -> BatchState:
        """Pause it. Returns its state now."""
        return BatchState(self._ask("POST", "/pause")["state"])

    def unpause(self) -> BatchState:
        """Continue it after `pause`. Returns its state now."""
        return BatchState(self._ask("POST", "/unpause")["state"])

    def cancel(self) -> BatchState:
        """Cancel the images that are not rendered yet. Returns its state now."""
        return BatchState(self._ask("POST", "/cancel")["state"])

    def prioritize(self, priority: int) -> None:
        """Have it served earlier or later: 0 first, 9 last."""
        self._ask("POST", "/priority", {"priority": priority})

    def purge(self, *, keep_images: bool = False) -> None:
        """Remove it for good; needs the scope admin."""
        self._ask("POST", "/purge", {"keep_images": keep_images})

    def verify(self, *, repair: bool = False, deep: bool = False, sample: int = 0) -> Verification:
        """Not over HTTP."""
        raise RequestError(
            "verify compares the ledger with the bucket, and needs credentials of both: run it where TESSERA_REDIS_URL "
            "and TESSERA_S3_BUCKET are set, without TESSERA_URL"
        )

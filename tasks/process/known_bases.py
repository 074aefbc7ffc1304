"""For which base models a cluster's LoRAs and embeddings are: a controller cannot see their files, the warm-up can."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import structlog

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.fetch import fetch
from pipeline.errors import RecordUnreadable, ServiceError
from pipeline.records.listed_files import LISTED_FILES, ListedFiles

LOOK_EVERY_S = 60.0

log = structlog.get_logger(__name__)


@dataclass
class KnownBases:
    """What the warm-up has left in the bucket, looked at once a minute."""

    _found: ListedFiles = field(default_factory=ListedFiles)
    _looked_at: float = float("-inf")

    def of(self, artifacts: Artifacts) -> ListedFiles:
        """What it says; as before where the bucket cannot be asked."""
        if time.monotonic() - self._looked_at >= LOOK_EVERY_S:
            self._looked_at = time.monotonic()
            try:
                self._found = fetch(ListedFiles, artifacts, LISTED_FILES) or ListedFiles()
            except (ServiceError, RecordUnreadable) as error:
                log.warning("the bases of listed files could not be read", reason=str(error))
        return self._found

"""What a client is connected to."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.bucket.artifacts import Artifacts
from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger


@dataclass(frozen=True)
class Connection:
    """A deployment's settings, ledger and artifacts. Nothing is sent before something is asked."""

    settings: Settings
    ledger: Ledger
    artifacts: Artifacts

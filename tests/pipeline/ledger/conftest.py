"""Short ways to the records of a ledger of the test's own."""

from __future__ import annotations

import pytest

from pipeline.ledger import Ledger
from tests.pipeline.ledger.bench import Bench


@pytest.fixture
def bench(ledger: Ledger) -> Bench:
    return Bench(ledger)

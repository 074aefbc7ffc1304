"""docs/metrics.md names every metric, as the program has it."""

from __future__ import annotations

from pathlib import Path

from pipeline.deployment.settings import Settings
from pipeline.ledger import Ledger
from tasks.process.metrics import LedgerMetrics, Metrics

PAGE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def test_the_page_has_exactly_the_rows_of_the_metrics(settings: Settings) -> None:
    metrics = Metrics()
    metrics.registry.register(LedgerMetrics(Ledger(settings)))
    wanted = []
    for family in metrics.registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        if family.name == "tessera_phase_seconds":
            labels = {"phase"}  # its first value comes with the first pod
        by = "".join(f" By `{label}`." for label in sorted(labels))
        wanted.append(f"| `{name}` | {family.type} | {family.documentation}{by} |")
    found = [line for line in PAGE.read_text().splitlines() if line.startswith("| `tessera_")]
    assert found == sorted(wanted), "replace the table by:\n" + "\n".join(sorted(wanted))

"""The measured parts of docs/reliability.md, from the JSON that the fault tests and the soak write.

`python -m tests.faults.page` puts them between the page's markers; a test compares.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reliability.md"
RESULTS = ROOT / "benchmarks" / "results"


def faults(results: dict[str, Any]) -> str:
    """The table of faults and how long it took until work went on."""
    rows = [f"| {one['fault']} | {one['again']} | {one['seconds']:.1f} s |" for one in results["faults"]]
    return "\n".join(
        [
            "| fault | work goes on when | after |",
            "|---|---|---|",
            *rows,
            "",
            f"Measured {results['measured']} on {results['cores']} CPU cores by `{results['command']}`.",
        ]
    )


def soak(results: dict[str, Any]) -> str:
    """A row for each seed of the last soak, and how often each kind of harm was done."""
    soaks = results["soaks"]
    kinds: Counter[str] = Counter()
    for one in soaks:
        kinds.update(one["harm"])
    rows = [
        f"| {one['seed']} | {one['minutes']:g} min | {sum(one['harm'].values())} | {one['batches']} "
        f"| {one['images']} | {one['committed']} | {one['repaired_batches']} "
        f"| {one['failed_batches']} | {one['isolated']} | "
        f"{one['most_forgotten_s']} s | {one['settled_s']:.0f} s | {len(one['broken'])} |"
        for one in soaks
    ]
    broken = [f"Seed {one['seed']}, {batch}: {why}" for one in soaks for batch, why in one["broken"].items()]
    return "\n".join(
        [
            "| seed | for | harm | batches | images | committed | repaired | failed by name | isolated "
            "| Redis forgot up to | at rest after | broken |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            f"Measured {soaks[-1]['measured']} on {soaks[-1]['cores']} CPU cores. Harm, of all seeds together: "
            + ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
            + ".",
            *(["", "What broke:", ""] if broken else []),
            *(f"- {line}" for line in broken),
        ]
    )


def written(page: str) -> str:
    """The page with its measured parts as the results have them."""
    for name, part in (("faults", faults), ("soak", soak)):
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        head, _, rest = page.partition(begin)
        _, _, tail = rest.partition(end)
        path = RESULTS / f"{name}.json"
        measured = part(json.loads(path.read_text())) if path.exists() else f"None is kept in {path.name} yet."
        page = f"{head}{begin}\n{measured}\n{end}{tail}"
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))

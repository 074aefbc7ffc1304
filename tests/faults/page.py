"""The measured parts of docs/reliability.md, from the JSON that the fault tests and the soak write.

`python -m tests.faults.page` puts them between the page's markers; a test compares.
"""

from __future__ import annotations

import json
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
    """One paragraph about the last soak."""
    harm = results["harm"]
    kinds = ", ".join(f"{kind} {count}" for kind, count in harm.items())
    return (
        f"The last one, `{results['command']}` on {results['measured']} with {results['cores']} CPU cores, did harm "
        f"{sum(harm.values())} times ({kinds}) to {results['batches']} batches with {results['images']} images. "
        f"{results['cancelled_batches']} batches were cancelled on the way; {results['committed']} images were "
        f"committed, each once; {results['isolated']} were isolated, their pods killed twice at them; every other one "
        f"belongs to a cancelled batch. All was at rest "
        f"{results['settled_s']:.0f} s after the last harm."
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

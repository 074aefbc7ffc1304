"""`python -m benchmarks.bulk`: measure, and write benchmarks/results/bulk.json and bulk.md."""

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.bulk import ended, gallery, pictures
from benchmarks.bulk.page import page
from benchmarks.bulk.scale import scale
from tasks.control.write_results import LOOKED_FOR

RESULTS = Path(__file__).parents[1] / "results"
ROWS = 1_000_000


def main() -> None:
    """Measure the parts asked for; the others stay as the result file has them."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "scale": lambda: scale(arguments.rows),
        "finalize": lambda: {"batches": ended.finalized([1_000, 10_000, 100_000])},
        "pictures": lambda: pictures.looked_for(20_000, [LOOKED_FOR]),
        "download": lambda: {"batches": ended.downloaded([500, 5_000])},
        "gallery": lambda: gallery.opened(10_000, arguments.output.with_name("gallery.jpg")),
    }
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; all if none is named")
    parser.add_argument("--rows", type=int, default=ROWS, help="rows of the part `scale`")
    parser.add_argument("--output", type=Path, default=RESULTS / "bulk.json")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is ended
    if unknown := set(arguments.parts) - parts.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    file: Path = arguments.output
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in arguments.parts or parts:
        print(f"measuring {part}", flush=True)
        before = os.getloadavg()[0]
        figures = parts[part]()
        results[part] = {
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "load_before": round(before, 1),
            "load_after": round(os.getloadavg()[0], 1),
            "figures": figures,
        }
        file.write_text(json.dumps(results, indent=1) + "\n")
        file.with_suffix(".md").write_text(page(results))
    print(page(results))


if __name__ == "__main__":
    main()

"""`python -m benchmarks.engine.gpu`: measure the engine on one GPU in eight minutes, and write results as they come.

Each part runs in a process of its own, with a share of the time: a part that crashes, hangs or runs out of memory
leaves the others as they are, and what it has measured so far. `--small` runs small networks on a CPU instead, to see
that all works. Parts can be named; the others stay as the result file has them.
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.engine.gpu import page
from benchmarks.engine.gpu.bench import Bench, Row
from benchmarks.engine.gpu.process import rows_of

RESULTS = Path(__file__).parents[2] / "results"
MINUTES = 8.0


@dataclass(frozen=True)
class Part:
    """A part, by the name of its module here, and how much of the whole time it may take."""

    name: str
    share: float


# What is asked about most comes first: the time of whoever is late is the next one's.
PARTS = (
    Part("one_rank", 0.30),
    Part("pictures", 0.25),
    Part("decode", 0.12),
    Part("parity", 0.20),
    Part("kernels", 0.10),
    Part("plain", 0.40),
)


def main() -> None:
    """Measure the parts asked for, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(part.name for part in PARTS)}; all if none is named")
    parser.add_argument("--small", action="store_true", help="small networks on the CPU, at 256 pixels")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for all parts together")
    parser.add_argument("--repeats", type=int, default=10, help="of what is timed")
    parser.add_argument("--link-gb-s", type=float, default=300.0, help="what a GPU receives, GB a second")
    parser.add_argument(
        "--output", type=Path, help="a folder for gpu.json and gpu.md; benchmarks/results without --small"
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - {part.name for part in PARTS}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not arguments.small and not torch.cuda.is_available():
        parser.error("there is no GPU here; --small tries the command on a CPU")
    folder = arguments.output or (None if arguments.small else RESULTS)
    bench = Bench(arguments.small, arguments.repeats, arguments.link_gb_s)
    results: dict[str, Any] = {}
    if folder is not None and (folder / "gpu.json").exists():
        results = json.loads((folder / "gpu.json").read_text())
    ends_at = time.monotonic() + 60 * arguments.minutes
    for part in PARTS:
        if arguments.parts and part.name not in arguments.parts:
            continue
        limit_s = min(part.share * 60 * arguments.minutes, ends_at - time.monotonic())
        found: dict[str, Any] = {"machine": _machine(bench), "rows": []}
        for row in rows_of(part.name, bench, limit_s):
            print(part.name, row, flush=True)
            found["rows"].append(row)
            # What was measured before stays until something has been measured again.
            if part.name not in results or any(measured(one) for one in found["rows"]):
                results[part.name] = found
            if folder is not None:
                _write(folder, results)


def measured(row: Row) -> bool:
    """Whether a row holds a figure: it has not failed, and is not the time that the part took."""
    return "failed" not in row and "part_s" not in row


def _machine(bench: Bench) -> Row:
    """Of a part, since parts may be measured on machines of their own."""
    cuda = not bench.small
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if cuda else f"{platform.machine()}, small networks",
        "torch": torch.__version__,
        "link_gb_s": bench.link_gb_s,
    }


def _write(folder: Path, results: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "gpu.md").write_text(page.markdown(results))


if __name__ == "__main__":
    main()

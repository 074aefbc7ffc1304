"""`python -m benchmarks.engine`: measure, and write benchmarks/results/engine.json and engine.md.

Parts can be named, so that the speed of a quiet hour can be added to figures that do not depend on the machine.
"""

import argparse
import json
import platform
import subprocess
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import diffusers
import torch

from benchmarks.engine import figures, memory, speed, table, uneven
from distri import demo_model

RESULTS = Path(__file__).parents[1] / "results"
PARTS = ("exact", "norm", "arithmetic", "traffic", "memory", "strips", "speed", "uneven")


def main() -> None:
    """Measure the parts asked for; the others stay as the result file has them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the speed figures")
    parser.add_argument("--evaluations", type=int, default=2, help="evaluations a block of the speed figures")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    file = RESULTS / "engine.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in arguments.parts or PARTS:
        print(f"measuring {part}", flush=True)
        results[part] = {"measured": _now(), "machine": machine(), "figures": _measured(part, arguments)}
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "engine.md").write_text(table.markdown(results))
    print((RESULTS / "engine.md").read_text())


def _measured(part: str, arguments: argparse.Namespace) -> Any:
    if part == "exact":
        with tempfile.TemporaryDirectory() as directory:
            return figures.exact(demo_model.write(Path(directory)))
    if part in ("speed", "uneven"):
        return {"speed": speed, "uneven": uneven}[part].measured(arguments.rounds, arguments.evaluations)
    if part == "traffic":
        return {"table": figures.traffic_table(), "halo_bytes_by_ranks": figures.halos()}
    whole = {"norm": figures.half_norm, "arithmetic": figures.arithmetic}
    return (whole | {"memory": memory.of_vae, "strips": memory.of_strips})[part]()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, str]:
    model = subprocess.run(["/usr/bin/lscpu"], capture_output=True, text=True, check=False).stdout
    names = [line.split(":", 1)[1].strip() for line in model.splitlines() if line.startswith("Model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()

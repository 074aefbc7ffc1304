"""What validating a row takes, by the syntax of its prompt, of this checkout and of another, in turn.

    python -m benchmarks.throughput.validation [--against CHECKOUT]

writes benchmarks/results/validation.json. Each figure is the best of some runs over 5,000 rows, each in a process of
its own, in processor time: other work on the machine slows all of them, but not by turns.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROWS = 5_000
ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/results/validation.json"
SYNTAXES = ("literal", "none", "a1111", "comfy", "compel")
_WORDS = ("a yellow sun", "over the blue sea", "stone tower", "green hill", "red house", "by the river", "in snow")


def main() -> None:
    """Measure all syntaxes here, and literal prompts in the other checkout."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--against", type=Path, help="another checkout, whose literal rows are measured beside these")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    wanted = [("this", ROOT, syntax) for syntax in SYNTAXES]
    if arguments.against is not None:
        wanted.insert(0, ("against", arguments.against.resolve(), "literal"))
    best: dict[str, float] = {}
    for _ in range(arguments.rounds):
        for name, checkout, syntax in wanted:
            figure, known = _in_a_process(checkout, syntax), best.get(f"{name} {syntax}")
            best[f"{name} {syntax}"] = figure if known is None else min(figure, known)
    figures = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}",
        "against": _commit(arguments.against) if arguments.against is not None else None,
        "this": _commit(ROOT),
        "microseconds_a_row": {name: round(figure, 1) for name, figure in best.items()},
    }
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
    print(RESULTS.read_text())


def _in_a_process(checkout: Path, syntax: str) -> float:
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, __file__, "--one", syntax], cwd=checkout, env=environment, capture_output=True, check=True
    )
    return float(ran.stdout)


def _commit(checkout: Path) -> str:
    command = ["git", "describe", "--always", "--dirty"]
    ran = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    return ran.stdout.strip() or "unknown"


def microseconds_a_row(syntax: str) -> float:
    """Read, validate and write rows as a submission does; processor time."""
    # Of the checkout that is measured.
    from pipeline.promptset.fields.row import Options
    from pipeline.promptset.formats.source import open_source
    from pipeline.promptset.validate import Validation, resolved_rows
    from tests.factories import deployment

    chosen = random.Random(1)  # the same rows each time
    rows = []
    for number in range(ROWS):
        prompt = " ".join(chosen.choices(_WORDS, k=6))
        row = {"prompt": prompt, "custom_id": f"r{number}", "seed": number, "steps": 20, "width": 1024, "height": 768}
        if syntax != "literal":
            row |= {"syntax": syntax, "prompt": prompt.replace("sun", "(sun:1.2)")}
        rows.append(json.dumps(row) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text("".join(rows))
        began = time.process_time()
        source = open_source(file)
        allowed = deployment(max_rows=10**7, max_images=10**8, max_megapixels=64.0)
        for resolved in resolved_rows(source, Options(), allowed, Validation(source.name), batch_seed=1):
            resolved.model_dump_json()
        return (time.process_time() - began) / ROWS * 1e6


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(min(microseconds_a_row(sys.argv[2]) for _ in range(8)))
    else:
        main()

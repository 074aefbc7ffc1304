"""`python -m benchmarks.fidelity.beside SITE`: distrifuser's pictures beside these, into the results and the page.

SITE is where `pip install --no-deps --target SITE distrifuser==0.0.1b1` has put it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

from benchmarks.fidelity import measures, page
from benchmarks.fidelity.__main__ import ROOT, digest, finite, pictures_of, render
from benchmarks.fidelity.variations import AT_ONCE, DEFAULT, prompts

STEPS, IMAGES, RANKS = 30, 4, (8, 4, 2)
PEER = "distrifuser"
OURS = {"displaced": DEFAULT, "at once": AT_ONCE}


def main() -> None:
    """Render by all of them, compare and write."""
    site, model = Path(sys.argv[1]).resolve(), ROOT / "models" / "demo"
    work = Path("/tmp/tessera-fidelity") / digest(model)  # noqa: S108 - as in `benchmarks.fidelity`
    work.mkdir(parents=True, exist_ok=True)
    file = ROOT / "benchmarks" / "results" / "fidelity.json"
    ours = [
        replace(one, factor=f"beside, {name}", value=f"{ranks} ranks", ranks=ranks, steps=STEPS, images=IMAGES)
        for ranks in RANKS
        for name, one in OURS.items()
    ]
    peers = [
        replace(AT_ONCE, factor=f"beside, {PEER}", value=f"{ranks} ranks", ranks=ranks, steps=STEPS, images=IMAGES)
        for ranks in RANKS
    ]
    render(model, work, [ours[0].reference, *ours])
    for one in peers:
        render(model, work, [one], ("benchmarks.fidelity.distrifuser", str(site)))
    reference = pictures_of(work, ours[0].reference)
    (version,) = {one.version for one in distributions(path=[str(site)]) if one.name == PEER}
    beside = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python -m benchmarks.fidelity.beside SITE",
        "version": version,
        "steps": STEPS,
        "warmup": peers[0].warmup,
        "images": IMAGES,
        "rows": [
            {
                "ranks": one.ranks,
                "name": one.factor.removeprefix("beside, "),
                "psnr_db": [
                    finite(measures.psnr(*pair)) for pair in zip(pictures_of(work, one), reference, strict=True)
                ],
            }
            for one in sorted([*peers, *ours], key=lambda one: one.ranks)
        ],
    }
    results = {**json.loads(file.read_text()), "beside": beside}
    file.write_text(json.dumps(results, indent=1) + "\n")
    shown: page.Shown = [(name, None, None) for name in prompts(results["default"]["images"])]
    page.write(ROOT / "docs" / "fidelity.md", ROOT / "docs" / "pictures", results, shown)


if __name__ == "__main__":
    main()

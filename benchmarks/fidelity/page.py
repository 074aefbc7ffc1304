"""The figures to docs/fidelity.md with its plots and pictures."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

mpl.use("Agg")
from matplotlib import pyplot

from benchmarks.fidelity.measures import Picture

Shown = list[tuple[str, Picture | None, Picture | None]]

SHOWN = 4
MAGNIFIED = 8


def write(page: Path, pictures: Path, results: dict[str, Any], shown: Shown) -> None:
    """Write the page and, in `pictures`, what it shows.

    Args:
        results: as `benchmarks/results/fidelity.json` holds it.
        shown: prompt, one-rank picture and displaced picture of some prompts; where there is none, those stay.
    """
    pictures.mkdir(parents=True, exist_ok=True)
    _plot(pictures / "fidelity-factors.png", results["variations"])
    for number, (_, one, many) in enumerate(shown[:SHOWN]):
        if one is None or many is None:
            continue
        difference = np.abs(many.astype(np.int16) - one) * MAGNIFIED
        Image.fromarray(np.concatenate([one, many, difference.clip(0, 255).astype(np.uint8)], axis=1)).save(
            pictures / f"fidelity-{number}.png", optimize=True
        )
    page.write_text(_text(page, pictures, results, shown[:SHOWN]))


def _plot(path: Path, variations: list[dict[str, Any]]) -> None:
    figure, axes = pyplot.subplots(figsize=(9, 4.5), layout="constrained")
    finite = [[value for value in one["psnr_db"] if value is not None] for one in variations]
    drawn = [
        (one, values) for one, values in zip(variations, finite, strict=True) if values and one["factor"] != "exact"
    ]
    axes.boxplot(
        [values for _, values in drawn],
        tick_labels=[f"{one['factor']}: {_short(one['value'])}" for one, _ in drawn],
        whis=(0, 100),
    )
    axes.axhline(30, color="grey", linewidth=0.8, linestyle="--")
    axes.set_ylabel("PSNR to one rank, dB")
    axes.tick_params(axis="x", labelsize=8, rotation=90)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _short(value: str) -> str:
    return value.removesuffix("Scheduler").replace("Discrete", "").replace("SolverMultistep", "++")


def _text(page: Path, pictures: Path, results: dict[str, Any], shown: Shown) -> str:
    folder = pictures.relative_to(page.parent).as_posix()
    at_once = [one for one in results["variations"] if _at_once(one)]
    default_rows = [one for one in results["variations"] if not _at_once(one)]
    default, side = results["default"], results["side_px"]
    spent = f", in {results['cpu_minutes']:.0f} CPU minutes" if results["cpu_minutes"] is not None else ""
    steps, settling, ranks = default["steps"], default["settling"], default["ranks"]
    later = {one["factor"]: one["measured"] for one in results["variations"] if "measured" in one}
    since = "".join(
        f"\n*{factor}* was measured for itself, the last of it {date}, by `python -m benchmarks.fidelity --add "
        f"--factors {shlex.quote(factor)}`."
        for factor, date in later.items()
    )
    sheets = "\n\n".join(
        f"*{prompt}*\n\n![one rank, displaced, difference]({folder}/fidelity-{number}.png)"
        for number, (prompt, _, _) in enumerate(shown)
    )
    return f"""# What displacement does to a picture

Made by `{results["command"]}`; `make bench-fidelity` is that with all factors and prompts. The numbers of
every picture are in `benchmarks/results/fidelity.json`. Measured
{results["measured"]} on {results["processor"]}, torch {results["torch"]}{spent}.

Around the default, which is {default["images"]} prompts of {side} x {side} px, {steps} steps, of which in the first
{settling} keys and values alone are displaced, and {ranks} real gloo ranks that share each picture, one factor at a
time differs. The prompts are captions of scenes whose combination of sky, light and land the model was never trained
on. Each picture is compared with the one that a single rank makes of the same prompt, seed, steps and scheduler.

{_table(default_rows)}{_at_once_text(at_once)}
PSNR and SSIM say how near a picture is to one rank's. *To the first* is the median, over the same prompts, of
how many dB a picture is nearer than that of the table's first row is. *Seam* is how much steeper a picture is across
the borders of patches than elsewhere, divided by the same of the one-rank picture: 1 means that borders do not show.
*exact*, where it was measured, has every evaluation wait; what is left there is the order of floating-point sums,
rounded to 8 bits.
Where a picture's units of 32 px do not divide by the ranks, ranks with more rows hand tokens of their transformers on
([engine.md](engine.md)); *own tokens* is without that, and with a busiest rank that does more. In *residual* every
evaluation after the warm-up waits for what is new of keys and values, in 1.8 bits a number; with *settling: all*,
whose warm-up is 4, for all but the keys and values of most layers, which alone are displaced. *Refined* pictures have
twice the sides, in two passes, each of which settles. *Img2img* begins with the renderer's
picture of the next prompt's scene. *Inpainting* fills the right half of that of the prompt's own scene, and is compared
there alone; *control* is steered by the edges of that picture, and *reference* resembles it, both by what was trained
for the demo model ([images-in.md](images-in.md)).{since}
[Decision 304](decisions/0304-defaults-by-the-table.md) says which defaults follow, [decision
660](decisions/0660-pictures-settle-first.md) why pictures settle first.

![PSNR by factor; whiskers are the extremes]({folder}/fidelity-factors.png)

{_beside(results.get("beside"))}## Side by side

One rank, {ranks} displaced ranks, and the difference, {MAGNIFIED} times as large.

{sheets}
"""


def _at_once(one: dict[str, Any]) -> bool:
    return not one["settling"] and one["exchange"] == "displaced"


def _table(variations: list[dict[str, Any]]) -> str:
    """Each beside the first."""
    columns = ["factor", "value", "ranks", "images", "PSNR median, dB", "worst", "to the first"]
    columns += ["SSIM median", "worst", "seam, median", "worst"]
    lines = [
        f"| {' | '.join(columns)} |",
        "|---" * len(columns) + "|",
        *(_row(one, variations[0]) for one in variations),
    ]
    return "\n".join(lines) + "\n"


def _at_once_text(variations: list[dict[str, Any]]) -> str:
    """What is displaced as DistriFusion has it, if it was measured."""
    if not variations:
        return ""
    shown = [{**one, "factor": one["factor"].removeprefix("at once, ")} for one in variations]
    return f"""
## Displaced at once

The same without settling: after {variations[0]["warmup"]} synchronous evaluations all is displaced, as DistriFusion has
it (`TESSERA_SETTLING_STEPS=0 TESSERA_WARMUP_STEPS={variations[0]["warmup"]}`). There is no warmup of 0: the first
evaluation has nothing stale to read, and the engine refuses it.

{_table(shown)}"""


def _beside(found: dict[str, Any] | None) -> str:
    """The table of another program's pictures beside these, if it was measured."""
    if found is None:
        return ""
    rows = [
        f"| {one['ranks']} | {one['name']} | {np.median(one['psnr_db']):.1f} | {min(one['psnr_db']):.1f} |"
        for one in found["rows"]
    ]
    return f"""## Beside distrifuser

[distrifuser](https://github.com/mit-han-lab/distrifuser) {found["version"]} (`corrected_async_gn`) on the same machine,
with the same model, prompts, seeds and scheduler, by gloo on a CPU: the first {found["images"]} prompts,
{found["steps"]} steps, warm-up {found["warmup"]}, of which it makes {found["warmup"] + 1} synchronous evaluations;
*at once* has {found["warmup"]}; *displaced* is the default.
All ranks are patches of one picture, and each picture is compared with that of one rank. Measured
{found["measured"]} by `{found["command"]}`.

| ranks | exchange | PSNR median, dB | worst |
|---|---|---|---|
{chr(10).join(rows)}

"""


def _row(one: dict[str, Any], default: dict[str, Any]) -> str:
    def db(value: float) -> str:
        return f"{value:.1f}" if np.isfinite(value) else "equal"

    psnr, usual = (np.array([np.inf if value is None else value for value in row["psnr_db"]]) for row in (one, default))
    nearer = [a - b for a, b in zip(psnr, usual, strict=False) if np.isfinite(b)]
    ssim, seam = np.array(one["ssim"]), np.array(one["seam"])
    cells = [
        *(one["factor"], _short(one["value"]), str(one["ranks"]), str(len(psnr))),
        *(db(float(np.median(psnr))), db(float(psnr.min()))),
        f"{np.median(nearer):+.1f}" if nearer and np.isfinite(np.median(nearer)) else "",
        *(f"{np.median(ssim):.4f}", f"{ssim.min():.4f}", f"{np.median(seam):.3f}", f"{seam.max():.3f}"),
    ]
    return f"| {' | '.join(cells)} |"

"""The results as a page to read."""

from collections.abc import Sequence
from typing import Any

from benchmarks.engine.speed import SIDES


def markdown(results: dict[str, Any]) -> str:
    """All parts that have been measured."""
    pieces = [
        "# The engine's figures",
        "",
        "Made by `python -m benchmarks.engine`; the numbers are in `engine.json`.",
        "",
    ]
    for part, heading, write in (
        ("exact", "Exactness", _exact),
        ("norm", "GroupNorm in half precision at mean / deviation = 60", _norm),
        ("arithmetic", "Arithmetic of the busiest of N ranks, SDXL's UNet", _arithmetic),
        ("traffic", "Traffic and buffers of a middle rank, SDXL's UNet in fp16, one guided image", _traffic),
        ("memory", "Activations of the busiest of N ranks in SDXL's VAE, float32", _memory),
        ("strips", "The same of large pictures, bfloat16, whole and as GPUs of so much memory compute them", _strips),
        ("speed", "Two ranks on two cores", _speed),
        ("uneven", "Two ranks on two cores, rows that do not divide", _uneven),
    ):
        if part in results:
            pieces += [f"## {heading}", "", *write(results[part]["figures"]), ""]
            machine = results[part]["machine"]
            pieces += [
                f"Measured {results[part]['measured']} with torch {machine['torch']}, {machine['processor']}.",
                "",
            ]
    return "\n".join(pieces).rstrip() + "\n"


def _rows(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join("" if cell is None else str(cell) for cell in line) + " |" for line in lines]


def _exact(figures: dict[str, Any]) -> list[str]:
    sizes = len(figures["sizes_of_renders"])
    return [
        "Largest difference relative to the largest value, float32, against plain diffusers; the worst of batches 1 "
        f"and 2 and of {len(figures['sizes_of_evaluations'])} sizes (renders: {sizes}). Bounds: "
        f"{figures['bound_of_an_evaluation']:.0e} for one evaluation, {figures['bound_of_six_steps']:.0e} for six "
        "guided steps and decode.",
        "",
        *_rows(
            ["ranks", "one evaluation", "displaced, unchanged input", "layout", "six steps and decode"],
            [
                [
                    row["ranks"],
                    f"{row['one_evaluation']:.1e}",
                    f"{row['displaced_unchanged']:.1e}",
                    row["layout_of_renders"],
                    f"{row['six_steps_and_decode']:.1e}",
                ]
                for row in figures["rows"]
            ],
        ),
    ]


def _norm(figures: dict[str, float]) -> list[str]:
    return _rows(["dtype", "largest error"], [[dtype, f"{error:.2%}"] for dtype, error in figures.items()])


def _arithmetic(figures: list[dict[str, Any]]) -> list[str]:
    return [
        "Operations of the busiest rank times N over those of the whole; 1 is perfect. In brackets, where they differ: "
        "what it would be without handing tokens on, and how many of the deepest level's tokens that takes.",
        "",
        *_rows(
            ["size", "whole, T", *(f"N = {count}" for count in sorted({row["ranks"] for row in figures}))],
            [
                [
                    f"{width} x {height}",
                    own[0]["whole_tera"],
                    *map(_share, own),
                ]
                for width, height in dict.fromkeys((row["width"], row["height"]) for row in figures)
                for own in ([row for row in figures if (row["width"], row["height"]) == (width, height)],)
            ],
        ),
    ]


def _share(row: dict[str, Any]) -> str:
    if not row["moved"]:
        return f"{row['share']:.3f}"
    return f"{row['share']:.3f} ({row['rows']:.3f}, {row['moved']:.1%})"


def _uneven(figures: dict[str, Any]) -> list[str]:
    """Two ranks whose rows do not divide."""
    return [
        f"Latents whose units of rows do not divide by two, medians of {figures['rounds']} rounds, milliseconds an "
        "evaluation; the ratio is that of tokens handed on to every rank's own.",
        "",
        *_rows(
            ["latent", "rows", "phase", "handed on", "own tokens", "ratio"],
            [
                [size, " and ".join(map(str, own["rows"])), phase, *own[phase]["median_ms"], own[phase]["ratio"]]
                for size, own in figures["sizes"].items()
                for phase in ("displaced", "synchronous")
            ],
        ),
    ]


def _traffic(figures: dict[str, Any]) -> list[str]:
    halos = figures["halo_bytes_by_ranks"]
    return [
        "By the formulas of docs/engine.md, which tests hold against counted bytes. In brackets: DistriFusion.",
        "",
        *_rows(
            [
                *(
                    "pixels",
                    "layout",
                    "received a step, G elements",
                    "sent, GB",
                    "the same as residuals",
                    "waited for while a picture settles",
                ),
                *("halos sent, MB", "prediction, MB", "buffers, GB"),
            ],
            [
                [
                    row["pixels"],
                    row["layout"],
                    _beside(row["received_giga_elements"], row["distrifusion_received_giga_elements"]),
                    row["sent_gb"],
                    row["sent_residual_gb"],
                    row["waited_kv_gb"],
                    row["halo_sent_mb"],
                    row["prediction_mb"],
                    _beside(row["buffers_gb"], row["distrifusion_buffers_gb"]),
                ]
                for row in figures["table"]
            ],
        ),
        "",
        "Halos sent by a rank in the middle at 3840 pixels, in bytes: "
        + ", ".join(f"{size:,} with {ranks} ranks" for ranks, size in halos.items())
        + ".",
    ]


def _beside(own: float, peer: float | None) -> str:
    return f"{own}" if peer is None else f"{own} ({peer})"


def _memory(figures: list[dict[str, Any]]) -> list[str]:
    counts = sorted({row["ranks"] for row in figures})
    return [
        "Most bytes of tensors alive at once, from shapes; in brackets that times N over one rank's: 1 is perfect. "
        "What an operation needs only inside itself is not counted.",
        "",
        *_rows(
            ["size", "way", *(f"N = {count}, GB" for count in counts)],
            [
                [f"{width} x {height}", way, *(f"{row[f'{way}_gb']:.2f} ({row[f'{way}_share']:.3f})" for row in own)]
                for width, height in dict.fromkeys((row["width"], row["height"]) for row in figures)
                for own in ([row for row in figures if (row["width"], row["height"]) == (width, height)],)
                for way in ("decode", "encode")
            ],
        ),
    ]


def _strips(figures: list[dict[str, Any]]) -> list[str]:
    columns = [f"{half}_{what}" for half in ("decode", "encode") for what in ("whole_gb", "gb", "operations")]
    heads = [f"{half}{what}" for half in ("decode", "encode") for what in (" whole, GB", ", GB", ", operations")]
    return [
        "Counted likewise. *Operations* are those that it takes so, over those of the whole.",
        "",
        *_rows(
            ["size", "ranks", "GPU, GB", *heads],
            [
                [f"{row['width']} x {row['height']}", row["ranks"], row["memory_gb"], *(row[name] for name in columns)]
                for row in figures
            ],
        ),
    ]


def _speed(figures: dict[str, Any]) -> list[str]:
    lines = [
        f"Latents of the sizes named, batch 2, one thread a rank, {figures['cores']} cores, {figures['rounds']} rounds "
        f"of {figures['evaluations_a_block']} evaluations a side. Load of the machine: {figures['load_before']:.1f} "
        f"before, {figures['load_after']:.1f} after; the measurement's own is between 1 and 2, the rest is other work. "
        "Ratios are medians of the ratios within a round.",
        "",
    ]
    rows = [
        [
            size,
            clock,
            *(own["median_ms"].get(side, "") for side in SIDES),
            own["speedup_displaced"],
            own["speedup_synchronous"],
            own["displaced_over_exchange_off"],
            own["displaced_over_synchronous"],
            own.get("settling_over_displaced", ""),
        ]
        for size, clocks in figures["sizes"].items()
        for clock, own in clocks.items()
    ]
    heads = [
        *("latent", "clock", "one rank, ms", "displaced", "settling", "synchronous", "exchange off"),
        *("displaced: speedup", "synchronous: speedup", "displaced / exchange off", "displaced / synchronous"),
        "settling / displaced",
    ]
    return [*lines, *_rows(heads, rows)]

"""`python -m benchmarks.throughput`: measure, and write benchmarks/results/throughput.json and throughput.md."""

import argparse
import json
import os
import platform
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.throughput import control, engine, schedules, slots, waiting, warm_up, weights

RESULTS = Path(__file__).parents[1] / "results"

PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "waiting": lambda: waiting.waiting(8, device_s=4.0, megabytes_a_second=50.0),
    "engine": lambda: engine.engine(16),
    "slots": lambda: slots.slots(64, side_px=256, count=4),
    "weights": weights.measured,
    "warm_up": warm_up.measured,
    "control": lambda: control.control(1000),
    "latency": lambda: control.latency(9),
    "schedules": lambda: schedules.listing(10_000),
}


def main() -> None:
    """Measure the parts asked for; the others stay as the result file has them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    arguments = parser.parse_args()
    if unknown := set(arguments.parts) - PARTS.keys():
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    file = RESULTS / "throughput.json"
    results: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    for part in arguments.parts or PARTS:
        print(f"measuring {part}", flush=True)
        load_before = os.getloadavg()[0]
        figures = PARTS[part]()
        results[part] = {
            "measured": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}, load before {load_before:.1f}",
            "figures": figures,
        }
        file.write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "throughput.md").write_text(_page(results))
    print(_page(results))


def _page(results: dict[str, Any]) -> str:
    pieces = ["# Throughput", "", "Made by `make bench-throughput`; the numbers are in `throughput.json`.", ""]
    pages = {
        "waiting": _waiting,
        "engine": _engine,
        "slots": _slots,
        "weights": _weights,
        "warm_up": _warm_up,
        "control": _control,
        "latency": _latency,
        "schedules": _schedules,
    }
    for part, write in pages.items():
        if part in results:
            measured, machine = results[part]["measured"], results[part]["machine"]
            pieces += [*write(results[part]["figures"]), "", f"Measured {measured}: {machine}.", ""]
    return "\n".join(pieces).rstrip() + "\n"


def _waiting(found: dict[str, Any]) -> list[str]:
    heads = " | ".join(str(number + 1) for number in range(found["images"]))
    rows = {"Tessera": found["waited_s"], "plain loop": found["plain_waited_s"]}
    return [
        "## Waiting for files and uploads",
        "",
        f"{found['side_px']} x {found['side_px']} pixels; the device sleeps {found['device_s']:g} s an image, "
        f"the store takes {found['store_mb_a_second']:g} MB/s, a file has {found['file_mb']} MB. Seconds that "
        "rendering waits, by image. The plain loop saves with Pillow's default, uploads, and goes on.",
        "",
        f"| image | {heads} |",
        "| --- |" + " --- |" * found["images"],
        *(f"| {name} | " + " | ".join(f"{seconds:.3f}" for seconds in row) + " |" for name, row in rows.items()),
    ]


def _engine(found: dict[str, Any]) -> list[str]:
    plain, start, in_slots = found["plain"], found["start_s"], found.get("in_slots")
    return [
        "## A job of the demo model",
        "",
        f"{found['images']} images of {found['side_px']} pixels, {found['steps']} steps, one rank, one thread.",
        "",
        f"- From the first question to the last upload {found['wall_s']} s, of which denoising and decoding are "
        f"{found['denoise_and_decode_s']} s: a ratio of {found['ratio']}. The plain diffusers loop takes "
        f"{plain['wall_s']} s for rendering and saving.",
        *(
            [
                f"- In {in_slots['slots']} slots {in_slots['wall_s']} s, of {in_slots['denoise_and_decode_s']} s of "
                f"denoising, and of decoding beside it: a ratio of {in_slots['ratio']}."
            ]
            if in_slots is not None
            else []
        ),
        f"- Encoding prompts, by image: {', '.join(f'{seconds:.3f}' for seconds in found['encode_s'])} s.",
        f"- Start: {', '.join(f'{name} {seconds} s' for name, seconds in start.items())}. The plain loop imports and "
        f"loads in {plain['start_s']} s.",
        f"- Memory of the process after each image, MB: {', '.join(map(str, found['memory_mb']))}.",
    ]


def _slots(found: dict[str, Any]) -> list[str]:
    alone, together, static = found["one at a time"], found["together"], found["static"]
    return [
        "## Images at a time",
        "",
        f"{found['rows']} rows of {found['side_px']} pixels with 10 to 50 steps and three samplers, {found['slots']} "
        f"slots, the demo model on one thread of a CPU and one that decodes: {found['gain']} times as many images a "
        "second of processor time as one at a time. Occupancy is images over slots times evaluations, the end counted, "
        f"where no row is left to join; until then it is {together['until_rows_run_out']}. Static batches are counted.",
        "",
        "| rendered | CPU s | images a CPU second | images a second | evaluations | occupancy |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {name} | {one.get('cpu_s', '')} | {one.get('images_per_cpu_s', '')} | {one.get('images_per_s', '')} | "
            f"{one['evaluations']} | {one.get('occupancy', 1)} |"
            for name, one in (("one at a time", alone), ("slots", together), ("static batches", static))
        ),
        "",
        "![A quarter of it as a timeline](../../docs/pictures/slots.png)",
    ]


def _warm_up(found: dict[str, Any]) -> list[str]:
    runs = {name: figures for name, figures in found.items() if isinstance(figures, dict)}
    return [
        "## The warm-up Job",
        "",
        f"A file of {found['file_mb']} MB in the bucket, and its checksum. Nothing is converted: a checkpoint is "
        "loaded where it lies. Bytes are of the process's own calls to files, start included.",
        "",
        "| | files copied | MB read | MB written | s | processor s |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| {name} | " + " | ".join(f"{value:g}" for value in figures.values()) + " |"
            for name, figures in runs.items()
        ),
    ]


def _weights(found: dict[str, Any]) -> list[str]:
    by_ranks = found["seconds_by_ranks"]
    cases = list(next(iter(by_ranks.values())))
    return [
        "## Weights to all ranks",
        "",
        f"{found['mb']} MB of safetensors; seconds until the last rank has them (median of {found['rounds']} rounds in "
        "turn): memory-mapped by all, as the engine does, or read by one and broadcast (gloo). Cold: the file is not "
        "in the page cache.",
        "",
        f"| ranks | {' | '.join(cases)} |",
        "| --- |" + " --- |" * len(cases),
        *(f"| {ranks} | " + " | ".join(f"{row[case]:.2f}" for case in cases) + " |" for ranks, row in by_ranks.items()),
    ]


def _control(found: dict[str, Any]) -> list[str]:
    return [
        "## The control plane alone",
        "",
        f"{found['jobs']} jobs of one image whose pods do nothing, {found['workers']} workers: {found['seconds']} s "
        f"from the first claim to the batch's end, {found['jobs_a_second']} jobs a second. The last "
        f"{found['of_it_finalization_s']} s are finalization. Milliseconds of CPU a job: "
        f"{', '.join(f'{name} {ms}' for name, ms in found['cpu_ms_a_job'].items())}.",
    ]


def _latency(found: dict[str, Any]) -> list[str]:
    return [
        "## From submit to launch",
        "",
        f"An idle deployment, {found['rounds']} rounds: {found['submit_to_launch_s']} s (median; slowest "
        f"{found['slowest_s']} s) from the call of `submit` to the record of the launch; `submit` itself "
        f"{found['of_it_submit_s']} s of it.",
    ]


def _schedules(found: dict[str, Any]) -> list[str]:
    return [
        "## A list of schedules",
        "",
        f"`tessera schedule list` of {found['schedules']:,} schedules that have fired: {found['table_s']} s (CPU of "
        f"the command {found['table_cpu_s']} s), with `--json` {found['json_s']} s ({found['json_cpu_s']} s).",
    ]


if __name__ == "__main__":
    main()

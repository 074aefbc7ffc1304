"""The result file as a page."""

from typing import Any

HEAD = """# Bulk

Made by `make bench-bulk`; the numbers are in `bulk.json`. Peaks are resident memory (VmHWM), a megabyte is 10^6 bytes.
Load is the whole machine's, at the end with the measurement itself.
"""
WANTED = "under 180 s, under 400 MB in any process, under 60 MB more in Redis; a look at the status in under 10 ms"


def page(results: dict[str, Any]) -> str:
    """Markdown of the parts that were measured."""
    pieces = [HEAD]
    parts = {
        "scale": _scale,
        "finalize": _finalize,
        "pictures": _pictures,
        "download": _download,
        "gallery": _gallery,
    }
    for part, write in parts.items():
        if part in results:
            one = results[part]
            note = f"Measured {one['measured']}: {one['machine']}, load {one['load_before']} to {one['load_after']}."
            pieces += [*write(one["figures"]), "", note, ""]
    return "\n".join(pieces).rstrip() + "\n"


def _scale(found: dict[str, Any]) -> list[str]:
    queued, fair, interactive = found["queued"], found["fair"], found["interactive"]
    large, small = found["status"]["large"], found["status"]["small"]
    claims = ", ".join(f"{count} are of {tenant}" for tenant, count in fair["claims"].items())
    return [
        f"## {queued['rows']:,} rows",
        "",
        f"Wanted: {WANTED}.",
        "",
        f"- Submitted in {queued['submit_s']} s (validated, staged, accepted), sharded and queued "
        f"{queued['expand_s']} s later as {queued['jobs']:,} jobs: **{queued['total_s']} s**. "
        f"The file has {queued['file_mb']} MB.",
        f"- Redis holds {queued['redis_mb']} MB more.",
        f"- Submitted again under the same id in {found['again']['seconds']} s: nothing changed in Redis or the "
        "bucket.",
        f"- A look at its status: {large['median_ms']} ms (median; slowest {large['slowest_ms']} ms), of which Redis "
        f"{large['in_redis_ms']} ms, {large['commands']:g} commands. Of a batch of ten rows: {small['median_ms']} ms, "
        f"{small['commands']:g} commands. The command `tessera status` takes {found['status']['command_line_s']} s: "
        "its start.",
        f"- Two more tenants come behind it: of the next {sum(fair['claims'].values())} claims {claims}; a claim takes "
        f"{fair['claim_ms']} ms.",
        f"- One urgent row behind it, all {interactive['slots']} slots busy with pods of {interactive['pod_s']:g} s: "
        f"launched after {', '.join(f'{seconds:g}' for seconds in interactive['waited_s'])} s.",
        "",
        "| process | peak, MB | processor, s |",
        "| --- | --- | --- |",
        *(f"| {name} | {used['peak_mb']:g} | {used['cpu_s']:g} |" for name, used in queued["processes"].items()),
    ]


def _finalize(found: dict[str, Any]) -> list[str]:
    return [
        "## Finalization",
        "",
        "By one controller, one batch after the other; its peak so far.",
        "",
        "| images | seconds | controller's peak, MB | its processor time, s |",
        "| --- | --- | --- | --- |",
        *(f"| {b['images']:,} | {b['seconds']} | {b['peak_mb']:g} | {b['cpu_s']:g} |" for b in found["batches"]),
    ]


def _pictures(found: dict[str, Any]) -> list[str]:
    return [
        "## The look for every picture",
        "",
        f"Part of finalization, of {found['images']:,} images in the local store, {found['at_a_time']} rows of them "
        "at a time: a list from the first to the last of each row, and a HEAD of what it does not show.",
        "",
        "| images at once | lists | seconds | processor time, s | LIST | HEAD |",
        "| --- | --- | --- | --- | --- | --- |",
        *map(_look, found["rows"]),
    ]


def _look(row: dict[str, Any]) -> str:
    lists = "late: they show nothing" if row["late"] else "in time"
    requests = f"{row['lists']:,} | {row['heads']:,}"
    return f"| {row['images_per_job']} | {lists} | {row['seconds']} | {row['cpu_s']} | {requests} |"


def _download(found: dict[str, Any]) -> list[str]:
    commands = ("download", "links", "contact-sheet")
    lines = []
    for batch in found["batches"]:
        cells = [f"{batch[command]['seconds']} | {batch[command]['peak_mb']}" for command in commands]
        lines.append(f"| {batch['images']:,} | {' | '.join(cells)} |")
    return [
        "## Download, links, contact sheets",
        "",
        "Images of 64 x 64 pixels, so that what is measured is Tessera's own part.",
        "",
        "| images | " + " | ".join(f"{command}, s | peak, MB" for command in commands) + " |",
        "| --- |" + " --- | --- |" * len(commands),
        *lines,
    ]


def _gallery(found: dict[str, Any]) -> list[str]:
    return [
        "## Gallery",
        "",
        f"A page of {found['images']:,} images, {found['page_mb']} MB, from a folder in headless Chromium: laid out "
        f"after {found['loaded_s']} s, filtered by words in {found['filter_ms']} ms ({found['found']:,} left), at its "
        f"end after {found['end_ms']} ms, {found['heap_mb']} MB of script memory.",
    ]

"""The results as a page."""

from collections.abc import Iterator
from typing import Any

TITLES = {
    "one_rank": "One rank of N, a guided evaluation",
    "pictures": "Whole pictures on one GPU, from prompt to PNG",
    "decode": "Decode, one rank of N",
    "parity": "Two ranks on one GPU against plain diffusers",
    "kernels": "Kernels of an eager displaced evaluation",
    "plain": "Plain diffusers on one GPU, a guided evaluation",
}


def markdown(results: dict[str, Any]) -> str:
    """A table a part; rows that failed say why."""
    lines = [
        "# The engine on one GPU",
        "",
        "By `python -m benchmarks.engine.gpu`; docs/gpu.md says what the parts measure.",
    ]
    for name, title in TITLES.items():
        if name not in results:
            continue
        part = results[name]
        machine = part["machine"]
        rows = [row for row in part["rows"] if "part_s" not in row]
        lines += ["", f"## {title}", "", f"{machine['device']}, torch {machine['torch']}, {machine['measured']}.", ""]
        lines += _kernels(rows) if name == "kernels" else _table(rows)
    return "\n".join(lines) + "\n"


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    yield f"| {' | '.join(column.replace('_', ' ') for column in columns)} |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield f"| {' | '.join(_cell(row.get(column)) for column in columns)} |"


def _kernels(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield from _table([{key: value for key, value in row.items() if key != "most"} for row in rows])
    for row in rows:
        if "most" in row:
            yield from ("", f"{row['pixels']} px:", "")
            yield from _table(row["most"])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return str(value).replace("|", "\\|").replace("\n", " ")

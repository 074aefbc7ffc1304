"""The command `lora check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.exits import OK, USAGE
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson
from pipeline.loras.report import LoraReport, report

lora = typer.Typer(help="LoRA files.", no_args_is_help=True)

_SHOWN = 5  # names of layers that are not used


def add_to(app: typer.Typer) -> None:
    """Add this command to the program."""
    app.add_typer(lora, name="lora")


@lora.command()
def check(
    file: Annotated[Path, typer.Argument(help="A LoRA as .safetensors.", show_default=False)], as_json: AsJson = False
) -> int:
    """Say what a LoRA file is, what made it, for which base model, and what SDXL would not use of it.

    Exit code 2 if an SDXL model cannot use it.
    """
    found = report(file)
    if as_json:
        write_json(_content(found))
    else:
        for name, value in _lines(found):
            typer.echo(f"{name:<12} {_printable(value)}")
    return OK if found.refusal is None else USAGE


def _printable(text: str) -> str:
    """Names come from the file: none may say something to the terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _lines(found: LoraReport) -> list[tuple[str, str]]:
    sizes = f"{found.size_bytes / 1e6:.1f} MB, {', '.join(found.dtypes) or 'no tensors'}"
    lines = [
        ("file", f"{found.path.name} ({sizes})"),
        ("base", found.base or "it does not say"),
        ("made by", found.trainer or "it does not say"),
    ]
    for part, kinds in found.layers.items():
        lines.append((part, ", ".join(f"{count} layers of {kind}" for kind, count in kinds.items())))
    if found.decomposed:
        lines.append(("DoRA", f"{found.decomposed} of these layers have magnitudes"))
    if found.ranks:
        lines.append(("rank", ", ".join(f"{rank} ({count} layers)" for rank, count in sorted(found.ranks.items()))))
    if found.embeddings:
        lines.append(("embeddings", ", ".join(found.embeddings)))
    for reason, modules in found.unused.items():
        more = f" and {len(modules) - _SHOWN} more" if len(modules) > _SHOWN else ""
        lines.append(("not used", f"{len(modules)} layers ({reason}): {', '.join(modules[:_SHOWN])}{more}"))
    lines += [
        ("sha256", found.hashes.sha256),
        ("AutoV2", found.hashes.autov2),
        ("AutoV3", found.hashes.autov3),
        ("verdict", "an SDXL model can use it" if found.refusal is None else f"refused: {found.refusal}"),
    ]
    return lines


def _content(found: LoraReport) -> dict[str, object]:
    return {
        "file": str(found.path),
        "size_bytes": found.size_bytes,
        "base": found.base,
        "trainer": found.trainer,
        "layers": {part: dict(kinds) for part, kinds in found.layers.items()},
        "decomposed": found.decomposed,
        "ranks": {str(rank): count for rank, count in found.ranks.items()},
        "dtypes": list(found.dtypes),
        "unused": {reason: list(modules) for reason, modules in found.unused.items()},
        "embeddings": list(found.embeddings),
        "sha256": found.hashes.sha256,
        "autov2": found.hashes.autov2,
        "autov3": found.hashes.autov3,
        "refusal": found.refusal,
    }

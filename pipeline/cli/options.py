"""Arguments and options that several commands have, so that each means one thing and reads the same everywhere."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.promptset.formats import InputFormat

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]

BatchId = Annotated[str, typer.Argument(help="Id of a batch.", show_default=False)]
JobRef = Annotated[str, typer.Argument(help="BATCH/JOB, such as summer-catalogue/3.", show_default=False)]
File = Annotated[
    str,
    typer.Argument(
        help="Prompt set: .jsonl, .csv or .txt, also .gz or .zst; a path, s3://BUCKET/KEY, or - for standard input. Or "
        "a PNG, JPEG or WebP with metadata, or a folder of them.",
        show_default=False,
    ),
]

BatchSeed = Annotated[
    int | None, typer.Option(help="Rows without a seed get theirs from it; by default it follows from the batch id.")
]
InFormat = Annotated[InputFormat | None, typer.Option(help="Format of the prompt set, if its name does not show it.")]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="OPTION=VALUE[,...]",
        help="Replace what rows say themselves, as in steps=12,size=832x1216; may be repeated.",
    ),
]
Priority = Annotated[int, typer.Option(help="0 is served first, 9 last.")]
SkipInvalid = Annotated[bool, typer.Option(help="Leave out invalid rows instead of refusing the whole prompt set.")]
Tenant = Annotated[str, typer.Option(help="Whose batches these are; tenants share the GPUs fairly.")]
Timeout = Annotated[float | None, typer.Option(help="Stop waiting after this many seconds (exit code 5).")]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Wait and show progress; the exit code is the one of `watch`.")
]

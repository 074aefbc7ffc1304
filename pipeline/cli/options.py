"""Arguments and options that several commands have, so that each means one thing and reads the same everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pipeline.cli import complete
from pipeline.errors import ServiceError
from pipeline.promptset.formats.by_form import InputFormat

if TYPE_CHECKING:
    from pipeline.client.client import Client

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to standard output.")]


def _client() -> Client:
    """Imported when it is asked: a command that needs no deployment does not wait for Redis' and S3's clients."""
    from pipeline.client.client import Client

    return Client()


def _full_job_ref(context: typer.Context, named: str) -> str:
    batch, slash, job = named.partition("/")
    if not slash or context.resilient_parsing:
        return named
    try:
        return f"{_client().full_id(batch)}/{job}"
    except ServiceError:  # a trace is in the bucket, and can be seen while Redis is away
        return named


def _full_id(context: typer.Context, named: str | None) -> str | None:
    return named if named is None or context.resilient_parsing else _client().full_id(named)


def _full_ids(context: typer.Context, named: list[str] | None) -> list[str]:
    ids = named or []
    if context.resilient_parsing or not ids:
        return ids
    client = _client()
    return list(dict.fromkeys(map(client.full_id, ids)))


BatchId = Annotated[
    str,
    typer.Argument(
        metavar="BATCH",
        help="Id of a batch, the beginning of one, or last.",
        show_default=False,
        callback=_full_id,
        autocompletion=complete.batch_ids,
    ),
]
BatchIds = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="BATCH",
        help="Ids of batches, the beginning of one, or last.",
        show_default=False,
        callback=_full_ids,
        autocompletion=complete.batch_ids,
    ),
]
OfBatch = Annotated[
    str | None,
    typer.Option(
        "--batch",
        help="Only of this batch: its id, the beginning of one, or last.",
        callback=_full_id,
        autocompletion=complete.batch_ids,
    ),
]
Label = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="NAME=VALUE", help="A label of the batch, to find it by; may be repeated."),
]
JobRef = Annotated[
    str,
    typer.Argument(
        metavar="BATCH/JOB",
        help="BATCH/JOB, such as summer-catalogue/3 or last/0.",
        show_default=False,
        callback=_full_job_ref,
        autocompletion=complete.job_refs,
    ),
]
File = Annotated[
    str,
    typer.Argument(
        help="Prompt set: .jsonl, .json, .csv, .txt, .xlsx or .parquet, also .gz or .zst; a path, s3://BUCKET/KEY, "
        "or - for standard input. Or a PNG, JPEG or WebP with metadata, or a folder of them.",
        show_default=False,
    ),
]

BatchSeed = Annotated[
    int | None, typer.Option(help="Rows without a seed get theirs from it; by default it follows from the batch id.")
]
InFormat = Annotated[InputFormat | None, typer.Option(help="Format of the prompt set, if its name does not show it.")]
Comments = Annotated[bool, typer.Option("--comments", help="Lines of a text that begin with # are no prompts.")]
ExtraColumns = Annotated[
    Literal["metadata"] | None,
    typer.Option(help="Where columns of a table go that are no fields; by default they are errors."),
]
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
Timeout = Annotated[float | None, typer.Option(min=0, help="Stop waiting after this many seconds (exit code 5).")]
WebhookEvents = Annotated[
    list[str] | None,
    typer.Option(
        "--webhook-event",
        metavar="EVENT",
        help="An event to send: accepted, progress, completed, failed or cancelled; may be repeated; none means all.",
    ),
]
Watch = Annotated[
    bool, typer.Option("--watch", "-w", help="Wait and show progress; the exit code is the one of `watch`.")
]

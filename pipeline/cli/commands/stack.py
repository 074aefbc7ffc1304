"""Commands about the local stack: up, down, demo."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.checkpoints.header import read_header
from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson
from pipeline.client.client import Client
from pipeline.client.connect import connect_to_stack
from pipeline.client.local_stack import StackState, running_stack, start_stack, stop_stack, wipe
from pipeline.deployment.settings import MachineSettings, load_part
from pipeline.errors import NoDeployment, RequestError, ServiceError
from pipeline.operations.submit import Submission, checked_options
from pipeline.process.lifeline import die_with_parent

_WORKERS_S, _POLL_S = 60.0, 0.1

DataDir = Annotated[
    Path | None, typer.Option(help="Folder for all its data; by default TESSERA_DATA_DIR, or ~/.tessera.")
]
Slots = Annotated[int, typer.Option(help="Jobs that run at the same time.", min=1)]
Ranks = Annotated[int, typer.Option(help="Ranks of one job.", min=1)]
Loras = Annotated[
    list[str] | None,
    typer.Option(
        "--lora", metavar="NAME=FILE", help="A LoRA for the demo model, which rows may name; may be repeated."
    ),
]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(up)
    app.command()(down)
    app.command()(demo)


def up(
    data_dir: DataDir = None, slots: Slots = 1, ranks: Ranks = 2, lora: Loras = None, as_json: AsJson = False
) -> int:
    """Start Redis, S3, workers and a node on this machine, and leave them running; `tessera down` stops them."""
    folder = _folder(data_dir)
    before = running_stack(folder)
    if before is not None and lora:
        raise RequestError("the local stack runs already, and takes LoRAs when it starts; `tessera down` stops it")
    loras = json.dumps(_files(lora or []))
    state = before or start_stack(
        folder, detached=True, on_progress=_print_progress, slots=slots, gpus=ranks, loras=loras
    )
    _wait_for_workers(state)
    if as_json:
        write_json({"data_dir": str(folder), "pid": state.pid, "started": before is None})
        return OK
    what = "runs already" if before else "is up"
    typer.echo(f"the local stack {what}: data in {folder}, logs in {state.logs}")
    named = "" if data_dir is None else f"TESSERA_DATA_DIR={folder} "
    typer.echo(f"try: {named}tessera submit PROMPTS.jsonl --watch", err=True)
    return OK


def _files(loras: list[str]) -> dict[str, str]:
    """File by name. Raises RequestError, BadCheckpoint."""
    files = {}
    for text in loras:
        name, _, path = text.partition("=")
        if not name or not Path(path).is_file():
            raise RequestError(f"--lora {text[:200]!r}: NAME=FILE wanted, and the file must be there")
        read_header(Path(path))  # a web page or half a download is refused before anything starts
        files[name] = str(Path(path).absolute())
    return files


def down(
    data_dir: DataDir = None,
    wipe_data: Annotated[bool, typer.Option("--wipe", help="Also remove all its data: batches, images, logs.")] = False,
    as_json: AsJson = False,
) -> int:
    """Stop the local stack. Its data stay, and unfinished batches go on when it is up again."""
    folder = _folder(data_dir)
    ran = stop_stack(folder)
    if wipe_data:
        wipe(folder)
    if as_json:
        write_json({"data_dir": str(folder), "stopped": ran, "wiped": wipe_data})
    else:
        data = "its data are removed" if wipe_data else f"its data stay in {folder}"
        typer.echo(f"the local stack {'is down' if ran else 'was not running'}; {data}")
    return OK


def demo(
    prompts: Annotated[Path | None, typer.Argument(help="A prompt set; by default the eight example rows.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("renders"),
    data_dir: DataDir = None,
    slots: Slots = 1,
    ranks: Ranks = 2,
    timeout: Annotated[float, typer.Option(help="Give up after this many seconds (exit code 5).")] = 600,
    with_parent: Annotated[
        bool, typer.Option(help="Stop when the process that started this one ends, however it ends.")
    ] = False,
) -> int:
    """Render the example prompts on this machine, with real Redis, S3, Celery and torchrun, all stopped at the end.

    A local stack that is up on the same folder is used, and left running.
    """
    if with_parent:
        die_with_parent()
    folder = _folder(data_dir)
    running = running_stack(folder)
    typer.echo("using the local stack that is up" if running else f"starting the local stack in {folder}", err=True)
    state = running or start_stack(folder, detached=False, on_progress=_print_progress, slots=slots, gpus=ranks)
    try:
        _wait_for_workers(state)
        return _render(state, prompts, output, timeout)
    finally:
        if running is None:
            stop_stack(folder)


def _render(state: StackState, prompts: Path | None, output: Path, timeout_s: float) -> int:
    client = Client(connect_to_stack(state.client_environment(os.environ)))
    accepted = client.accept(Submission(prompts or _examples(), checked_options({})))
    manifest = accepted.manifest
    typer.echo(f"batch {manifest.id}: {manifest.rows} rows, {manifest.images} images", err=True)
    batch = client.batch(manifest.id)
    status = batch.wait(timeout_s, progress=True)
    page = batch.download(output / manifest.id).resolve()
    for failure in batch.errors():
        typer.echo(f"{failure.custom_id}: {failure.code.value}: {failure.message}", err=True)
    typer.echo(f"{status.succeeded} of {status.total} images in {page.parent.parent / 'images'}")
    if "demo" in {image.result.model for image in batch.images()} and not _is_trained(state):
        typer.echo(
            "(this installation has no trained demo model, so the pictures are noise from random weights; everything "
            "else about the render is real)"
        )
    typer.echo(f"look at them: {page}")
    return status.exit_code


def _is_trained(state: StackState) -> bool:
    """Whether the stack's demo model is a checkout's trained one, which has a model card; the random one has none."""
    return (state.data_dir / "models" / "demo" / "README.md").is_file()


def _wait_for_workers(state: StackState) -> None:
    """Wait until the controller takes batches and a worker renders. Raises ServiceError."""
    began = time.monotonic()
    ledger = connect_to_stack(state.client_environment(os.environ)).ledger
    while True:
        try:
            ledger.deployment()
            if ledger.workers.free_slots():
                break
        except NoDeployment:
            pass  # the ledger of a stack that has just come up for the first time
        if time.monotonic() - began > _WORKERS_S:
            raise ServiceError(f"the stack's workers did not come up within {_WORKERS_S:.0f} s; see {state.logs}")
        time.sleep(_POLL_S)
    _print_progress(f"workers ready ({time.monotonic() - began:.1f} s)")


def _examples() -> Path:
    package = Path(__file__).resolve().parents[2]
    installed = package / "demo.jsonl"
    return installed if installed.is_file() else package.parent / "examples" / "prompts.jsonl"


def _folder(data_dir: Path | None) -> Path:
    if data_dir is not None and data_dir.exists() and not data_dir.is_dir():
        raise RequestError(f"--data-dir {data_dir} is a file; a folder wanted")
    # Of all settings only this one matters here, so the others may be missing.
    chosen: dict[str, Any] = {"data_dir": data_dir} if data_dir is not None else {}
    return load_part(MachineSettings, **chosen).data_dir


def _print_progress(line: str) -> None:
    typer.echo(f"  {line}", err=True)

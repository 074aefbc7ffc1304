"""Commands about the local stack: up, down, demo."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import typer

from pipeline.cli.added_files import ControlNets, Embeddings, IPAdapters, Loras, stack_options
from pipeline.cli.counts import rows_and_images
from pipeline.cli.exits import OK
from pipeline.cli.json_out import write_json
from pipeline.cli.options import AsJson
from pipeline.cli.ready_stack import data_folder, print_progress, wait_for_workers
from pipeline.client.client import Client
from pipeline.client.connect import connect_to_stack
from pipeline.client.local_stack import StackState, running_stack, start_stack, stop_stack, wipe
from pipeline.client.stack_environment import SETTINGS_FILE, settings_of_file, unheeded, without_effect
from pipeline.client.standalone import stop_standalone
from pipeline.deployment.model_check import model_id, source_of
from pipeline.deployment.model_file import add_model
from pipeline.deployment.settings import default_of, load_settings, variable_name
from pipeline.errors import RequestError
from pipeline.ledger import Ledger
from pipeline.operations.submit import Submission, checked_options, from_here
from pipeline.operations.tokens import create_sign_in
from pipeline.process.lifeline import die_with_parent
from pipeline.process.private import private_folder
from pipeline.records.tokens import EVERY_TENANT, Scope

# How long a stack may take to end in order before it is killed: in general, and when somebody waits who pressed Ctrl-C.
_GRACE_S, _INTERRUPTED_S = 40.0, 0.5
# A link to sign in works for so long.
_SIGN_IN = timedelta(minutes=10)

DataDir = Annotated[
    Path | None, typer.Option(help="Folder for all its data; by default TESSERA_DATA_DIR, or ~/.tessera.")
]
Slots = Annotated[int | None, typer.Option(help="Jobs that run at the same time.", min=1, show_default="1")]
Ranks = Annotated[int | None, typer.Option(help="Ranks of one job.", min=1, show_default="as many as GPUs, 2 on a CPU")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None,
    typer.Option(help="What ranks compute on.", show_default="auto: GPUs if there are any"),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="[ID=]PATH",
        help="A .safetensors file or a diffusers folder, checked and added (`tessera model add` has more options); "
        "the first is the model of rows that name none. May be repeated.",
    ),
]
Port = Annotated[
    int | None,
    typer.Option(help="Port of its page and HTTP API.", min=1, max=65535, show_default="8080, or a free one"),
]
NoPage = Annotated[bool, typer.Option("--no-page", help="Leave its page and HTTP API out.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands to the program."""
    app.command()(up)
    app.command()(down)
    app.command()(demo)


def up(
    data_dir: DataDir = None,
    model: Models = None,
    device: Device = None,
    slots: Slots = None,
    ranks: Ranks = None,
    lora: Loras = None,
    port: Port = None,
    no_page: NoPage = False,
    embedding: Embeddings = None,
    controlnet: ControlNets = None,
    ip_adapter: IPAdapters = None,
    as_json: AsJson = False,
) -> int:
    """Start Redis, S3, workers and a node on this machine, and leave them running; `tessera down` stops them.

    It finds the GPUs of the machine. Settings (TESSERA_*, docs/settings.md) hold where no option is given: those of the
    environment, then those of settings.env in the data folder; but for those of its own Redis, bucket and node.
    """
    folder = data_folder(data_dir)
    before = running_stack(folder)
    given = {
        "LoRAs": lora,
        "embeddings": embedding,
        "ControlNets": controlnet,
        "IP-Adapters": ip_adapter,
        "models": model,
    }
    if before is not None and (what := next((what for what, listed in given.items() if listed), None)):
        raise RequestError(f"the local stack runs already, and takes {what} when it starts; `tessera down` stops it")
    for name in unheeded(os.environ):
        typer.echo(f"{name} changes nothing here: the local stack has its own", err=True)
    if before is not None:
        for name in sorted({*without_effect(os.environ, before.environment)} - {*unheeded(os.environ)}):
            typer.echo(f"{name} changes nothing: the stack runs already; `tessera down` stops it", err=True)
        _say_what_changes_nothing(before, {"slots": slots, "ranks": ranks, "device": device})
        if port is not None and not (before.page or "").endswith(f":{port}"):
            typer.echo(f"--port {port} changes nothing: the stack runs already; `tessera down` stops it", err=True)
    if of_file := settings_of_file(folder):
        typer.echo(f"{folder / SETTINGS_FILE} says {', '.join(sorted(of_file))}", err=True)
    added = [_add_model(folder, text, default=number == 0) for number, text in enumerate(model or ())]
    files = stack_options(lora, embedding, controlnet, ip_adapter)
    try:
        state = before or start_stack(
            folder,
            detached=True,
            on_progress=print_progress,
            slots=slots,
            gpus=ranks,
            device=device,
            default_model=added[0] if added else None,
            port=port,
            no_page=no_page,
            **files,
        )
        wait_for_workers(state)
    except KeyboardInterrupt:
        if before is None:
            typer.echo("interrupted: ending the local stack, which was coming up", err=True)
            stop_stack(folder, _INTERRUPTED_S)
        raise
    if as_json:
        write_json({"data_dir": str(folder), "pid": state.pid, "started": before is None, "page": state.page})
        return OK
    what = "runs already" if before else "is up"
    typer.echo(f"the local stack {what}: data in {folder}, logs in {state.logs}")
    if state.page is not None:
        typer.echo(f"page and HTTP API: {state.page}")
        typer.echo(f"sign in, once and within {_SIGN_IN.seconds // 60} minutes: {_sign_in_link(state)}", err=True)
    elif not no_page:
        typer.echo("it has no page: pip install 'tessera-render[serve]', or it was started with --no-page", err=True)
    named = "" if data_dir is None else f"TESSERA_DATA_DIR={folder} "
    typer.echo(f"try: {named}tessera submit PROMPTS.jsonl --watch", err=True)
    return OK


def _sign_in_link(state: StackState) -> str:
    """A link that signs the owner of this stack in, in a browser."""
    ledger = Ledger(load_settings(state.client_environment(os.environ)))  # without S3's client, which takes longer
    return f"{state.page}/sign-in#{create_sign_in(ledger, EVERY_TENANT, (Scope.ADMIN,), life=_SIGN_IN)}"


_SETTINGS = {"slots": "worker_slots", "ranks": "gpus", "device": "device"}


def _say_what_changes_nothing(running: StackState, given: Mapping[str, str | int | None]) -> None:
    for option, value in given.items():
        has = running.environment.get(variable_name(_SETTINGS[option])) or default_of(_SETTINGS[option])
        if value is not None and str(value) != str(has):
            typer.echo(
                f"--{option} {value} changes nothing: the stack runs already, with {has}; `tessera down` stops it",
                err=True,
            )


def _add_model(folder: Path, text: str, *, default: bool) -> str:
    """Check a model and add it to the data folder; returns its id. Raises RequestError, BadCheckpoint."""
    named, equals, path = text.partition("=")
    whole = Path(path if equals else text).expanduser().absolute()
    if not whole.exists():
        raise RequestError(f"--model {text[:200]!r}: [ID=]PATH wanted, of a file or folder that is there")
    source = source_of(whole)
    name = named if equals else model_id(whole)
    private_folder(folder)
    add_model(folder, name, source, default=default)
    print_progress(f"model {name}: {whole}")
    return name


def down(
    data_dir: DataDir = None,
    wipe_data: Annotated[bool, typer.Option("--wipe", help="Also remove all its data: batches, images, logs.")] = False,
    as_json: AsJson = False,
) -> int:
    """Stop the local stack. Its data stay, and unfinished batches go on when it is up again."""
    folder = data_folder(data_dir)
    warm = stop_standalone(folder)
    ran = stop_stack(folder)
    if wipe_data:
        wipe(folder)
    if as_json:
        write_json({"data_dir": str(folder), "stopped": ran, "wiped": wipe_data})
    else:
        data = "its data are removed" if wipe_data else f"its data stay in {folder}"
        what = "is down" if ran else "was not running"
        model = "; the model that `tessera render` kept in memory is freed" if warm else ""
        typer.echo(f"the local stack {what}{model}; {data}")
    return OK


def demo(
    prompts: Annotated[Path | None, typer.Argument(help="A prompt set; by default the eight example rows.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the images.")] = Path("renders"),
    data_dir: DataDir = None,
    slots: Slots = None,
    ranks: Ranks = None,
    timeout: Annotated[float, typer.Option(help="Give up after this many seconds (exit code 5).")] = 600,
    port: Port = None,
    no_page: NoPage = False,
    with_parent: Annotated[
        bool, typer.Option(help="Stop when the process that started this one ends, however it ends.")
    ] = False,
) -> int:
    """Render the example prompts on this machine, with real Redis, S3, Celery and torchrun, all stopped at the end.

    A local stack that is up on the same folder is used, and left running.
    """
    if with_parent:
        die_with_parent()
    folder = data_folder(data_dir)
    running = running_stack(folder)
    typer.echo("using the local stack that is up" if running else f"starting the local stack in {folder}", err=True)
    grace_s = _GRACE_S
    try:
        state = running or start_stack(
            folder, detached=False, on_progress=print_progress, slots=slots, gpus=ranks, port=port, no_page=no_page
        )
        wait_for_workers(state)
        if state.page is not None:
            typer.echo(f"watch it, until it ends: {_sign_in_link(state)}", err=True)
        return _render(state, prompts, output, timeout)
    except KeyboardInterrupt:
        grace_s = _INTERRUPTED_S
        if running is None:
            typer.echo(f"interrupted: ending the local stack; what is rendered stays in {folder}", err=True)
        raise
    finally:
        if running is None:
            stop_stack(folder, grace_s)


def _render(state: StackState, prompts: Path | None, output: Path, timeout_s: float) -> int:
    client = Client(connect_to_stack(state.client_environment(os.environ)))
    accepted = client.accept(from_here(Submission(prompts or _examples(), checked_options({}))))
    manifest = accepted.manifest
    typer.echo(f"batch {manifest.id}: {rows_and_images(manifest.rows, manifest.images)}", err=True)
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


def _examples() -> Path:
    package = Path(__file__).resolve().parents[2]
    installed = package / "demo.jsonl"
    return installed if installed.is_file() else package.parent / "examples" / "prompts.jsonl"

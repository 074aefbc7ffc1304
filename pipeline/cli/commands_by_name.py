"""The commands by name, each imported when it runs: `tessera --help` must not wait for Redis' and S3's clients.

What a listing says of each stands here once more; a test compares it with the commands themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Name, as it is listed: the module of `pipeline.cli.commands` that adds it, and what it does.
COMMANDS: Mapping[str, tuple[str, str]] = {
    "render": (
        "render",
        "Render one picture and print where it is: by the deployment if there is one, else by this machine as it is.",
    ),
    "submit": (
        "promptsets",
        "Submit a prompt set. It is accepted as a whole, or refused with a list of everything that is wrong with it.",
    ),
    "validate": ("promptsets", "Check a prompt set without submitting it; exit code 2 if a row is invalid."),
    "estimate": (
        "promptsets",
        "Estimate what a prompt set would cost, before anything runs: images, GPU hours, wall time, bytes.",
    ),
    "put": (
        "promptsets",
        "Copy a prompt set into a bucket, for a schedule to read at each firing; over what may be there.",
    ),
    "status": ("batches", "Show the status of a batch, and its jobs under way."),
    "watch": (
        "batches",
        "Follow a batch until it is finished. Exit code 0: all images are there; 3: some; 4: none; 5: timed out.",
    ),
    "list": ("batches", "List batches, newest first: all, or those that the options name."),
    "cancel": ("batches", "Cancel the images of a batch that are not rendered yet; committed images stay."),
    "pause": (
        "batches",
        "Pause a batch: images that are being rendered finish, then its GPUs are free. `unpause` continues it.",
    ),
    "unpause": ("batches", "Continue a paused batch."),
    "priority": ("batches", "Have a batch served earlier or later; jobs that run go on."),
    "retry": ("batches", "Render again the failed images of a batch that has ended; committed images stay."),
    "resume": (
        "batches",
        "Rebuild from the bucket what Redis has lost, or knows as it was before. Running pods go on.",
    ),
    "download": (
        "batches",
        "Download images, results and gallery of a batch, also while it runs. Run it again to go on after a break.",
    ),
    "purge": ("purge", "Remove batches that have ended, and their images, from Redis and the bucket for good."),
    "verify": (
        "verify",
        "Compare what Redis says of a batch with what the bucket has, image by image. Exit code 3 if they differ.",
    ),
    "replay": ("replay", "Render an image again as its record says, and show what differs: layout, versions, pixels."),
    "extract": ("replay", "Write a prompt set that renders these images again, as JSON Lines, to standard output."),
    "links": (
        "results",
        "Print a link to each image, which works without credentials for a while. Treat links like passwords.",
    ),
    "contact-sheet": (
        "results",
        "Lay out the thumbnails of a batch on pages, each with its id and seed; also while the batch runs.",
    ),
    "up": (
        "stack",
        "Start Redis, S3, workers and a node on this machine, and leave them running; `tessera down` stops them.",
    ),
    "down": ("stack", "Stop the local stack. Its data stay, and unfinished batches go on when it is up again."),
    "demo": (
        "stack",
        "Render the example prompts on this machine, with real Redis, S3, Celery and torchrun, all stopped at the end.",
    ),
    "doctor": ("doctor", "Check everything that Tessera depends on, and say what to do about whatever is missing."),
    "pod": ("pod", "Print the Kubernetes Job of a job's latest attempt, as JSON for kubectl."),
    "workers": ("workers", "List the render workers that are alive, and how many jobs each holds."),
    "drain": (
        "workers",
        "Give a worker no more jobs. It looks after the ones it has until they end; `undrain` undoes this.",
    ),
    "undrain": ("workers", "Give a drained worker jobs again."),
    "trace": ("trace", "Show where a job's time went, rank by rank, and save its timeline."),
    "serve": (
        "serve",
        "Serve the HTTP API of a deployment until it is stopped. As many as wanted may run; see docs/api.md.",
    ),
    "acl": ("acl", "Print the Redis commands that create a user for each role, with the fewest rights that it needs."),
    "lora": ("lora", "LoRA files."),
    "model": ("models", "Add, list and check models."),
    "schedule": ("schedules", "Render a prompt set again and again, at times that a cron expression says."),
    "token": ("token", "Tokens of the HTTP API (`tessera serve`)."),
    "webhook": ("webhooks", "Have what becomes of batches sent to a URL."),
}


class CommandsByName(TyperGroup):
    """The program's commands. Listed, they are what stands above; asked for one, it is imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands.update({name: TyperCommand(name, help=does) for name, (_, does) in COMMANDS.items()})
        self._listing = False

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command itself, or what lists it while help or a completion is made."""
        if self._listing or cmd_name not in COMMANDS:
            return self.commands.get(cmd_name)
        return command_of(cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """List the commands."""
        self._listing = True
        try:
            super().format_help(ctx, formatter)
        finally:
            self._listing = False

    def shell_complete(self, ctx: Any, incomplete: str) -> Any:
        """Names that begin so."""
        self._listing = True
        try:
            return super().shell_complete(ctx, incomplete)
        finally:
            self._listing = False


def command_of(name: str) -> Any:
    """The command, imported now."""
    app = typer.Typer()
    app.callback()(_nothing)  # so that it is a group, also of one
    import_module(f"pipeline.cli.commands.{COMMANDS[name][0]}").add_to(app)
    group: Any = typer.main.get_command(app)
    return group.commands[name]


def _nothing() -> None:
    """Options of every command are the program's."""

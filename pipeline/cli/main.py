"""Entry point: parse, run, and turn every error into one message and its exit code."""

from __future__ import annotations

import errno
import json
import os
import sys
from typing import Annotated

import typer

from pipeline.cli.commands_by_name import CommandsByName
from pipeline.cli.exits import INTERRUPTED, OUR_FAULT, exit_code
from pipeline.errors import PromptSetError, TesseraError

_OF_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

app = typer.Typer(
    name="tessera",
    cls=CommandsByName,
    help="Render large prompt sets with SDXL at high resolution.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from pipeline.version import installed_version

        typer.echo(f"tessera {installed_version()}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""
    # Imported when a command runs: help is asked for more often than anything else, and must not wait.
    from pipeline.deployment.settings import default_of
    from pipeline.process.logs import configure_logging

    # The client's own warnings only; a command says what it has to say on its own.
    configure_logging(os.environ.get("TESSERA_LOG_FORMAT", default_of("log_format")), "warning")


def main(argv: list[str] | None = None) -> None:
    """Run a command and exit with its code."""
    arguments = sys.argv[1:] if argv is None else argv
    raise SystemExit(_run(arguments))


def _run(arguments: list[str]) -> int:
    try:
        code = app(args=arguments, standalone_mode=False)
    except TesseraError as error:
        _show(error, as_json="--json" in arguments)
        return exit_code(error)
    except typer.Exit as stop:
        return stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        return INTERRUPTED
    except typer.TyperException as error:
        error.show()  # type: ignore[attr-defined]  # all that parsing raises has it
        return error.exit_code
    except BrokenPipeError:  # `tessera list | head`
        _write_no_more()
        return 0
    except OSError as error:  # of this machine, such as a full disk: those of services have become ours
        _show_system_error(error)
        return OUR_FAULT
    if code == INTERRUPTED:  # what Typer makes of Ctrl-C, without a word
        typer.echo("interrupted", err=True)
    return code if isinstance(code, int) else 0


def _write_no_more() -> None:
    """Have the interpreter's own flush of standard output at its end succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show_system_error(error: OSError) -> None:
    where, what = error.filename, error.strerror or str(error)
    if where is None and error.errno in _OF_WRITING:  # files that we write have names
        where = "standard output"
        _write_no_more()
    typer.echo(f"error: {what}" if where is None else f"error: {os.fsdecode(where)}: {what}", err=True)


def _show(error: TesseraError, *, as_json: bool) -> None:
    from pipeline.process.redact import redacted

    if not as_json:
        typer.echo(redacted(f"error: {error}"), err=True)
        return
    body: dict[str, object] = {"error": type(error).__name__, "message": redacted(str(error))}
    if isinstance(error, PromptSetError):
        body["errors"] = [{"line": e.line, "field": e.field, "message": e.message} for e in error.errors]
        body["total"] = error.total
    typer.echo(json.dumps(body), err=True)

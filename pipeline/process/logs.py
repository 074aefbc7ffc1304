"""Logging of every Tessera process: readable in a terminal, one JSON object a line otherwise.

Batch, job, attempt, image and rank are bound as fields, never formatted into the message. Prompts and credentials are
never logged; `without_secrets` also removes those that are in text of other programs.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

from pipeline.process.redact import conceal_environment, redacted


def without_secrets(_logger: Any, _method: str, line: Any) -> str:
    """A structlog processor for after the renderer: redact the whole line, tracebacks included."""
    return redacted(line)


def configure_logging(form: str = "auto", level: str = "info") -> None:
    """Send structlog's and the standard library's records to stderr in one form, without this process's secrets."""
    conceal_environment(os.environ)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    last: list[Any] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                # The default shows local variables where rich is installed, and those hold prompts.
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
        if readable
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last, without_secrets],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("botocore", "boto3", "urllib3", "s3transfer", "celery.utils.functional"):
        logging.getLogger(chatty).setLevel(logging.WARNING)

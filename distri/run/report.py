"""The reason why a pod ended, where whoever runs it will look: its termination log."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import structlog

from pipeline.names import TERMINATION_LOG_VARIABLE
from pipeline.records.attempt import PodReport

log = structlog.get_logger(__name__)

KUBERNETES_PATH = "/dev/termination-log"


def write_report(report: PodReport) -> None:
    """Write the report, unless another rank of this pod has: the first to end badly knows why, the others follow."""
    path = Path(os.environ.get(TERMINATION_LOG_VARIABLE, KUBERNETES_PATH))
    try:
        with path.open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if file.tell() == 0:
                file.write(report.to_message())
    except OSError as error:
        # The exit code still says that something went wrong, and the log says what.
        log.warning("the termination log cannot be written", path=str(path), reason=str(error))

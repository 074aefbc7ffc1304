"""torchrun that ends as its ranks did: `python -P -m distri.run.torchrun --standalone ... -m distri.run`.

torchrun exits with 1 whatever became of its ranks, and a pod failure policy reads exit codes. This is torchrun itself,
in this very process: it takes torchrun's arguments, signals reach it as they reach torchrun, and ranks die with it.
Only the exit code is another: 0, or that of the rank which failed, or 128 and the signal that ended rank or torchrun.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.run import main as torchrun

from distri.run.next_attempt import write_into
from pipeline.names import ENGINE_FOLDER_VARIABLE
from pipeline.records.attempt import HOPELESS_EXIT_CODES
from pipeline.records.handover import EngineFolder


def main(arguments: list[str]) -> int:
    """Run torchrun; returns what the process is to exit with."""
    try:
        torchrun(arguments)
    except ChildFailedError as error:
        _write_where_ranks_write()
        sys.stderr.write(f"{error}\n")  # how each rank ended
        return _as_exit_code(_deciding_failure(list(error.failures.values())).exitcode)
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def _write_where_ranks_write() -> None:
    """The log of the attempt that they had, which need not be the first one's."""
    folder = os.environ.get(ENGINE_FOLDER_VARIABLE)
    if folder is not None and (handover := EngineFolder(Path(folder)).handover(after=0)) is not None:
        write_into(handover.log)


def _deciding_failure(failures: list[ProcessFailure]) -> ProcessFailure:
    """The failure whose exit code counts: one that no retry mends, else the first.

    Their times are whole seconds, so that most are equal; they are in the order in which torchrun noticed them.
    """
    return min(failures, key=lambda one: (one.exitcode not in HOPELESS_EXIT_CODES, one.timestamp))


def _as_exit_code(code: int) -> int:
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

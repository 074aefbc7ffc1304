"""What torch's NCCL backend and NCCL itself are set to in a pod, unless its environment says otherwise, and why."""

from __future__ import annotations

from collections.abc import MutableMapping

# torch's own watchdogs come after ours (distri/ranks/heartbeat.py), which alone names a rank and leaves a report.
AFTER_OURS_S = 120


def nccl_settings(timeout_s: float) -> dict[str, str]:
    """The settings, for ranks that wait `timeout_s` for each other; by the names of torch's and NCCL's variables."""
    return {
        # A blocking wait would stop the program at every message and start no watchdog.
        "TORCH_NCCL_BLOCKING_WAIT": "0",
        # If an error of NCCL or a timeout is noticed by torch alone, end the process and abort no communicator:
        # ncclCommAbort may hang itself.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",
        # An error of this rank's GPU is raised where its program is, and reported; torch's watchdog, which sees it as
        # well, would end the process with SIGABRT and without a report.
        "TORCH_NCCL_RETHROW_CUDA_ERRORS": "0",
        # For a watchdog that is stuck itself: after ours and after torch's timeout.
        "TORCH_NCCL_ENABLE_MONITORING": "1",
        "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": str(int(timeout_s + AFTER_OURS_S)),
        # No record of each message with its stack, 180 of them an evaluation on 8 ranks, and no dump of it, which would
        # hold the end up for a minute. To look for a lost message: TORCH_FR_BUFFER_SIZE=2000 and DUMP_ON_TIMEOUT=1.
        "TORCH_FR_BUFFER_SIZE": "0",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "0",
        # Events are used again: destroying one while a graph is captured or the driver is busy can hang.
        "TORCH_NCCL_CUDA_EVENT_CACHE": "1",
        # A message that is ready leaves before kernels that were given to the GPU earlier and have not begun.
        "TORCH_NCCL_HIGH_PRIORITY": "1",
        # Two communicators an axis (distri/ranks/groups.py): on the device too in the order in which they are launched.
        "NCCL_LAUNCH_ORDER_IMPLICIT": "1",
    }


def set_nccl(environment: MutableMapping[str, str], timeout_s: float) -> None:
    """Set what the environment does not; both read it when ranks meet."""
    for name, value in nccl_settings(timeout_s).items():
        environment.setdefault(name, value)

"""Go on or stop: what the leader of a replica decides before every evaluation, and how its ranks learn it."""

from collections.abc import Callable
from enum import IntEnum

from distri.ranks.errors import LeaderFailed, Stopped
from distri.ranks.mesh import Mesh


class Control(IntEnum):
    """What the leader of a replica decides before an evaluation."""

    GO = 0
    STOP = 1


# In the broadcast only: the leader's callable raised; the next evaluation waits for the other ranks.
_FAILED, _RESYNC = -1, 1 << 8


def follow_leader(mesh: Mesh, control: Callable[[], Control], evaluation: int, *, resync: bool = False) -> bool:
    """Ask for the leader's decision and follow it, on all ranks of the replica; broadcasts one number and blocks.

    Args:
        mesh: whose replica it is.
        control: asked on the leader.
        evaluation: about to begin.
        resync: what this rank has found about the next evaluation; only the leader's finding counts.

    Returns:
        Whether the next evaluation is to be synchronous.

    Raises:
        Stopped: the leader decided to stop.
        LeaderFailed: the leader's callable raised; on the leader itself that exception goes through as it is.
    """
    if not mesh.is_leader:
        decision = mesh.broadcast_int(0)
        if decision == _FAILED:
            raise LeaderFailed(f"the leader failed before evaluation {evaluation}")
    else:
        try:
            decision = int(control()) | (_RESYNC if resync else 0)
        except BaseException:
            mesh.broadcast_int(_FAILED)
            raise
        mesh.broadcast_int(decision)
    if Control(decision & ~_RESYNC) is Control.STOP:
        raise Stopped(evaluation)
    return bool(decision & _RESYNC)

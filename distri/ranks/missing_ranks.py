"""Which rank is missing, from the heartbeats of all.

A rank that waits for a silent one sees only that its neighbour does not answer, and the neighbour may itself be waiting
for another. Who gives no sign is dead or stopped. Who gives signs, waits for nobody and comes no further while others
wait for it hangs: in a kernel, or in its program.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from distri.ranks.device_errors import device_failure, is_of_device
from distri.ranks.errors import SILENT, PeerLost
from distri.ranks.progress import Standing

PROGRAM_S = 120.0  # a program that nobody waits for may compile for so long within an evaluation


@dataclass
class Heard:
    """What one rank knows of another, or of itself.

    Attributes:
        standing: the last that was read.
        beat: its number.
        heard_at, moved_at: when that number, and when the standing last changed, by the reader's own clock.
        left: whether it has ended as it should.
    """

    standing: Standing
    beat: int
    heard_at: float
    moved_at: float
    left: bool = False


class Witness(Protocol):
    """Who can say which ranks are missing."""

    def missing(self, ranks: Sequence[int]) -> Mapping[int, str] | None:
        """Ranks that give no sign or hang, and how; None if that cannot be found out. Blocks for a short grace."""


def judge(heard: Mapping[int, Heard], now: float, limit_s: float) -> tuple[dict[int, str], str] | None:
    """Who is missing and for how long, once something has stood still for `limit_s`; None while all is well.

    Silent ranks come first. Then those that neither wait nor move: if another has waited as long, or their device has
    work that does not end, or their program is within an evaluation. If all wait, a message is lost and nobody missing.
    """
    here = {rank: one for rank, one in heard.items() if not one.left}
    for_long = f"for {limit_s:.0f} s"
    if silent := {rank: SILENT for rank, one in here.items() if now - one.heard_at > limit_s}:
        return silent, f"no heartbeat {for_long}"
    still = {rank: one for rank, one in here.items() if now - one.moved_at > limit_s}
    waited_for = any(one.standing.waits for one in still.values())
    if stuck := {
        rank: how_it_hangs(one.standing)
        for rank, one in still.items()
        if not one.standing.waits and (waited_for or _should_move(one, now, limit_s))
    }:
        return stuck, f"no progress {for_long}"
    if still and len(still) == len(here) and all(one.standing.waits for one in still.values()):
        waits = ", ".join(f"{rank} for {one.standing.what}" for rank, one in sorted(still.items()))
        return {}, f"all wait {for_long}: {waits}"
    return None


def how_it_hangs(standing: Standing) -> str:
    """Where a rank is that neither waits nor comes further."""
    return f"hangs in {'its GPU' if standing.device else 'its program'}, at {standing.what}"


def _should_move(one: Heard, now: float, limit_s: float) -> bool:
    standing = one.standing
    return standing.device or (standing.in_evaluation and now - one.moved_at > max(limit_s, PROGRAM_S))


@contextmanager
def name_missing(witness: Witness | None, ranks: Sequence[int]) -> Iterator[None]:
    """Turn a message that failed within the block into a PeerLost that names the missing ranks.

    What this rank's own device has raised is no lost peer: OutOfMemory and GpuFailed are raised as such, and another
    error of CUDA as it is.

    Args:
        witness: None where there are no peers.
        ranks: who takes part in the message.
    """
    try:
        yield
    except RuntimeError as error:  # the root of what torch.distributed raises, and gloo raises it bare
        if failure := device_failure(error):
            raise failure from error
        if witness is None or is_of_device(error):
            raise
        reason = str(error).strip().split("\n")[0]
        raise PeerLost(missing=witness.missing(ranks), ranks=tuple(ranks), reason=reason) from error

"""What can go wrong in the engine, as one tree.

    EngineError
    |- LayoutError            a layout that does not describe this set of ranks
    |- TooManyRanks           more patch ranks than the image has units to give them
    |- Unsplittable           a module, or a setting of one, that the engine does not know how to split
    |- ModelError             a model directory that cannot be loaded, or is not what it claims to be
    |- BadImage               an image that was asked for and cannot be rendered as asked
    |  |- BadSize             a width or height that cannot be rendered
    |  |- PromptTooLong       more tokens than the text encoder reads
    |  |- UnknownScheduler    not a diffusers scheduler, or settings of one, that fit the model
    |  |- BadLora             a LoRA file that cannot be used with the model
    |  |- BadControlNet       a file of a control network that cannot be used with the model
    |  |- BadReference        an IP-Adapter or image encoder that cannot be used with the model
    |  `- BadInversion        a file of a textual inversion that cannot be used with the model
    |- PeerLost               a message failed or never came; on each rank that noticed, naming those that are missing
    |- OutOfMemory            an allocation failed on this rank; the others may wait for it, so the process should end
    |- GpuFailed              this rank's GPU, link or driver failed; likewise, and its node is better left alone
    |- Stopped                the leader said STOP; raised on every rank of the replica before the same evaluation
    `- LeaderFailed           the leader's control callable raised; raised on the other ranks of its replica

Every error but the last five follows from what is equal on all ranks, so all ranks raise it together and before any
collective.
"""

from collections.abc import Mapping, Sequence


class EngineError(Exception):
    """The root: whatever the engine itself refuses or reports."""


class LayoutError(EngineError):
    """A layout that is malformed or whose product is not the number of ranks."""


class TooManyRanks(EngineError):
    """More patch ranks than the image has units."""

    def __init__(self, *, ranks: int, units: int, unit_rows: int, rows: int) -> None:
        super().__init__(
            f"{ranks} patch ranks were given, but {rows} latent rows make only {units} units of {unit_rows}: "
            f"use a patch degree of at most {units}"
        )
        self.ranks = ranks
        self.units = units
        self.unit_rows = unit_rows
        self.rows = rows


class Unsplittable(EngineError):
    """A module that has no place in the plan of how a network is split."""

    def __init__(self, name: str, kind: str, reason: str) -> None:
        super().__init__(f"{name} ({kind}) cannot be split: {reason}")
        self.name = name
        self.kind = kind
        self.reason = reason


class ModelError(EngineError):
    """A model directory that cannot be loaded, or holds something else than an SDXL pipeline."""


class BadImage(EngineError):
    """An image that cannot be rendered as it was asked for."""


class BadSize(BadImage):
    """A width or height that cannot be rendered."""

    def __init__(self, width: int, height: int, wanted: str) -> None:
        super().__init__(f"size {width}x{height} was asked for; {wanted}")
        self.width = width
        self.height = height


class PromptTooLong(BadImage):
    """More tokens than a text encoder reads at once."""

    def __init__(self, *, field: str, tokens: int, limit: int) -> None:
        super().__init__(f"{field} has {tokens} tokens, its text encoder reads {limit} (start and end included)")
        self.field = field
        self.tokens = tokens
        self.limit = limit


class UnknownScheduler(BadImage):
    """Not the name of a diffusers scheduler that fits the model."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"scheduler {name!r}: {reason}")
        self.name = name
        self.reason = reason


class BadLora(BadImage):
    """A LoRA file that cannot be read, is not what it claims to be, or does not fit the model."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"LoRA {name}: {reason}")
        self.name = name
        self.reason = reason


class BadControlNet(BadImage):
    """A file of a control network that cannot be read, is not what it claims to be, or does not fit the model."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"ControlNet {name}: {reason}")
        self.name = name
        self.reason = reason


class BadReference(BadImage):
    """An IP-Adapter or its image encoder that cannot be read, is not what it claims to be, or does not fit."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"IP-Adapter {name}: {reason}")
        self.name = name
        self.reason = reason


class BadInversion(BadImage):
    """A file of a textual inversion that cannot be read, is not what it claims to be, or does not fit the model."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"embedding {name}: {reason}")
        self.name = name
        self.reason = reason


class OutOfMemory(EngineError):
    """An allocation failed on this rank, and maybe on no other: the process should end."""


class GpuFailed(EngineError):
    """A GPU that is no longer to be trusted: the process should end, and its node be left alone.

    Attributes:
        code: the cudaError.
    """

    def __init__(self, code: int, what: str, reason: str) -> None:
        super().__init__(f"GPU failed: {what} (cudaError {code}): {reason}")
        self.code = code


SILENT = "dead or stopped"


class PeerLost(EngineError):
    """A message failed, timed out or never came. The group is of no use afterwards: the process should end.

    Args:
        missing: ranks that give no sign, or hang, and how; None if that could not be asked.
        ranks: those that it is about.
        reason: what was noticed.

    Attributes:
        missing: the ranks alone.
    """

    def __init__(self, *, missing: Mapping[int, str] | None, ranks: Sequence[int], reason: str) -> None:
        among = f"of ranks {', '.join(map(str, ranks))}"
        if missing is None:
            who = f"{among} at least one is lost, and the store that could tell which does not answer"
        elif missing:
            silent = ", ".join(str(rank) for rank, how in missing.items() if how == SILENT)
            found = [f"no sign from {silent}: {SILENT}"] if silent else []
            found += [f"{rank} {how}" for rank, how in missing.items() if how != SILENT]
            who = f"{among} {'; '.join(found)}"
        else:
            who = f"{among} all are there, but a message between them failed"
        super().__init__(f"{who} ({reason})")
        self.missing = None if missing is None else tuple(missing)
        self.ranks = tuple(ranks)
        self.reason = reason


class Stopped(EngineError):
    """The leader said STOP before an evaluation; every rank of the replica raises this there."""

    def __init__(self, evaluation: int) -> None:
        super().__init__(f"stopped before evaluation {evaluation}")
        self.evaluation = evaluation


class LeaderFailed(EngineError):
    """The leader's control callable raised; its own rank has the original exception."""

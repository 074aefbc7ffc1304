"""The table of slots: images of one size that are denoised together, each from its own step to its own end."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distri.layers.conditions import Conditions, together
from distri.layers.controlnet import ControlRows
from distri.layers.unet import SplitUNet
from distri.model.sampling.host_numbers import upload
from distri.ranks.errors import LeaderFailed, Stopped
from distri.ranks.mesh import Mesh
from distri.ranks.patches import split
from distri.ranks.phase import Evaluation
from distri.sampling.control import Control, follow_leader
from distri.sampling.denoising import SamplingOptions
from distri.sampling.schedule import Phases
from distri.sampling.sharing import Sharing, gather_prediction, halves_apart, sharing_of
from distri.slots.slot import Slot

# Tokens that texts of different lengths may come to, each repeated up to their common multiple: twelve pieces of 77.
MOST_TEXT = 924


@dataclass(frozen=True)
class _Row:
    """One row of an evaluation: a condition of one image, `number` among those of its image."""

    slot: Slot
    number: int
    conditions: Conditions


class Table:
    """Images between noise and latent. All ranks of a replica call it together, in the same order.

    One call of the network evaluates all of them, each at its own timestep and with as many conditions as it has there.
    Images join and leave between two evaluations. With patches all then wait once, since nothing stale is there of
    these rows, and as long as the newest warms up.

    Args:
        unet: split.
        mesh: whose replica shares the images.
        size: height and width of the latents.
        options: how the ranks work together.
        control: asked on the leader only, before every evaluation; its answer holds for the replica.
        window: side in latent elements of the windows that self-attention is computed in; None is the whole.
    """

    def __init__(
        self,
        unet: SplitUNet,
        mesh: Mesh,
        size: tuple[int, int],
        options: SamplingOptions,
        control: Callable[[], Control],
        *,
        window: int | None = None,
    ) -> None:
        self.slots: list[Slot] = []
        self._unet, self._mesh, self._size, self._window = unet, mesh, size, window
        self._options, self._control = options, control
        self._phases = Phases(options.schedule, lag=int(mesh.device.type == "cuda"))
        self._evaluations = 0
        self._rows: list[_Row] = []
        self._active: list[tuple[bool, ...]] = []  # what steered the evaluation before, by slot

    def fits(self, slot: Slot) -> bool:
        """Whether its text can stand beside those that are there."""
        lengths = slot.text_lengths().union(*(one.text_lengths() for one in self.slots))
        return not self.slots or math.lcm(*lengths) <= max(MOST_TEXT, *lengths)

    def join(self, slot: Slot) -> None:
        """Evaluate it with the others from the next evaluation on; no communication."""
        self.slots.append(slot)

    def evaluate(self) -> list[Slot]:
        """Evaluate every image once; returns those that are at their end, which have left. Blocks.

        Communication: one number from the leader, one gather of the noise predictions, and the network's own. Reads
        nothing from a GPU and waits for it only when two evaluations ahead.

        Raises:
            Stopped: the leader decided to stop; on all ranks. All images have left.
            LeaderFailed: the leader's control raised; on the other ranks.
        """
        try:
            ended = self._evaluate()
        except (Stopped, LeaderFailed):
            self.slots = []
            self._end()
            raise
        self.slots = [slot for slot in self.slots if slot not in ended]
        if not self.slots:
            self._end()
        return ended

    def _end(self) -> None:
        self._unet.end()
        self._rows, self._active = [], []

    def _evaluate(self) -> list[Slot]:
        low_memory, slots = self._options.low_memory, self.slots
        rows = _rows(slots)
        guided = any(slot.guided for slot in slots)
        apart = halves_apart(self._mesh, guided=guided, low_memory=low_memory)
        sharing = self._sharing(apart=apart)
        height, width = self._size
        patches = split(height, width, sharing.count, unit=self._unet.unit)
        # The first half of the rows are the negative ones, where every image is guided.
        shares = [len(rows) - len(rows) // 2, len(rows) // 2] if apart else [len(rows)]
        own = rows[shares[0] :] if apart and self._mesh.cfg_index else rows[: shares[0]]
        anew = self._take(rows, own, sharing)
        evaluation = self._phases.evaluation(
            [slot.place for slot in slots], split=sharing.count > 1 and not low_memory, anew=anew
        )
        resync = self._phases.wants_resync(evaluation)
        if follow_leader(self._mesh, self._control, self._evaluations, resync=resync):
            evaluation = self._phases.resync_after(evaluation)
        self._evaluations += 1
        with self._mesh.progress.evaluation(_name(slots)):
            scaled = {slot: slot.scaled() for slot in slots}  # by idle ranks too: schedulers count
            whole_RCHW = gather_prediction(
                self._mesh.replica if apart else sharing.whole,
                sharing.whole.size,
                patches,
                self._predict(own, scaled, sharing, evaluation),
                shares,
                channels=slots[0].latent_1CHW.shape[1],
            )
            predictions: dict[Slot, list[Tensor]] = {slot: [] for slot in slots}
            for row, prediction_1CHW in zip(rows, whole_RCHW.chunk(len(rows)), strict=True):
                predictions[row.slot].append(prediction_1CHW)
            others = len(slots) - 1
            guided_1CHW = [slot.step(predictions[slot], evaluation, others=others) for slot in slots]
            self._phases.note(torch.cat(guided_1CHW))
        return [slot for slot in slots if not slot.left]

    def _take(self, rows: list[_Row], own: list[_Row], sharing: Sharing) -> bool:
        """Begin with these rows unless they are those of the evaluation before; whether they are others."""
        before, self._rows = self._rows, rows
        active_before, self._active = self._active, [slot.active for slot in self.slots]
        same = self._active == active_before and [(row.slot, row.number) for row in before] == [
            (row.slot, row.number) for row in rows
        ]
        if sharing.axis is None or self._options.low_memory:
            return not same
        if not same:
            self._begin(own, sharing)
        elif any(new.conditions is not old.conditions for new, old in zip(rows, before, strict=True)):
            self._unet.change(_together(own))
        return not same

    def _begin(self, rows: list[_Row], sharing: Sharing) -> None:
        if sharing.axis is None:
            raise AssertionError("this rank has no part in the latent")
        height, width = self._size
        # Recordings keep their memory.
        replay = not self._options.low_memory
        self._unet.begin(
            *(_together(rows), sharing.axis, height, width), window=self._window, replay=replay, control=_control(rows)
        )

    def _predict(
        self, rows: list[_Row], scaled: dict[Slot, Tensor], sharing: Sharing, evaluation: Evaluation
    ) -> Tensor:
        """This rank's patch of these rows' predictions, float32; empty on a rank that has no part."""
        if sharing.axis is None:
            return rows[0].slot.latent_1CHW.new_empty(0, dtype=torch.float32)
        parts = [[row] for row in rows] if self._options.low_memory else [rows]
        found = []
        for part in parts:
            if self._options.low_memory:
                self._begin(part, sharing)
            latent_RCHW = torch.cat([scaled[row.slot] for row in part]).to(self._unet.unet.dtype)
            timestep_R = torch.stack([row.slot.timestep for row in part])
            found.append(self._unet(latent_RCHW, timestep_R, evaluation).float())
        return torch.cat(found)

    def _sharing(self, *, apart: bool) -> Sharing:
        height, width = self._size
        idle_ranks = self._options.idle_ranks
        return sharing_of(
            self._mesh, apart=apart, height=height, width=width, unit=self._unet.unit, idle_ranks=idle_ranks
        )


def _rows(slots: list[Slot]) -> list[_Row]:
    """All that the next evaluation is conditioned on: negative halves, then prompts, each in the order of the slots."""
    rows: list[tuple[int, _Row]] = []
    for slot in slots:
        first = 0 if slot.guided else 1
        for number, conditions in enumerate(slot.conditions(), start=first):
            rows.append((number, _Row(slot, number, conditions)))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


def _together(rows: list[_Row]) -> Conditions:
    """Their conditions as one, every text repeated as a whole to one length, which changes nothing for attention."""
    length = math.lcm(*(row.conditions.text.shape[1] for row in rows))

    def repeated(conditions: Conditions) -> Conditions:
        times = length // conditions.text.shape[1]
        return conditions if times == 1 else replace(conditions, text=conditions.text.repeat(1, times, 1))

    return together([repeated(row.conditions) for row in rows])


def _control(rows: list[_Row]) -> list[ControlRows]:
    """What steers these rows: each network that does so for one of them, with a scale of 0 for the others."""
    first = rows[0].slot.control  # of all, by name
    found = []
    for number, one in enumerate(first):
        steered = [(row.slot.control[number], row.slot.active[number]) for row in rows]
        if any(active for _, active in steered):
            scales = [control.scale if active else 0.0 for control, active in steered]
            seen = tuple(map(torch.cat, zip(*(control.seen for control, _ in steered), strict=True)))
            scale = upload(torch.tensor(scales, dtype=torch.float32), seen[0].device)
            found.append(ControlRows(one.name, seen, scale))
    return found


def _name(slots: list[Slot]) -> str:
    if len(slots) > 1:
        return f"an evaluation of {len(slots)} images"
    return f"evaluation {slots[0].index + 1} of {slots[0].total}"

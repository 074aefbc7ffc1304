"""Large holes in pictures, filled in rounds: what is most certain first, from the border inwards.

After Li et al. 2022 ("SDM: Spatial Diffusion Model for Large Hole Image Inpainting", arXiv 2212.02963), whose network
says a mean and a variance of each hidden pixel. SDXL's says no variance, so it is measured: the hole is begun with
several seeds, and where their predictions of the picture without noise differ little, it is decided by what is known.
"""

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from distri.model.passes.stages import Stage, sub_seed
from distri.model.sampling.schedulers import SchedulerRecipe, Steps
from distri.sampling.conditions import PassConditions
from distri.sampling.denoising import Kept, PassControl

# Of each round but the last: walks from noise, how many steps their schedule has, and the share of it that they walk.
# `pipeline.deployment.cost` counts by the same numbers; a test holds them together.
SEEDS, STEPS, UNTIL = 4, 8, 0.5
_SCHEDULER = "DDIMScheduler"
LEVELS = 3  # the last noise levels of a walk at which predictions are compared
_NUMBERS = 1_000  # of the walks' noise among the passes' seeds, from here on


@dataclass(frozen=True)
class Probe:
    """One walk that shows what a hole may come to: the noisier part of a short schedule.

    After each evaluation all noise is drawn anew, also that of what is known. Else what is hidden would go on as the
    first noise happened to be, and the network take it for as sure as what is known: with exact predictions of
    pictures whose halves mirror each other, half of the walks end at another picture's half. As the resampling of
    Lugmayr et al. 2022 ("RePaint", section 4.2), without its further evaluations.

    Attributes:
        number: among all of its image, from 0; its noise follows from it.
    """

    number: int

    def stage(self, stage: Stage) -> Stage:
        """The pass that it is an attempt at, with its own noise and steps."""
        return replace(stage, steps=STEPS, seed=sub_seed(stage.seed, _NUMBERS + self.number))

    def walk(self, recipe: SchedulerRecipe, generator: torch.Generator, device: torch.device) -> Steps:
        """It, whatever the pass's scheduler: of that nothing is wanted but noise levels."""
        return Steps(recipe.make(_SCHEDULER, {}, seed=0), STEPS, generator, device, switch_at=UNTIL)

    def conditions(self, conditions: PassConditions, steps: int) -> PassConditions:
        """What the pass of so many steps is conditioned on, in as many as the walk's schedule has."""
        return conditions.spread_over(STEPS / steps)

    def control(self, control: Sequence[PassControl]) -> tuple[PassControl, ...]:
        """What steers the pass, by shares of the part that is walked."""
        return tuple(replace(one, start=min(1.0, one.start / UNTIL), end=min(1.0, one.end / UNTIL)) for one in control)


def try_out(recipe: SchedulerRecipe) -> None:
    """Refuse a model whose noise levels are not for such walks. Raises UnknownScheduler."""
    recipe.try_out(_SCHEDULER, {}, steps=STEPS, strength=1.0, keeps=True)


class Filling:
    """One image's hole in one pass, on its way from unknown to filled; equal on all ranks of the replica.

    Each round but the last begins the hole with `SEEDS` noises. Of what is unknown as large a part as each later round
    has is then held at the mean of what was predicted: the part that is surest, and connected with what is known. The
    last round is the pass itself. What is held there is painted again once the walk has less noise than the
    prediction was made at, since of finer things it says nothing.

    Args:
        picture_1CHW: the picture's latent.
        new_11HW: 1 where it is painted anew, 0 where it stays.
        rounds: in how many the hole is filled, at least 2.
    """

    def __init__(self, picture_1CHW: Tensor, new_11HW: Tensor, rounds: int) -> None:
        self._rounds, self._round = rounds, 0
        self._latent, self._new = picture_1CHW, new_11HW
        self._unknown = new_11HW
        self._found: list[Sequence[Tensor]] = []
        self._level = math.inf

    @property
    def probe(self) -> Probe | None:
        """The next walk; None if what is left is the pass itself."""
        return None if self._round == self._rounds - 1 else Probe(self._round * SEEDS + len(self._found))

    @property
    def picture(self) -> Tensor:
        """The picture's latent with what is held by now."""
        return self._latent

    def kept(self, noise_1CHW: Tensor) -> Kept:
        """What stays in the next walk, or in the pass, which begins with this unit noise."""
        return Kept(self._latent, noise_1CHW, self._unknown, self._new, self._level)

    def note(self, predicted_L1CHW: Sequence[Tensor], level: float) -> None:
        """What a walk predicted at its last noise levels, the last of which is `level`, as a timestep.

        After the last walk of a round, decides what is held from then on. Waits for the device; no communication.
        """
        self._found.append(predicted_L1CHW[-LEVELS:])
        if len(self._found) < SEEDS:
            return
        left = self._rounds - self._round
        count = round(int(self._unknown.sum()) / left)
        held_11HW = surest(spread(self._found), self._unknown, count)
        mean_1CHW = torch.stack([one[-1] for one in self._found]).mean(dim=0)
        self._latent = torch.where(held_11HW > 0, mean_1CHW, self._latent)
        self._unknown = self._unknown - held_11HW
        self._found, self._level, self._round = [], level, self._round + 1


def spread(predicted_SL1CHW: Sequence[Sequence[Tensor]]) -> Tensor:
    """Variance of each element over the seeds, 11HW, float32: in the mean over noise levels, channels and neighbours.

    Neighbours, 3x3, since of four seeds alone a variance is known to its own size.
    """
    found_SLCHW = torch.stack([torch.cat(list(one)) for one in predicted_SL1CHW]).float()
    variance_11HW = found_SLCHW.var(dim=0).mean(dim=(0, 1))[None, None]
    return functional.avg_pool2d(variance_11HW, 3, stride=1, padding=1, count_include_pad=False)


def surest(spread_11HW: Tensor, unknown_11HW: Tensor, count: int) -> Tensor:
    """The `count` unknown elements that are reached first from what is known, 11HW of 0 and 1.

    As water rises into a landscape from its shore (the priority flood of Barnes et al. 2014): of all that lie beside
    what is known or reached, by a side or a corner, the one of least spread comes next. If nothing is known, the one
    of least spread is the first.
    """
    height, width = spread_11HW.shape[2:]
    spreads, unknown = spread_11HW[0, 0].cpu().tolist(), (unknown_11HW[0, 0] > 0).cpu().tolist()
    waiting: list[tuple[float, int, int]] = []
    seen = [[not own for own in row] for row in unknown]

    def neighbours(row: int, column: int) -> list[tuple[int, int]]:
        rows, columns = range(max(0, row - 1), min(height, row + 2)), range(max(0, column - 1), min(width, column + 2))
        return [(y, x) for y in rows for x in columns]

    inside = [(row, column) for row in range(height) for column in range(width) if unknown[row][column]]
    shore = [place for place in inside if any(not unknown[y][x] for y, x in neighbours(*place))]
    if not shore and inside:
        shore = [min(inside, key=lambda place: spreads[place[0]][place[1]])]
    for row, column in shore:
        seen[row][column] = True
        heapq.heappush(waiting, (spreads[row][column], row, column))
    found_11HW = torch.zeros(1, 1, height, width)
    for _ in range(min(count, len(inside))):
        if not waiting:  # corners meet, so only where nothing is known
            break
        _, row, column = heapq.heappop(waiting)
        found_11HW[0, 0, row, column] = 1
        for y, x in neighbours(row, column):
            if not seen[y][x]:
                seen[y][x] = True
                heapq.heappush(waiting, (spreads[y][x], y, x))
    return found_11HW.to(unknown_11HW)

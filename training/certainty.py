"""`python -m training.certainty RESULT`: the Spatial Diffusion Model's own form, small, on pictures whose law is known.

A network that says of each hidden pixel a mean and a variance (Li et al. 2022, arXiv 2212.02963, section 3.2): the mean
learns by squared error, the variance by the likelihood of a Gaussian whose mean is taken as given. A hole is filled in
rounds: pixels whose deviation is below a rising threshold are drawn and count as known, the rest is predicted anew.

Three sets of pictures: scenes of the demo model; scenes whose right half mirrors the left one, so that nothing hidden
is uncertain; and skies with a sun that is as likely in each of some places, so that mean and variance can be counted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from training.paint import painted
from training.scenes import drawn, drawn_held_out

# B batch, H and W rows and columns; pictures are of -1 to 1
SIDE = 32
WIDTH = 24  # channels at full size
LEAST = -9.0  # of a log variance: about a level of 255
PLACES = range(4, 28)  # columns of a sun's middle
SUN_ROW, SUN_RADIUS = 9, 3.5
SKY = slice(4, 16)  # rows that are hidden of a sky
THRESHOLDS = (0.03, 0.06, 0.12, 0.25, float("inf"))  # of the deviation, by round


class MeanAndVariance(nn.Module):
    """A small U-Net from what is known of a picture to the mean and log variance of each of its numbers.

    It sees the picture's mirror image beside it, so that a convolution reaches the other half.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()

        def block(channels: int, out: int, stride: int = 1) -> nn.Sequential:
            first = nn.Conv2d(channels, out, 3, stride, 1)
            return nn.Sequential(first, nn.SiLU(), nn.Conv2d(out, out, 3, 1, 1), nn.SiLU())

        self.down = nn.ModuleList([block(8, width), block(width, 2 * width, 2), block(2 * width, 4 * width, 2)])
        self.middle = nn.Sequential(block(4 * width, 6 * width, 2), block(6 * width, 4 * width))
        self.up = nn.ModuleList([block(8 * width, 2 * width), block(4 * width, width), block(2 * width, width)])
        self.last = nn.Conv2d(width, 6, 3, 1, 1)

    def forward(self, picture_B3HW: Tensor, known_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, B3HW; what the picture holds where it is not known is not looked at."""
        seen_B4HW = torch.cat([picture_B3HW * known_B1HW, known_B1HW], dim=1)
        x, skips = torch.cat([seen_B4HW, seen_B4HW.flip(3)], dim=1), []
        for block in self.down:
            x = block(x)
            skips.append(x)
        x = self.middle(x)
        for block in self.up:
            skip = skips.pop()
            x = block(torch.cat([functional.interpolate(x, size=skip.shape[2:]), skip], dim=1))
        mean_B3HW, log_variance_B3HW = self.last(x).chunk(2, dim=1)
        return mean_B3HW, log_variance_B3HW.clamp(LEAST, 3.0)


@dataclass(frozen=True)
class Law:
    """A set of pictures, and what of them is hidden where it is asked what the network knows.

    Attributes:
        training, held_out: N3HW.
        known: 11HW, 0 where it is hidden.
        variance: of each held-out picture's hidden numbers, N3HW, counted; None where nobody knows.
    """

    training: Tensor
    held_out: Tensor
    known: Tensor
    variance: Tensor | None = None


def loss(mean: Tensor, log_variance: Tensor, picture: Tensor, hidden: Tensor) -> Tensor:
    """Squared error of the mean, and the Gaussian likelihood of the variance beside a mean taken as given."""
    error = (picture - mean).square()
    likelihood = 0.5 * (error.detach() * (-log_variance).exp() + log_variance)
    return ((error + 0.1 * likelihood) * hidden).sum() / (3 * hidden.sum())


def scenes(count: int) -> Law:
    """The demo model's scenes; the right half is hidden."""
    return Law(_scenes(count, drawn), _scenes(max(8, count // 8), drawn_held_out), _without(slice(None), slice(16, 32)))


def mirrored(count: int) -> Law:
    """Scenes of which the right half mirrors the left one, and is hidden: nothing of it is uncertain."""
    of = scenes(count)
    both = [torch.cat([one[..., :16], one[..., :16].flip(3)], dim=3) for one in (of.training, of.held_out)]
    return Law(both[0], both[1], of.known, torch.zeros_like(both[1]))


def suns(count: int) -> Law:
    """Skies of one colour with a sun of the opposite one, as likely in each of `PLACES`; most of the sky is hidden."""
    generator = torch.Generator().manual_seed(11)
    known_11HW = _without(SKY, slice(None))

    def some(count: int) -> tuple[Tensor, Tensor]:
        sky_N311 = torch.rand(count, 3, 1, 1, generator=generator) * 1.2 - 0.6
        place_N = torch.randint(len(PLACES), (count,), generator=generator)
        discs_P1HW = torch.stack([_disc(column) for column in PLACES])
        share_1HW = discs_P1HW.mean(dim=0)
        pictures_N3HW = torch.where(discs_P1HW[place_N] > 0, -sky_N311, sky_N311)
        return pictures_N3HW, share_1HW * (1 - share_1HW) * (2 * sky_N311).square()

    training, (held_out, variance) = some(count)[0], some(max(8, count // 8))
    return Law(training, held_out, known_11HW, variance)


LAWS: Mapping[str, Callable[[int], Law]] = {"scenes": scenes, "mirrored": mirrored, "suns": suns}


def train(law: Law, steps: int, *, batch: int = 24, seed: int = 0) -> MeanAndVariance:
    """A network that has learned the set: half of the time with its hole, else with other parts of that known."""
    torch.manual_seed(seed)
    network, generator = MeanAndVariance(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), 2e-3, weight_decay=1e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(steps):
        chosen_B = torch.randint(len(law.training), (batch,), generator=generator)
        picture_B3HW = law.training[chosen_B]
        known_B1HW = law.known.expand(batch, 1, SIDE, SIDE).clone()
        known_B1HW[batch // 2 :] = torch.maximum(known_B1HW[batch // 2 :], _blobs(batch - batch // 2, generator))
        hidden_B1HW = 1 - known_B1HW
        mean_B3HW, log_variance_B3HW = network(picture_B3HW, known_B1HW)
        value = loss(mean_B3HW, log_variance_B3HW, picture_B3HW, hidden_B1HW)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        rate.step()
    return network.eval()


@torch.no_grad()
def filled(
    network: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    picture_B3HW: Tensor,
    known_B1HW: Tensor,
    generator: torch.Generator,
    thresholds: Sequence[float] = THRESHOLDS,
) -> tuple[Tensor, Tensor]:
    """Pictures whose hidden pixels are filled in rounds, and in which of them each was, B1HW, from 1; 0 is known."""
    picture_B3HW, round_B1HW = picture_B3HW * known_B1HW, torch.zeros_like(known_B1HW)
    for number, threshold in enumerate(thresholds, 1):
        mean_B3HW, log_variance_B3HW = network(picture_B3HW, known_B1HW)
        deviation_B3HW = (0.5 * log_variance_B3HW).exp()
        sure_B1HW = (deviation_B3HW.amax(dim=1, keepdim=True) <= threshold) & (known_B1HW == 0)
        noise_B3HW = torch.randn(mean_B3HW.shape, generator=generator)
        picture_B3HW = torch.where(sure_B1HW, mean_B3HW + deviation_B3HW * noise_B3HW, picture_B3HW)
        round_B1HW = torch.where(sure_B1HW, float(number), round_B1HW)
        known_B1HW = torch.maximum(known_B1HW, sure_B1HW.float())
    return picture_B3HW, round_B1HW


@torch.no_grad()
def calibration(network: MeanAndVariance, law: Law) -> dict[str, float]:
    """Squared error on the predicted variance, over hidden numbers of held-out pictures: slope, and both means."""
    known = law.known.expand(len(law.held_out), 1, SIDE, SIDE)
    mean, log_variance = network(law.held_out, known)
    hidden = (known == 0).expand_as(mean)
    error, variance = (law.held_out - mean).square()[hidden], log_variance.exp()[hidden]
    centred = variance - variance.mean()
    found = {
        "slope": float((centred * (error - error.mean())).sum() / centred.square().sum()),
        "mean_error": float(error.mean()),
        "mean_variance": float(variance.mean()),
    }
    if law.variance is not None:
        counted = law.variance[hidden]
        found["mean_counted_variance"] = float(counted.mean())
        if float(counted.square().sum()) > 0:
            found["slope_on_counted"] = float((variance * counted).sum() / counted.square().sum())
    return found


def by_round(network: MeanAndVariance, law: Law) -> list[dict[str, float]]:
    """Of each round: the share of what is hidden that it fills, its squared error, and its distance from the edge."""
    known = law.known.expand(len(law.held_out), 1, SIDE, SIDE)
    picture, rounds = filled(network, law.held_out, known, torch.Generator().manual_seed(1))
    error = (picture - law.held_out).square().mean(dim=1, keepdim=True)
    edge = _distance(law.known).expand_as(rounds)
    hidden = float((known == 0).sum())
    return [
        {
            "share": float(of.sum()) / hidden,
            "error": float(error[of].mean()),
            "px_from_the_edge": float(edge[of].mean()),
        }
        for number in range(1, len(THRESHOLDS) + 1)
        if bool((of := rounds == number).any())
    ]


def main() -> None:
    """Train on each set, and write what the variances are worth, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path)
    parser.add_argument("--pictures", type=int, default=800)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--sets", nargs="*", choices=LAWS, default=list(LAWS))
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, object] = {}
    for name in asked.sets:
        began = time.process_time()
        pictures = LAWS[name](asked.pictures)
        network = train(pictures, asked.steps)
        found[name] = {
            "calibration": calibration(network, pictures),
            "rounds": by_round(network, pictures),
            "cpu_s": round(time.process_time() - began, 1),
        }
    parameters = sum(one.numel() for one in MeanAndVariance().parameters())
    found |= {"parameters": parameters, "pictures": asked.pictures, "steps": asked.steps}
    asked.result.write_text(json.dumps(found, indent=1) + "\n")


def _scenes(count: int, draw: Callable[[int], object]) -> Tensor:
    pictures: list[npt.NDArray[np.uint8]] = [painted(draw(seed), SIDE, SIDE) for seed in range(count)]  # type: ignore[arg-type]
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _without(rows: slice, columns: slice) -> Tensor:
    known_11HW = torch.ones(1, 1, SIDE, SIDE)
    known_11HW[:, :, rows, columns] = 0
    return known_11HW


def _disc(column: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((y - SUN_ROW) ** 2 + (x - column) ** 2 <= SUN_RADIUS**2).float()[None]


def _blobs(count: int, generator: torch.Generator) -> Tensor:
    """Parts that are known besides, B1HW: where coarse noise is high, of a share drawn for each."""
    coarse = torch.rand(count, 1, 8, 8, generator=generator)
    fine = functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear")
    return (fine > torch.rand(count, 1, 1, 1, generator=generator)).float()


def _distance(known_11HW: Tensor) -> Tensor:
    """Pixels to what is known, 11HW, by sides and corners."""
    distance, reached = torch.zeros_like(known_11HW), known_11HW
    while not bool((reached > 0).all()):
        distance = distance + (reached == 0)
        reached = functional.max_pool2d(reached, 3, stride=1, padding=1)
    return distance


if __name__ == "__main__":
    main()

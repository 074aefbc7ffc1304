"""The small network of means and variances: each learns its own, laws are what was counted, holes fill in rounds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from training import certainty
from training.certainty import PLACES, SIDE, SKY, MeanAndVariance


def test_the_mean_learns_by_squared_error_alone_and_the_variance_is_that_error() -> None:
    mean, log_variance = torch.zeros(2, 1, 3, 4, 4, requires_grad=True).unbind()
    mean.retain_grad()
    log_variance.retain_grad()
    picture, hidden = torch.full((1, 3, 4, 4), 0.5), torch.ones(1, 1, 4, 4)
    certainty.loss(mean, log_variance, picture, hidden).backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert log_variance.grad is not None
    assert torch.allclose(mean.grad * mean.numel(), torch.full_like(mean, -2 * 0.5))
    right = torch.full_like(log_variance, 0.25).log().requires_grad_()
    certainty.loss(mean.detach(), right, picture, hidden).backward()  # type: ignore[no-untyped-call]
    assert right.grad is not None
    assert right.grad.abs().max() < 1e-8 < log_variance.grad.abs().min()


def test_the_variance_of_a_sun_is_what_is_counted_over_its_places() -> None:
    law = certainty.suns(16)
    assert law.variance is not None
    assert len(PLACES) == 24
    sky = law.held_out[0, :, 0, 0]
    pictures = torch.stack(
        [torch.where(certainty._disc(place) > 0, -sky[:, None, None], sky[:, None, None]) for place in PLACES]
    )
    assert torch.allclose(pictures.var(dim=0, unbiased=False), law.variance[0], atol=1e-6)
    assert any(torch.equal(one, law.held_out[0]) for one in pictures)
    assert float(law.variance[:, :, : SKY.start].max()) == 0  # what is known is certain
    assert float(law.variance[:, :, SKY.stop :].max()) == 0


def test_a_mirrored_half_is_the_other_one() -> None:
    law = certainty.mirrored(8)
    assert torch.equal(law.held_out.flip(3), law.held_out)
    assert int((law.known == 0).sum()) == SIDE * SIDE // 2


def test_a_hole_is_filled_where_it_is_surest_first_and_what_is_known_stays() -> None:
    picture = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2)) - 0.5
    known = torch.ones(2, 1, SIDE, SIDE)
    known[..., 16:] = 0
    asked: list[int] = []

    def network(picture_B3HW: Tensor, known_B1HW: Tensor) -> tuple[Tensor, Tensor]:
        """Surer the nearer a pixel is to what is known."""
        asked.append(int((known_B1HW == 0).sum()))
        edge = known_B1HW[0, 0, 0].sum()
        away = (torch.arange(SIDE) - edge + 1).clamp_min(0).expand_as(picture_B3HW)
        return torch.ones_like(picture_B3HW), 2 * (0.01 * away + 1e-3).log()

    thresholds = (0.035, 0.055, float("inf"))
    found, rounds = certainty.filled(network, picture, known, torch.Generator().manual_seed(1), thresholds)
    assert torch.equal(found[..., :16], picture[..., :16])
    assert rounds[0, 0, 0].tolist() == [0.0] * 16 + [1.0] * 3 + [2.0] * 5 + [3.0] * 8
    assert asked == [2 * SIDE * 16, 2 * SIDE * 13, 2 * SIDE * 8]
    assert (found[..., 16:19] - 1).abs().max() < 0.2  # drawn from what was predicted


def test_a_result_has_the_figures_of_each_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = tmp_path / "certainty.json"
    monkeypatch.setattr(sys, "argv", ["certainty", str(result), "--pictures", "16", "--steps", "4"])
    certainty.main()
    found = json.loads(result.read_text())
    assert found["parameters"] == sum(one.numel() for one in MeanAndVariance().parameters())
    for name in ("scenes", "mirrored", "suns"):
        assert sum(one["share"] for one in found[name]["rounds"]) == pytest.approx(1)
    assert found["mirrored"]["calibration"]["mean_counted_variance"] == 0
    assert found["suns"]["calibration"]["mean_counted_variance"] > 0


def test_training_makes_the_error_less() -> None:
    law = certainty.suns(32)
    errors = [certainty.calibration(certainty.train(law, steps), law)["mean_error"] for steps in (1, 40)]
    assert errors[1] < 0.8 * errors[0]

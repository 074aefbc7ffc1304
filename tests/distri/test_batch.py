"""Several prompts in one batch, and evaluations that wait because the prediction drifts."""

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import Evaluations, ImageSpec, Rendered
from distri.ranks.errors import BadImage
from distri.ranks.mesh import Mesh
from distri.ranks.phase import EXACT, Evaluation, Phase
from distri.sampling.control import Control
from distri.sampling.schedule import Phases, Place, Schedule, phase_of
from tests.distri import on_ranks
from tests.distri.pool import Ranks

GetRanks = Callable[[int], Ranks]
CAT = ImageSpec(
    *("a photo of a cat", "blurry"),
    seed=7,
    width=120,
    height=136,
    steps=3,
    guidance_scale=5.0,
    scheduler="EulerAncestralDiscreteScheduler",
)
CASTLE = replace(CAT, prompt="a castle on a hill", negative_prompt=None, seed=1234, crop=(8, 0))


def _go() -> Control:
    return Control.GO


def _together_and_alone(model_dir: Path, layout: str) -> tuple[list[Rendered], list[Rendered]]:
    engine = on_ranks.engine(model_dir, layout, EngineSettings(warmup=1))
    return engine.render_batch([CAT, CASTLE], control=_go), [engine.render(one, control=_go) for one in (CAT, CASTLE)]


@pytest.mark.parametrize(("count", "layout"), [(2, "1x1x2"), (4, "1x2x2")])
def test_images_of_a_displaced_batch_are_those_rendered_alone(
    ranks: GetRanks, model_dir: Path, count: int, layout: str
) -> None:
    together, alone = ranks(count).run(_together_and_alone, model_dir, layout)[0]
    for one, other in zip(together, alone, strict=True):
        assert one.evaluations == other.evaluations == Evaluations(synchronous=1, displaced=2)
        assert np.abs(one.pixels.astype(int) - other.pixels.astype(int)).max() <= 1
    assert not np.array_equal(together[0].pixels, together[1].pixels)


@pytest.mark.parametrize("images", [[], [CAT, replace(CASTLE, width=128)]])
def test_a_batch_of_images_of_different_sizes_is_refused(model_dir: Path, images: list[ImageSpec]) -> None:
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings())
    with pytest.raises(BadImage, match=r"together|no images"):
        engine.render_batch(images, control=_go)


def _drifting(model_dir: Path, resync: float) -> Evaluations:
    engine = on_ranks.engine(model_dir, "1x1x2", EngineSettings(warmup=2, resync=resync))
    return engine.render(replace(CAT, steps=8), control=_go).evaluations


@pytest.mark.parametrize(("resync", "synchronous"), [(1e9, 2), (0.0, 7)])
def test_drift_above_the_threshold_makes_an_evaluation_wait(
    ranks: GetRanks, model_dir: Path, resync: float, synchronous: int
) -> None:
    """A drift takes two evaluations to be known, so with a threshold always passed only evaluation 2 is displaced."""
    assert ranks(2).run(_drifting, model_dir, resync) == [Evaluations(synchronous, 8 - synchronous)] * 2


def test_a_resync_is_known_before_the_evaluation_that_need_not_send() -> None:
    phases = [phase_of([Place(index, 6, {4})], Schedule(2)) for index in range(6)]
    assert [phase.phase.value[0] for phase in phases] == ["s", "s", "d", "d", "s", "d"]
    assert [phase.publish for phase in phases] == [False, True, True, False, True, False]


def test_until_an_image_has_settled_keys_and_values_alone_are_displaced() -> None:
    phases = [phase_of([Place(index, 7, {2})], Schedule(1, settling=5)) for index in range(7)]
    assert [phase.name for phase in phases] == [
        "synchronous", "displaced keys and values", "synchronous", *["displaced keys and values"] * 2,
        *["displaced"] * 2,
    ]  # fmt: skip
    assert [phase.publish for phase in phases] == [True, False, True, True, True, True, False]
    assert [phase.of_rest.publish for phase in phases] == [False] * 4 + [True, True, False]


def test_of_several_images_the_last_to_settle_decides() -> None:
    alone = phase_of([Place(6, 9)], Schedule(1, settling=5))
    together = phase_of([Place(6, 9), Place(3, 9)], Schedule(1, settling=5))
    assert (alone.name, together.name) == ("displaced", "displaced keys and values")
    assert (alone.of_rest.publish, together.of_rest.publish) == (True, False)


def test_exact_has_nothing_to_settle() -> None:
    assert {phase_of([Place(index, 6)], Schedule(None, settling=5)) for index in range(6)} == {EXACT}


def _waits(lengths: list[int], schedule: Schedule, *, joins: bool) -> tuple[int, int, int]:
    """Of rows in four slots: all evaluations, those that wait for all tensors, and those that wait for the rest."""
    phases, left, table = Phases(schedule), list(lengths), list[tuple[int, int]]()
    evaluations, anew = list[Evaluation](), True
    while left or table:
        if joins or not table:
            anew = anew or (bool(left) and len(table) < 4)
            table += [(0, left.pop(0)) for _ in range(min(len(left), 4 - len(table)))]
        evaluations.append(phases.evaluation([Place(*place) for place in table], split=True, anew=anew))
        stay = [(index + 1, total) for index, total in table if index + 1 < total]
        anew, table = len(stay) != len(table), stay
    displaced = [one for one in evaluations if one.phase is Phase.DISPLACED]
    settling = [one for one in displaced if one.rest is not None and one.rest.phase is Phase.SYNCHRONOUS]
    return len(evaluations), len(evaluations) - len(displaced), len(settling)


def test_rows_that_join_wait_more_often_and_are_done_sooner_than_rows_in_batches() -> None:
    """What decision 455 rests on: 64 rows of 10 to 50 steps."""
    random_ = random.Random(20)
    lengths = [random_.randint(10, 50) for _ in range(64)]
    warm, settles = Schedule(4), Schedule(1, settling=20)
    assert [_waits(lengths, warm, joins=joins) for joins in (True, False)] == [(479, 203, 0), (701, 109, 0)]
    assert [_waits(lengths, settles, joins=joins) for joins in (True, False)] == [(479, 61, 383), (701, 61, 287)]


def test_each_image_of_a_table_is_asked_for_its_drift() -> None:
    """One of eight that changes much counts as if it were alone."""
    found = []
    for images in (1, 8):
        phases = Phases(Schedule(1, resync=0.5))
        for index in range(2):
            evaluation = phases.evaluation([Place(index, 9)] * images, split=True, anew=index == 0)
            prediction = torch.ones(images, 4, 8, 8)
            prediction[-1] += 0.7 * index
            phases.note(prediction)
        found.append(phases.wants_resync(evaluation))
    assert found == [True, True]


def test_a_drift_that_is_no_number_makes_the_ranks_wait() -> None:
    assert Schedule(2, 0.1).resyncs(0.2)
    assert Schedule(2, 0.1).resyncs(float("nan"))
    assert not Schedule(2, 0.1).resyncs(0.1)
    assert not Schedule(2, 0.1).resyncs(None)
    assert not Schedule(2).resyncs(5.0)

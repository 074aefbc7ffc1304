"""How many images share a table, by what memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.layers.unet import SplitUNet
from distri.model.image import ImageSpec, Rendered
from distri.ranks.memory import DeviceMemory, Peak
from distri.ranks.mesh import Mesh
from distri.ranks.spans import RenderSpan
from distri.sampling.control import Control
from distri.slots.room import Fit, Room
from tests.distri import on_ranks
from tests.distri.pool import Ranks

IMAGE = ImageSpec("a cat", "blurry", seed=7, width=64, height=64, steps=3, guidance_scale=5.0)


class Device:
    """A device's memory whose blocks take what is said, one after the other; the last for ever."""

    def __init__(self, free_bytes: int, *taken_bytes: int) -> None:
        self.free, self.taken, self.measured = free_bytes, list(taken_bytes), 0

    highest_bytes = 0

    def free_bytes(self) -> int:
        return self.free

    @contextmanager
    def peak(self) -> Iterator[Peak]:
        self.measured += 1
        found = Peak()
        yield found
        found.taken_bytes = self.taken.pop(0) if len(self.taken) > 1 else self.taken[0]


def _go() -> Control:
    return Control.GO


def _rendered(engine: Engine, count: int, slots: int, *, width: int = 64) -> list[Rendered]:
    renders, left, found = engine.renders(control=_go, slots=slots), count, []
    while left or renders.count:
        while left and renders.admits(replace(IMAGE, width=width)):
            renders.join(replace(IMAGE, width=width), str(left))
            left -= 1
        found += [one.rendered for one in renders.advance()]
    return found


def _engine(model_dir: Path, device: Device) -> Engine:
    mesh = Mesh.single()
    mesh.memory = device
    return Engine.load(model_dir, mesh, dtype=torch.float32, settings=EngineSettings(native_px=64))


@pytest.mark.parametrize(("free_bytes", "others"), [(2000, 3), (700, 2), (500, 1), (100, 0)])
def test_a_table_takes_as_many_as_memory_holds_beside_each_other(model_dir: Path, free_bytes: int, others: int) -> None:
    """An image's evaluation takes 200; a tenth of what is free is left."""
    device = Device(free_bytes, 200, 50)
    engine = _engine(model_dir, device)
    found = _rendered(engine, 6, slots=4)
    assert max(one.others for one in found) == others
    assert device.measured == 2  # an evaluation and a decode
    _rendered(engine, 4, slots=4)
    assert device.measured == 2
    offered = {
        span.detail["slots"] for span in engine.spans if span.name == RenderSpan.DENOISE and "slots" in span.detail
    }
    assert offered == {1, others + 1}


def test_the_first_image_of_another_size_is_measured_anew(model_dir: Path) -> None:
    device = Device(1000, 200, 50, 900)
    engine = _engine(model_dir, device)
    assert max(one.others for one in _rendered(engine, 4, slots=4)) == 3
    assert max(one.others for one in _rendered(engine, 3, slots=4, width=128)) == 0


def test_images_without_a_negative_half_take_less(model_dir: Path) -> None:
    """Of a row each: 100, so that four of them fit where two guided images do."""
    device = Device(450, 200, 50)
    engine = _engine(model_dir, device)
    renders = engine.renders(control=_go, slots=4)
    renders.join(IMAGE, "guided")
    renders.advance()
    fit = engine._parts.room.fit(renders._kind)
    assert fit == Fit(rows=4, images=2)
    assert renders.admits(IMAGE)


class Charging:
    """A device that takes 100 bytes for each row that the network really sees."""

    highest_bytes = 0

    def __init__(self, free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self._free_bytes, self._rows, self.most_rows = free_bytes, 0, 0
        evaluate = SplitUNet.__call__

        def counted(unet: SplitUNet, latent_RCHW: torch.Tensor, *rest: Any) -> torch.Tensor:
            self._rows = max(self._rows, len(latent_RCHW))
            self.most_rows = max(self.most_rows, self._rows)
            return evaluate(unet, latent_RCHW, *rest)

        monkeypatch.setattr(SplitUNet, "__call__", counted)

    def free_bytes(self) -> int:
        return self._free_bytes

    @contextmanager
    def peak(self) -> Iterator[Peak]:
        self._rows, found = 0, Peak()
        yield found
        found.taken_bytes = 100 * self._rows


@pytest.mark.parametrize("interval", [(0.0, 1.0), (0.5, 1.0), (0.0, 0.5), (0.3, 0.7)])
def test_guidance_that_begins_late_hides_no_memory(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, interval: tuple[float, float]
) -> None:
    """Four rows fit, of two images, whether or not the negative half is there when the first of them is measured."""
    device = Charging(450, monkeypatch)
    mesh = Mesh.single()
    mesh.memory = device
    engine = Engine.load(model_dir, mesh, dtype=torch.float32, settings=EngineSettings(native_px=64))
    image = replace(IMAGE, steps=6, guidance_interval=interval)
    renders, left, found = engine.renders(control=_go, slots=8), 8, 0
    while left or renders.count:
        while left and renders.admits(image):
            renders.join(replace(image, seed=left), str(left))
            left -= 1
        found += len(renders.advance(1))
    assert found == 8
    assert device.most_rows == 4


def test_what_other_shapes_may_yet_hold_is_not_counted_on() -> None:
    mesh = Mesh.single()
    mesh.memory = Device(1000, 100)
    room = Room(mesh, held=1, spare_bytes=lambda: 500)
    with room.evaluation("kind", 2, most_rows=2):
        pass
    assert room.fit("kind") == Fit(9, 4)


def test_memory_is_looked_at_again_for_a_table_after_one_of_another_kind() -> None:
    """A model came into memory with the other kind; after the same kind nothing is asked."""
    device = Device(1000, 100)
    mesh = Mesh.single()
    mesh.memory = device
    room = Room(mesh, held=1)
    waited = list[None]()
    for kind in ("kind", "another"):
        room.begin(kind, lambda: waited.append(None))
        with room.evaluation(kind, 2, most_rows=2):
            pass
    device.free = 400
    room.begin("another", lambda: waited.append(None))
    assert (room.fit("another"), waited) == (Fit(18, 9), [])
    room.begin("kind", lambda: waited.append(None))
    assert (room.fit("kind"), len(waited)) == (Fit(7, 3), 1)
    device.free = 200
    room.begin("not measured, of much memory", lambda: waited.append(None))
    room.begin("kind", lambda: waited.append(None))
    assert (room.fit("kind"), len(waited)) == (Fit(3, 1), 2)


def test_a_batch_that_does_not_fit_at_once_is_rendered_all_the_same(model_dir: Path) -> None:
    engine = _engine(model_dir, Device(450, 200))
    found = engine.render_batch([replace(IMAGE, seed=seed) for seed in range(3)], control=_go)
    assert [one.others for one in found] == [1, 1, 1]


@pytest.mark.parametrize(("decode_bytes", "beside"), [(400, True), (600, False)])
def test_images_are_decoded_beside_evaluations_once_it_is_known_that_both_fit(decode_bytes: int, beside: bool) -> None:
    """Of 1000 a tenth is left; two images of two rows take 200 each."""
    mesh = Mesh.single()
    mesh.memory = Device(1000, 200, decode_bytes)
    room = Room(mesh, held=1)
    assert not room.holds_decode("kind", 2)
    with room.evaluation("kind", 2, most_rows=2):
        pass
    assert not room.holds_decode("kind", 2)
    with room.decode("kind"):
        pass
    assert room.holds_decode("kind", 2) is beside
    assert room.holds_decode("another kind", 2) is False


def test_recordings_hold_what_an_evaluation_takes_once_more() -> None:
    mesh = Mesh.single()
    mesh.memory = Device(1000, 100)
    fits = []
    for held in (1, 2):
        room = Room(mesh, held=held)
        with room.evaluation("kind", 2, most_rows=2):
            pass
        fits.append(room.fit("kind"))
    assert fits == [Fit(18, 9), Fit(9, 4)]


def test_buffers_that_the_first_evaluation_makes_are_held_once() -> None:
    mesh = Mesh.single()
    mesh.memory = Device(1000, 100)
    held = iter((30, 70))
    room = Room(mesh, held=2, buffers_bytes=lambda: next(held))
    with room.evaluation("kind", 2, most_rows=2):
        pass
    assert room.fit("kind") == Fit(900 // 80, 900 // 80 // 2)


def _fit(_: object) -> Fit | None:
    mesh = on_ranks.mesh("1x1x2")
    mesh.memory = Device(1000 if mesh.rank else 500, 100)
    room = Room(mesh, held=1)
    with room.evaluation("kind", 2, most_rows=2):
        pass
    mesh.memory = None
    return room.fit("kind")


def test_the_rank_with_least_room_speaks_for_its_replica(ranks: Callable[[int], Ranks]) -> None:
    assert ranks(2).run(_fit, None) == [Fit(9, 4)] * 2


def test_a_peak_is_what_a_block_takes_beyond_what_was_held(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {"now": 300, "highest": 900}
    calls = {
        "memory_allocated": lambda _: held["now"],
        "max_memory_allocated": lambda _: held["highest"],
        "reset_peak_memory_stats": lambda _: held.update(highest=held["now"]),
        "memory_reserved": lambda _: 1000,
        "mem_get_info": lambda _: (5000, 8000),
    }
    for name, call in calls.items():
        monkeypatch.setattr(torch.cuda, name, call)
    memory = DeviceMemory(torch.device("cuda", 0))
    assert memory.free_bytes() == 5000 + 1000 - 300
    with memory.peak() as peak:
        held |= {"now": 400, "highest": 750}
    assert peak.taken_bytes == 450
    assert memory.highest_bytes == 900  # of the process, before the statistics were begun anew

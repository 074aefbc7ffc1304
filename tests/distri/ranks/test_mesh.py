"""Layouts are checked, and every rank knows its place."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from distri.ranks.errors import LayoutError
from distri.ranks.mesh import Layout, Mesh, default_layout
from tests.distri import on_ranks
from tests.distri.pool import RankError, Ranks

GetRanks = Callable[[int], Ranks]


def test_a_layout_is_read_from_text() -> None:
    assert Layout.parse("1x2x4") == Layout(data=1, cfg=2, patch=4)
    assert str(Layout(3, 1, 5)) == "3x1x5"
    assert Layout.parse("1x2x4").ranks == 8


@pytest.mark.parametrize("text", ["", "8", "1x2", "1x2x", "1x-2x4", "axbxc", "1x3x2", "0x1x1", "1x1x0", "1x2x4x1"])
def test_a_malformed_layout_is_refused(text: str) -> None:
    with pytest.raises(LayoutError):
        Layout.parse(text)


@pytest.mark.parametrize(("ranks", "layout"), [(1, "1x1x1"), (2, "1x2x1"), (3, "1x1x3"), (6, "1x2x3"), (8, "1x2x4")])
def test_default_layouts_use_all_ranks(ranks: int, layout: str) -> None:
    assert default_layout(ranks) == Layout.parse(layout)


def test_one_process_needs_no_distributed() -> None:
    mesh = Mesh.single()
    assert mesh.is_leader
    assert mesh.replica.size == mesh.patch.size == 1
    assert mesh.broadcast_int(5) == 5
    assert mesh.broadcast_bytes(b"a") == b"a"
    assert mesh.traffic.sent_bytes == 0


def _places(layout: str) -> tuple[int, int, tuple[int, ...], tuple[int, ...], bool]:
    mesh = on_ranks.mesh(layout)
    return mesh.data_index, mesh.cfg_index, mesh.patch.ranks, mesh.replica.ranks, mesh.is_leader


def test_places_follow_data_then_cfg_then_patch(ranks: GetRanks) -> None:
    assert ranks(4).run(_places, "1x2x2") == [
        (0, 0, (0, 1), (0, 1, 2, 3), True),
        (0, 0, (0, 1), (0, 1, 2, 3), False),
        (0, 1, (2, 3), (0, 1, 2, 3), False),
        (0, 1, (2, 3), (0, 1, 2, 3), False),
    ]
    assert ranks(4).run(_places, "2x1x2") == [
        (0, 0, (0, 1), (0, 1), True),
        (0, 0, (0, 1), (0, 1), False),
        (1, 0, (2, 3), (2, 3), True),
        (1, 0, (2, 3), (2, 3), False),
    ]


def _broadcasts(layout: str) -> tuple[int, object, int]:
    mesh = on_ranks.mesh(layout)
    before = mesh.traffic.sent_bytes
    number = mesh.broadcast_int(100 + mesh.rank)
    payload = mesh.broadcast_bytes(f"rank {mesh.rank}: ü".encode())
    assert mesh.broadcast_bytes(b"") == b""
    return number, payload, mesh.traffic.sent_bytes - before


def test_a_replica_hears_its_own_leader(ranks: GetRanks) -> None:
    answers = ranks(4).run(_broadcasts, "2x1x2")
    assert [number for number, _, _ in answers] == [100, 100, 102, 102]
    assert [payload for _, payload, _ in answers] == [f"rank {rank}: ü".encode() for rank in (0, 0, 2, 2)]
    assert [sent > 0 for _, _, sent in answers] == [True, False, True, False]


def _join(layout: str) -> str:
    with pytest.raises(LayoutError) as caught:
        Mesh.join(Layout.parse(layout), device="cpu", timeout=timedelta(seconds=5))
    return str(caught.value)


def test_a_layout_of_another_size_is_refused_on_all_ranks(ranks: GetRanks) -> None:
    assert all("8 ranks" in text and "2 are running" in text for text in ranks(2).run(_join, "1x2x4"))


def _fail_on(rank: int) -> None:
    if on_ranks.mesh().rank == rank:
        raise ValueError("this rank is broken")


def test_a_failing_rank_is_reported_with_its_traceback() -> None:
    pool = Ranks(2)
    with pytest.raises(RankError, match=r"(?s)rank 1 raised.*this rank is broken"):
        pool.run(_fail_on, 1)
    assert pool.broken

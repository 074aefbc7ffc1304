"""How a pod's GPUs are used."""

from __future__ import annotations

import re

import pytest
from pydantic import TypeAdapter

from pipeline.deployment.layout_choice import Load, fastest_layout
from pipeline.deployment.layouts import Layout, planned_layout
from pipeline.deployment.settings import load_settings
from pipeline.errors import SettingsError

NEEDED = {"TESSERA_REDIS_URL": "redis://h:1/0", "TESSERA_S3_BUCKET": "b"}


@pytest.mark.parametrize(
    ("gpus", "layout"),
    [(1, "1x1x1"), (2, "1x1x2"), (3, "1x1x3"), (4, "1x2x2"), (5, "1x1x5"), (6, "1x2x3"), (7, "1x1x7"), (8, "1x2x4")],
)
def test_the_default_uses_all_gpus_and_splits_cfg_where_patches_get_two(gpus: int, layout: str) -> None:
    assert str(planned_layout(gpus)) == layout


@pytest.mark.parametrize("wanted", ["8x1x1", "1x2x4", "1x1x8", "2x2x2", "4x2x1"])
def test_a_layout_that_uses_all_gpus_is_taken(wanted: str) -> None:
    assert str(planned_layout(8, Layout.parse(wanted))) == wanted


@pytest.mark.parametrize(
    "wanted", ["1x2x2", "2x2x4", "1x4x2", "0x2x4", "2x4", "axbxc", "1x2x4x1", "1x2x-4", "", "08x1x1"]
)
def test_any_other_layout_is_refused_by_name(wanted: str) -> None:
    with pytest.raises(SettingsError, match="TESSERA_LAYOUT"):
        planned_layout(8, load_settings(NEEDED, layout=wanted).layout)


def test_a_layout_says_what_was_found_and_what_is_wanted() -> None:
    with pytest.raises(SettingsError, match=r"TESSERA_LAYOUT: .*'2x4' found; data x cfg x patch wanted.*as in 1x2x4"):
        load_settings(NEEDED | {"TESSERA_LAYOUT": "2x4"})
    with pytest.raises(SettingsError, match="TESSERA_LAYOUT: 1x2x2 uses 4 GPUs, TESSERA_GPUS is 8"):
        planned_layout(8, Layout(1, 2, 2))
    with pytest.raises(ValueError, match=r"layout 1x3x4 found; .*cfg 1 or 2 wanted"):
        Layout(1, 3, 4)


@pytest.mark.parametrize("text", ["1x2x4", "12x1x1", "1x1x10"])
def test_a_layout_is_written_as_it_is_read(text: str) -> None:
    layout = Layout.parse(text)
    assert str(layout) == text
    assert layout.gpus == layout.data * layout.cfg * layout.patch
    reader = TypeAdapter(Layout)
    assert reader.validate_python(layout) is layout
    assert reader.validate_json(reader.dump_json(layout)) == reader.validate_python(text) == layout
    assert reader.dump_json(layout) == f'"{text}"'.encode()


@pytest.mark.parametrize(("layout", "px"), [("1x1x1", 32), ("1x2x4", 128), ("2x2x2", 64), ("1x1x12", 384)])
def test_the_longer_side_gives_each_patch_a_unit(layout: str, px: int) -> None:
    assert Layout.parse(layout).shortest_long_side_px == px


def _chosen(count: int, side: int, gpus: int = 8) -> str:
    return str(fastest_layout(gpus, [Load(side, side, side * side / 1e5)] * count, one_gpu_megapixels=4.2).layout)


@pytest.mark.parametrize(
    ("count", "side", "layout"),
    [
        (64, 1024, "8x1x1"),  # enough for all, each fits
        (8, 2048, "8x1x1"),
        (1, 1024, "1x2x4"),  # one image gets all
        (2, 1024, "2x2x2"),
        (4, 1024, "4x2x1"),
        (64, 4096, "2x1x4"),  # 16.8 megapixels need four patches of 4.2
    ],
)
def test_replicas_win_while_there_are_images_that_fit(count: int, side: int, layout: str) -> None:
    assert _chosen(count, side) == layout


def test_a_tail_of_one_image_more_than_replicas_is_shared() -> None:
    """Nine images on eight replicas take two rounds of one GPU; fewer replicas are through before."""
    assert not _chosen(9, 2048).startswith("8x")


@pytest.mark.parametrize("gpus", [1, 2, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("count", [1, 3, 100])
def test_every_gpu_is_used(gpus: int, count: int) -> None:
    assert Layout.parse(_chosen(count, 1024, gpus)).gpus == gpus


def test_what_fits_nowhere_keeps_the_default_and_small_images_get_no_more_patches_than_units() -> None:
    choice = fastest_layout(2, [Load(16384, 16384, 1.0)], one_gpu_megapixels=4.2)
    assert choice.layout == planned_layout(2)
    assert "268.4 megapixels" in choice.reason
    small = fastest_layout(8, [Load(64, 64, 1.0)], one_gpu_megapixels=4.2).layout
    assert small.shortest_long_side_px <= 64


def test_an_image_has_as_many_patches_as_its_longer_side_has_units() -> None:
    """128 pixels are four units of 32."""
    assert str(fastest_layout(4, [Load(128, 64, 1e3)], one_gpu_megapixels=0.003).layout) == "1x1x4"


def test_the_smallest_image_of_a_job_decides_how_many_patches_there_may_be() -> None:
    choice = fastest_layout(8, [Load(1024, 1024, 10.0), Load(64, 64, 0.1)], one_gpu_megapixels=4.2)
    assert choice.layout.shortest_long_side_px <= 64


def test_images_of_one_size_and_unequal_work_count_with_the_replica_that_takes_them() -> None:
    """Every second image is long: with two replicas, the second would get them all."""
    images = [Load(1024, 1024, tera) for tera in (1.0, 100.0, 1.0, 100.0)]
    assert not str(fastest_layout(2, images, one_gpu_megapixels=4.2).layout).startswith("2x")


def test_the_reason_says_how_much_faster_than_the_next_layout_without_replicas() -> None:
    reason = fastest_layout(8, [Load(1024, 1024, 10.0)] * 64, one_gpu_megapixels=4.2).reason
    found = re.search(r"8 replicas of 1 GPUs, expected ([0-9.]+) times as fast as 1x", reason)
    assert found is not None
    assert float(found[1]) > 1

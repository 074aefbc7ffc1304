"""A list may be late: what it does not show is asked for by its key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.bucket.artifacts import Artifacts
from pipeline.bucket.sizes import listed_sizes, sizes_there
from tests.counting import counted

KEYS = {index: f"batches/b/images/00000/{index:07d}-000.png" for index in range(4)}


def _late(artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    between = artifacts.sizes_between

    def sizes_between(first: str, last: str, page: int) -> Iterator[tuple[str, int]]:
        return ((key, size) for key, size in between(first, last, page) if key != missing)

    monkeypatch.setattr(artifacts, "sizes_between", sizes_between)


def test_what_a_late_list_does_not_show_is_found_by_its_key(
    artifacts: Artifacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    for index in (0, 1, 3):
        artifacts.put(KEYS[index], b"x" * index, content_type="image/png")
    _late(artifacts, monkeypatch, KEYS[1])
    assert listed_sizes(artifacts, KEYS) == {KEYS[0]: 0, KEYS[3]: 3}
    assert sizes_there(artifacts, KEYS) == {KEYS[0]: 0, KEYS[1]: 1, KEYS[3]: 3}


def test_where_everything_is_there_one_list_is_enough(artifacts: Artifacts) -> None:
    for key in KEYS.values():
        artifacts.put(key, b"x", content_type="image/png")
    with counted(artifacts) as asked:
        assert sizes_there(artifacts, KEYS) == dict.fromkeys(KEYS.values(), 1)
    assert dict(asked.calls) == {"ListObjectsV2": 1}

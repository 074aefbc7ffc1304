"""The engine that a process keeps for its next job."""

from __future__ import annotations

import weakref
from typing import Any

import pytest

from distri.engine import EngineSettings
from distri.run.loaded import LoadedEngine


class _Engine:
    """What is kept: it points at itself, as split layers and their networks do."""

    def __init__(self, *, fused: bool = False) -> None:
        self.settings = EngineSettings(fused=fused)
        self.itself = self


def _load(made: list[Any], **settings: bool) -> Any:
    def load() -> _Engine:
        engine = _Engine(**settings)
        made.append(weakref.ref(engine))
        return engine

    return load


def test_an_engine_is_loaded_once_for_jobs_that_want_the_same() -> None:
    loaded, made = LoadedEngine(), list[Any]()
    first = loaded.engine("demo", ("a", 1), _load(made))
    assert loaded.engine("demo", ("a", 1), _load(made)) is first
    assert (len(made), loaded.model) == (1, "demo")


def test_another_one_is_loaded_when_the_first_has_been_freed() -> None:
    loaded, made = LoadedEngine(), list[Any]()
    loaded.engine("demo", "a", _load(made))

    def load() -> Any:
        assert made[0]() is None  # its memory is free before the other needs some
        return _load(made)()

    loaded.engine("other", "b", load)
    assert loaded.model == "other"


def test_what_cannot_be_loaded_leaves_nothing_behind() -> None:
    loaded, made = LoadedEngine(), list[Any]()
    loaded.engine("demo", "a", _load(made))

    def fail() -> Any:
        raise MemoryError

    with pytest.raises(MemoryError):
        loaded.engine("other", "b", fail)
    assert loaded.model is None
    loaded.engine("demo", "a", _load(made))
    assert len(made) == 2


def test_it_says_whether_kernels_are_in_use() -> None:
    loaded = LoadedEngine()
    assert not loaded.is_fused
    loaded.engine("demo", "a", _load([], fused=True))
    assert loaded.is_fused

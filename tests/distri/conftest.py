"""Pools of ranks, one per size and test run, and the demo model."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distri import demo_model
from tests.distri.pool import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], Ranks]]:
    """`ranks(n)` is a pool of n living ranks; a broken one is replaced."""
    pools: dict[int, Ranks] = {}

    def get(count: int) -> Ranks:
        if count not in pools or pools[count].broken:
            pools[count] = Ranks(count)
        return pools[count]

    yield get
    for pool in pools.values():
        pool.stop()


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model, written once."""
    return demo_model.write(tmp_path_factory.mktemp("model"))

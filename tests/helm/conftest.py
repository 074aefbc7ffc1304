"""The two renderings that most tests look at."""

from __future__ import annotations

import pytest

from tests.helm.chart import Object, render


@pytest.fixture(scope="session")
def least() -> list[Object]:
    """The default, with only what must be given."""
    return render().objects


@pytest.fixture(scope="session")
def fullest() -> list[Object]:
    """Every value set."""
    return render(base="fullest", release="night").objects

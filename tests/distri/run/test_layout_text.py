"""A layout's text means the same to the control side, which chooses it, and to the engine, which stands alone."""

from __future__ import annotations

import itertools

import pytest

from distri.ranks.errors import LayoutError
from distri.ranks.mesh import Layout as MeshLayout
from pipeline.deployment.layouts import Layout


def test_both_read_and_write_every_layout_alike() -> None:
    for data, cfg, patch in itertools.product((1, 2, 3, 10), (1, 2), (1, 2, 7, 16)):
        layout = Layout(data, cfg, patch)
        mesh = MeshLayout.parse(str(layout))
        assert (mesh.data, mesh.cfg, mesh.patch, mesh.ranks, str(mesh)) == (data, cfg, patch, layout.gpus, str(layout))


@pytest.mark.parametrize("text", ["", "2x4", "0x1x1", "1x3x1", "1x1x0", "1x2x4x1", "axbxc", "1x2x-4"])
def test_both_refuse_what_is_no_layout(text: str) -> None:
    with pytest.raises(ValueError, match="found"):
        Layout.parse(text)
    with pytest.raises(LayoutError):
        MeshLayout.parse(text)

"""Pictures of an engine that replays against those of one that does not: every pixel is the same."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.adapters.lora import Lora
from distri.model.image import ImageSpec, Rendered
from distri.ranks.errors import OutOfMemory
from distri.ranks.mesh import Layout, Mesh
from distri.ranks.recorder import Replay
from distri.sampling.control import Control
from distri.sampling.pixels import DecodedImage
from tests.distri import loras, on_ranks, reference
from tests.distri.pool import Ranks

FAST = EngineSettings(warmup=1, native_px=96)
PLAIN = ImageSpec("a cat", "blurry", seed=7, width=96, height=128, steps=3, guidance_scale=5.0)
OTHER = replace(PLAIN, prompt="a castle", negative_prompt=None, seed=8)
IMAGES = [
    PLAIN,
    OTHER,
    replace(PLAIN, prompt="a lake", guidance_scale=2.0, scheduler="EulerAncestralDiscreteScheduler"),
]


def _render(model_dir: Path, layout: str, lora: Path, replay: Replay) -> tuple[list[Rendered], list[str]]:
    """Images one by one, with a LoRA, in low memory in between, and two together; and what was recorded."""
    engine = on_ranks.engine(model_dir, layout, replace(FAST, replay=replay))
    rendered = [engine.render(image, control=lambda: Control.GO) for image in IMAGES]
    rendered.append(engine.render(replace(PLAIN, loras=(Lora(lora, 0.8),)), control=lambda: Control.GO))
    rendered.append(engine.render(PLAIN, control=lambda: Control.GO, low_memory=True))
    for _ in range(2):
        rendered += engine.render_batch([PLAIN, OTHER], control=lambda: Control.GO)
    return rendered, [str(span.detail["refused"]) for span in engine.spans if span.track == "replay"]


@pytest.mark.parametrize(("layout", "kinds"), [("1x1x1", 1), ("1x2x1", 1), ("1x1x2", 3)])
def test_pictures_are_the_same_whether_evaluations_are_replayed_or_not(
    ranks: Callable[[int], Ranks],
    model_dir: Path,
    tmp_path: Path,
    layout: str,
    kinds: int,
) -> None:
    lora = loras.peft(tmp_path / "lora.safetensors", reference.pipeline(model_dir).components)
    pool = ranks(Layout.parse(layout).ranks)
    wanted = pool.run(_render, model_dir, layout, lora, Replay.NEVER)
    found = pool.run(_render, model_dir, layout, lora, Replay.OPERATORS)
    for (pictures, records), (others, none) in zip(found, wanted, strict=True):
        assert none == []
        assert records == ["None"] * 2 * kinds  # of one image, and of two as a batch
        for one, other in zip(pictures, others, strict=True):
            assert one.evaluations == other.evaluations
            assert one.bytes_sent == other.bytes_sent
            if other.pixels is not None:
                assert np.array_equal(one.pixels, other.pixels)


def test_a_decode_that_finds_no_memory_beside_recordings_is_done_again_without_them(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(FAST, replay=Replay.OPERATORS, exact=True)
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=settings)
    shapes, decode = engine._parts.unet.shapes, engine._parts.vae.decode
    wanted = engine.render(PLAIN, control=lambda: Control.GO)

    def greedy(*args: Any) -> DecodedImage:
        if shapes.recordings or short:
            raise torch.OutOfMemoryError("no room")
        return decode(*args)

    short = False
    monkeypatch.setattr(engine._parts.vae, "decode", greedy)
    assert shapes.recordings == 1
    found = engine.render(PLAIN, control=lambda: Control.GO)
    assert found.pixels is not None
    assert wanted.pixels is not None
    assert np.array_equal(found.pixels, wanted.pixels)
    assert shapes.recordings == 0
    short = True
    with pytest.raises(OutOfMemory, match="no room"):
        engine.render(PLAIN, control=lambda: Control.GO)

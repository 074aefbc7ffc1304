"""Images that are decoded while others are denoised."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Rendered
from distri.ranks.mesh import Layout, Mesh
from distri.ranks.progress import Progress
from distri.ranks.spans import RenderSpan, Spans
from distri.sampling.control import Control
from distri.sampling.pixels import DecodedImage, ReplicaVAE
from distri.slots.decoder import TRACK, Decoder

SHORT = ImageSpec("a cat", "blurry", seed=7, width=64, height=64, steps=1, guidance_scale=5.0)
LONG = replace(SHORT, seed=8, steps=4)


def _go() -> Control:
    return Control.GO


@pytest.fixture
def engine(model_dir: Path) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(native_px=64))


def _alike(engine: Engine, image: ImageSpec, found: Rendered) -> bool:
    alone = engine.render(image, control=_go).pixels
    assert alone is not None
    assert found.pixels is not None
    return bool(np.abs(alone.astype(int) - found.pixels.astype(int)).max() <= 1)


@pytest.mark.parametrize(("device", "chosen"), [("cuda:3", [torch.device("cuda", 3)]), ("cuda", []), ("cpu", [])])
def test_decodes_make_no_context_on_another_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, chosen: list[torch.device]
) -> None:
    """Torch's current GPU is the first one in every new thread."""
    begun = list[torch.device]()
    monkeypatch.setattr(torch.cuda, "set_device", begun.append)
    mesh = Mesh(Layout(1, 1, 1), torch.device(device), 0, {}, progress=Progress())
    decoder = Decoder(mock.Mock(), mesh, Spans())
    decoder._thread.submit(lambda: None).result()
    assert begun == chosen


def test_others_are_evaluated_while_an_image_is_decoded(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    goes_on, decode = threading.Event(), ReplicaVAE.decode

    def waits(vae: ReplicaVAE, *args: Any, **options: Any) -> DecodedImage:
        assert threading.current_thread() is not threading.main_thread()
        assert goes_on.wait(60)
        return decode(vae, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ReplicaVAE, "decode", waits)
        renders = engine.renders(control=_go, slots=2)
        for name, image in (("short", SHORT), ("long", LONG)):
            renders.join(image, name)
        assert renders.advance() == []
        assert renders.count == 2
        assert renders.admits(SHORT)  # its slot is free
        assert renders.advance() == []  # to the end of the other
        goes_on.set()
        found = {one.name: one.rendered for one in renders.decoded()}
    assert not renders.count
    assert _alike(engine, SHORT, found["short"])
    assert _alike(engine, LONG, found["long"])
    assert sum(span.track == TRACK and span.name == RenderSpan.DECODE for span in engine.spans) == 2


@pytest.mark.parametrize("what", ["lacks memory", "is not finite"])
def test_what_cannot_be_decoded_there_is_decoded_between_evaluations(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    decode = ReplicaVAE.decode

    def fails(vae: ReplicaVAE, *args: Any, repairs: bool = True) -> DecodedImage:
        if not repairs and what == "lacks memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = decode(vae, *args, repairs=repairs)
        return found if repairs else replace(found, finite=False)

    monkeypatch.setattr(ReplicaVAE, "decode", fails)
    found = engine.render_batch([SHORT, LONG], control=_go)
    for image, one in zip((SHORT, LONG), found, strict=True):
        assert one.finite
        assert one.decode_s > 0
        assert _alike(engine, image, one)


def test_any_other_error_is_the_callers(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> DecodedImage:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(ReplicaVAE, "decode", fails)
    with pytest.raises(RuntimeError, match="no such kernel"):
        engine.render_batch([SHORT, LONG], control=_go)


def test_no_more_latents_wait_than_there_are_slots(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The third has to wait for the first."""
    goes_on, begun, decode = threading.Event(), [], ReplicaVAE.decode
    renders = engine.renders(control=_go, slots=2)
    left = engine._parts.decoder.decode

    def begins(*args: Any) -> Any:
        begun.append(args[-1]["image"])
        if len(begun) == 3:
            goes_on.set()
        return left(*args)

    def waits(vae: ReplicaVAE, *args: Any, **options: Any) -> DecodedImage:
        assert goes_on.wait(60)
        return decode(vae, *args, **options)

    monkeypatch.setattr(ReplicaVAE, "decode", waits)
    monkeypatch.setattr(engine._parts.decoder, "decode", begins)
    finished: list[str] = []
    for name in "abc":
        assert finished == []
        renders.join(SHORT, name)
        finished += [one.name for one in renders.advance()]
    assert finished[0] == "a"
    assert begun == ["a", "b", "c"]

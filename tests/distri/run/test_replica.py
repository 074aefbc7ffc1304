"""How a replica goes through its images: who joins whom, and how it stops."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel
from PIL import Image

from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Pixels, Rendered
from distri.model.reference.image_encoder import ImageEncoder
from distri.model.reference.ip_adapter import IPAdapter
from distri.ranks.errors import GpuFailed, OutOfMemory
from distri.ranks.mesh import Mesh
from distri.run.replica import ImageTooLarge, Replica, render_images
from distri.run.signals import LeaderSignal
from distri.sampling.control import Control
from distri.slots.decoder import Decoder
from distri.slots.image_render import ImageRender
from distri.slots.renders import Renders
from distri.slots.room import Room
from distri.slots.table import Table
from pipeline.deployment.allowed import AllowedIPAdapter, AllowedModel
from pipeline.deployment.settings import ControlNetSource, IPAdapterSource
from pipeline.input_picture import Control as RowControl
from pipeline.input_picture import InputPicture
from pipeline.inputs.gathered import InputPictures
from pipeline.inputs.plain import png_of
from pipeline.promptset.fields.row import Options, ResolvedRow
from pipeline.promptset.formats.source import Source
from pipeline.promptset.validate import Validation, resolved_rows
from pipeline.records.results import FailureCode
from pipeline.records.shards import ImageTask, ShardLine, images_of
from tests.distri import controlnets, ip_adapters, reference
from tests.factories import attempt_spec, deployment, job_record, noise, resolved_row

STEPS = (2, 4, 3, 2, 5)


class _Leader:
    """Notes what it is asked and given; `signals` come before RENDER, by image."""

    def __init__(self, signals: dict[int, list[LeaderSignal]] | None = None) -> None:
        self.signals = signals or {}
        self.kept_tokens: Any = None
        self.asked: list[tuple[int, bool]] = []
        self.committed: list[tuple[int, int, bool]] = []
        self.failed: list[tuple[int, FailureCode]] = []
        self.control: Callable[[], Control] = lambda: Control.GO

    def decide(self, task: ImageTask, *, wait: bool = True) -> LeaderSignal:
        self.asked.append((task.index, wait))
        left = self.signals.get(task.index)
        return left.pop(0) if left else LeaderSignal.RENDER

    def input_png(self, _: InputPicture) -> bytes:
        return b""

    def read_ahead(self, _: ImageTask) -> None:
        """No image begins with a picture here."""

    def commit(self, task: ImageTask, rendered: Rendered, others: int) -> None:
        assert rendered.others == others
        self.committed.append((task.index, others, bool(rendered.evaluations.synchronous)))

    def fail(self, task: ImageTask, code: FailureCode, _: str) -> None:
        self.failed.append((task.index, code))


class _Provenances:
    """What an image's provenance is made of here: with how many others it was evaluated."""

    def of(self, _: ImageTask, *, others: int) -> int:
        return others


@pytest.fixture(scope="module")
def engine(model_dir: Path) -> Engine:
    return Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings())


def _run(engine: Engine, leader: _Leader, tasks: list[ImageTask], **of_spec: Any) -> None:
    spec = attempt_spec(job_record()).model_copy(update=of_spec)
    parts: Any = (engine.mesh, engine, leader, spec, {}, {}, _Provenances())
    render_images(Replica(*parts), tasks)


def _tasks(**changes: Any) -> list[ImageTask]:
    rows = [resolved_row(row, steps=steps, **changes) for row, steps in enumerate(STEPS)]
    return images_of([ShardLine(row=row, start=0, stop=1) for row in rows])


def test_an_image_joins_as_soon_as_another_has_ended(engine: Engine) -> None:
    leader = _Leader()
    _run(engine, leader, _tasks(), slots=2)
    assert leader.asked == [(0, True), (1, False), (2, False), (3, False), (4, False)]
    assert [index for index, _, _ in leader.committed] == [0, 1, 2, 3, 4]
    assert [others for _, others, _ in leader.committed] == [1, 1, 1, 1, 1]


def test_one_slot_is_one_image_after_the_other(engine: Engine) -> None:
    leader = _Leader()
    _run(engine, leader, _tasks())
    assert leader.asked == [(index, True) for index in range(5)]
    assert {others for _, others, _ in leader.committed} == {0}


def test_images_that_are_to_be_alone_have_no_others_nor_have_those_in_little_memory(engine: Engine) -> None:
    leader = _Leader()
    _run(engine, leader, _tasks(), slots=4, alone=(1,), lean=(4,))
    assert {index: others for index, others, _ in leader.committed} == {0: 0, 1: 0, 2: 1, 3: 1, 4: 0}


def test_who_waits_for_room_lets_the_others_go_on_and_is_asked_again(engine: Engine) -> None:
    leader = _Leader({1: [LeaderSignal.WAIT], 2: [LeaderSignal.SKIP]})
    _run(engine, leader, _tasks(), slots=2)
    assert leader.asked[:4] == [(0, True), (1, False), (1, False), (2, False)]
    assert sorted(index for index, _, _ in leader.committed) == [0, 1, 3, 4]


def test_a_stop_lets_those_finish_that_are_rendered_unless_control_stops_them(engine: Engine) -> None:
    leader = _Leader({2: [LeaderSignal.STOP]})
    _run(engine, leader, _tasks(), slots=2)
    assert [index for index, _, _ in leader.committed] == [0, 1]
    cancelled = _Leader()
    words = iter([Control.GO, Control.STOP])
    cancelled.control = lambda: next(words)
    _run(engine, cancelled, _tasks(), slots=2)
    assert cancelled.committed == []


def test_an_image_that_left_its_slot_before_a_stop_is_committed(engine: Engine) -> None:
    """The first takes two evaluations; the third stops the others."""
    leader, words = _Leader(), iter([Control.GO, Control.GO, Control.STOP])
    leader.control = lambda: next(words)
    _run(engine, leader, _tasks(), slots=2)
    assert [index for index, _, _ in leader.committed] == [0]


def test_an_image_that_cannot_be_rendered_fails_and_the_others_are_rendered(engine: Engine) -> None:
    leader, tasks = _Leader(), _tasks()
    long = resolved_row(1, prompt="a long walk " * 60)
    tasks[1:2] = images_of([ShardLine(row=long, start=0, stop=1)])
    _run(engine, leader, tasks, slots=3)
    assert leader.failed == [(1, FailureCode.PROMPT_TOO_LONG)]
    assert sorted(index for index, _, _ in leader.committed) == [0, 2, 3, 4]


@pytest.mark.parametrize(("slots", "error"), [(1, ImageTooLarge), (2, OutOfMemory)])
def test_an_image_is_blamed_for_its_memory_only_if_it_was_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, slots: int, error: type[Exception]
) -> None:
    def runs_out(_: Table) -> None:
        raise OutOfMemory("CUDA out of memory")

    monkeypatch.setattr(Table, "evaluate", runs_out)
    with pytest.raises(error):
        _run(engine, _Leader(), _tasks(), slots=slots)


@pytest.mark.parametrize("images", [2, 3])
def test_an_image_that_was_evaluated_beside_a_decode_is_not_blamed_for_the_memory(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    """The first leaves after two evaluations; the third runs out, when its picture is there."""
    evaluate, evaluations = Table.evaluate, list[None]()

    def runs_out(table: Table) -> Any:
        evaluations.append(None)
        if len(evaluations) < 3:
            return evaluate(table)
        engine._parts.decoder.wait()
        raise OutOfMemory("CUDA out of memory")

    monkeypatch.setattr(Table, "evaluate", runs_out)
    monkeypatch.setattr(Room, "holds_decode", lambda *_: True)
    leader = _Leader()
    with pytest.raises(OutOfMemory):
        _run(engine, leader, _tasks()[:images], slots=images)
    assert [index for index, _, _ in leader.committed] == [0]


def test_what_cannot_be_handed_over_hides_no_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Any:
        raise GpuFailed(0, "an evaluation", "CUDA error")

    def loses(*_: object) -> Any:
        raise ValueError("the picture is gone")

    monkeypatch.setattr(Table, "evaluate", fails)
    monkeypatch.setattr(Renders, "saved", loses)
    with pytest.raises(GpuFailed):
        _run(engine, _Leader(), _tasks(), slots=2)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(OutOfMemory("CUDA out of memory"), OutOfMemory), (GpuFailed(0, "a decode", "CUDA error"), GpuFailed)],
)
def test_what_was_finished_before_an_error_is_committed(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[Exception]
) -> None:
    """Both end at once, and memory is gone, or the GPU, when the second is decoded."""
    decode, decoded = ImageRender.finish, list[str]()

    def fails(render: ImageRender, *rest: Any) -> Rendered:
        if decoded:
            raise error
        decoded.append(render.name)
        return decode(render, *rest)

    monkeypatch.setattr(ImageRender, "finish", fails)
    monkeypatch.setattr(Decoder, "usable", property(lambda _: False))
    rows = [resolved_row(row, steps=2) for row in range(2)]
    leader = _Leader()
    with pytest.raises(raised):
        _run(engine, leader, images_of([ShardLine(row=row, start=0, stop=1) for row in rows]), slots=2)
    assert [index for index, _, _ in leader.committed] == [0]


class _Hands(_Leader):
    """Hands pictures to its replica, and keeps what is rendered."""

    def __init__(self, *pngs: bytes) -> None:
        super().__init__()
        self.pngs = {hashlib.sha256(png).hexdigest(): png for png in pngs}
        self.handed, self.pixels = list[str](), dict[int, Pixels]()

    def input_png(self, picture: InputPicture) -> bytes:
        self.handed.append(picture.sha256)
        return self.pngs[picture.sha256]

    def commit(self, task: ImageTask, rendered: Rendered, others: int) -> None:
        super().commit(task, rendered, others)
        assert rendered.pixels is not None
        self.pixels[task.index] = rendered.pixels


def test_rows_that_the_same_network_steers_share_slots(engine: Engine, model_dir: Path) -> None:
    body = png_of(noise(64, 64))
    picture = InputPicture(sha256=hashlib.sha256(body).hexdigest(), width=64, height=64)
    path = controlnets.file(model_dir)
    listed = {"edges": ControlNetSource(path=str(path), sha256=hashlib.sha256(path.read_bytes()).hexdigest())}
    shares = [(0.0, 1.0), (0.0, 0.5), (0.6, 1.0)]
    steered = [(RowControl(model="edges", image=picture, start=start, end=end),) for start, end in shares]
    rows = [resolved_row(row, steps=4, control=control) for row, control in enumerate([*steered, ()])]
    tasks = images_of([ShardLine(row=row, start=0, stop=1) for row in rows])
    found = []
    for slots in (1, 3):
        leader = _Hands(body)
        spec = attempt_spec(job_record()).model_copy(update={"slots": slots})
        parts: Any = (engine.mesh, engine, leader, spec, {}, {}, _Provenances(), listed)
        render_images(Replica(*parts), tasks)
        assert not leader.failed
        assert leader.handed == [picture.sha256]
        assert [others for _, others, _ in leader.committed] == ([0] * 4 if slots == 1 else [2, 2, 2, 0])
        found.append(leader.pixels)
    alone, together = found
    for index in range(4):
        assert np.abs(alone[index].astype(int) - together[index]).max() <= 1
    assert all(not np.array_equal(alone[one], alone[3]) for one in range(3))


def test_rows_that_resemble_a_picture_are_those_of_diffusers_and_it_is_embedded_once(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From prompt set to pixels: two rows with one picture, one of them within a mask."""
    adapter = _adapter(model_dir, tmp_path)
    source = IPAdapterSource(
        path=str(adapter.path),
        sha256=hashlib.sha256(adapter.path.read_bytes()).hexdigest(),
        image_encoder=str(adapter.encoder),
        image_encoder_sha256=hashlib.sha256((adapter.encoder / "model.safetensors").read_bytes()).hexdigest(),
    )
    noise(70, 50).save(tmp_path / "anna.png")
    left = Image.new("L", (136, 96))
    left.paste(255, (0, 0, 72, 96))
    left.save(tmp_path / "left.png")
    references = [{"adapter": "face", "image": "anna.png", "scale": 0.7} | mask for mask in ({}, {"mask": "left.png"})]
    rows = _resolved(tmp_path, [{"reference": [one]} for one in references] + [{}], {"face": AllowedIPAdapter()})
    embedded = list[bool]()
    embed = ImageEncoder.embed

    def noted(encoder: ImageEncoder, pixels: Pixels | None, *, hidden: bool) -> torch.Tensor:
        embedded.append(pixels is not None)
        return embed(encoder, pixels, hidden=hidden)

    monkeypatch.setattr(ImageEncoder, "embed", noted)
    engine = Engine.load(model_dir, Mesh.single(), dtype=torch.float32, settings=EngineSettings(native_px=96))
    leader = _Hands(*((tmp_path / f"{one.sha256}.png").read_bytes() for row in rows for one in row.inputs))
    spec = attempt_spec(job_record())
    leader.kept_tokens = kept = _Tokens()
    parts: Any = (engine.mesh, engine, leader, spec, {}, {}, _Provenances(), {}, {"face": source})
    replica = Replica(*parts)
    tasks = images_of([ShardLine(row=row, start=0, stop=1) for row in rows])
    images = [replica.whole_image_of(task) for task in tasks]
    render_images(replica, tasks)
    assert not leader.failed
    assert embedded == [True, False]
    assert len(kept) == 1  # for the batch's other engines
    assert len(leader.handed) == 2
    for index, image in enumerate(images):
        assert np.abs(leader.pixels[index].astype(int) - _of_diffusers(model_dir, image)).max() <= 1, index
    assert len({leader.pixels[index].tobytes() for index in range(3)}) == 3


class _Tokens(dict[str, bytes]):
    """Tokens that are left for other engines."""

    def read(self, name: str, size: int) -> bytes | None:
        found = self.get(name)
        assert found is None or len(found) == size
        return found

    def write(self, name: str, tokens: bytes) -> None:
        self[name] = tokens


def _adapter(model_dir: Path, folder: Path) -> IPAdapter:
    unet: Any = reference.pipeline(model_dir).unet
    return ip_adapters.write_adapter(
        folder / "face.safetensors", unet, ip_adapters.write_encoder(folder / "image_encoder"), plus=True
    )


def _resolved(folder: Path, rows: list[dict[str, Any]], adapters: dict[str, AllowedIPAdapter]) -> list[ResolvedRow]:
    models = {"tiny": AllowedModel(revision="r", native_px=96)}
    known = deployment(models=models, ip_adapters=adapters, references=True, layout="1x1x1")
    found = Validation("rows", inputs=InputPictures([folder], keep=folder))
    of_all: dict[str, Any] = {"prompt": "a photo of a cat", "negative_prompt": "blurry", "seed": 7, "steps": 3}
    of_all |= {"model": "tiny", "size": "136x96", "highres": "direct"}
    source = Source("rows", ((number, of_all | row) for number, row in enumerate(rows, 1)))
    return list(resolved_rows(source, Options(), known, found, batch_seed=1))


def _of_diffusers(model_dir: Path, image: ImageSpec) -> npt.NDArray[np.int64]:
    unet: Any = UNet2DConditionModel
    parts = reference.pipeline(model_dir).components | {
        "unet": unet.from_pretrained(model_dir / "unet", local_files_only=True),
        "scheduler": reference.scheduler(model_dir, image),
    }
    kind: Any = StableDiffusionXLPipeline
    encoder = [one.adapter.encoder for one in image.references]
    pipe = kind(**parts | (ip_adapters.parts_of(encoder[0]) if encoder else {}), add_watermarker=False)
    pipe.set_progress_bar_config(disable=True)
    given = ip_adapters.loaded_into(pipe, image.references, image.height, image.width) if encoder else {}
    rendered = pipe(
        prompt=image.prompt,
        negative_prompt=image.negative_prompt,
        num_inference_steps=image.steps,
        guidance_scale=image.guidance_scale,
        width=image.width,
        height=image.height,
        generator=torch.Generator().manual_seed(image.seed),
        output_type="np",
        **given,
    )
    found: npt.NDArray[np.int64] = np.round(rendered.images[0] * 255).astype(int)
    return found

"""Render the images of a replica, several at a time: ask the leader before each, commit each as it ends."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import NoReturn

import structlog

from distri.engine import Engine
from distri.model.image import ImageSpec, Pixels, Rendered
from distri.ranks.errors import BadImage, EngineError, OutOfMemory, PromptTooLong, Stopped, TooManyRanks
from distri.ranks.mesh import Mesh
from distri.run.input_pixels import SharedPixels
from distri.run.provenance import Provenances
from distri.run.signals import LeaderSignal, Leads, await_signal
from distri.run.tracing import memory_bytes
from distri.run.translate import image_of
from distri.sampling.control import Control
from distri.slots.renders import Finished, Renders
from pipeline.bucket.trace import TracePhase
from pipeline.deployment.settings import ControlNetSource, EmbeddingSource, IPAdapterSource, LoraSource
from pipeline.errors import TesseraError
from pipeline.input_picture import InputPicture
from pipeline.records.attempt import AttemptSpec
from pipeline.records.results import FailureCode
from pipeline.records.shards import ImageTask

log = structlog.get_logger(__name__)


class ImageTooLarge(TesseraError):
    """A rank ran out of memory over an image that was rendered alone."""

    def __init__(self, task: ImageTask, error: OutOfMemory) -> None:
        self.index = task.index
        super().__init__(f"image {task.id} ({task.row.width}x{task.row.height}): out of memory: {error}")


@dataclass(frozen=True)
class Replica:
    """Who renders, and what is the same for all images."""

    mesh: Mesh
    engine: Engine
    leader: Leads | None
    spec: AttemptSpec
    loras: Mapping[str, LoraSource]
    embeddings: Mapping[str, EmbeddingSource]
    provenances: Provenances
    controlnets: Mapping[str, ControlNetSource] = field(default_factory=dict)
    ip_adapters: Mapping[str, IPAdapterSource] = field(default_factory=dict)

    def image_of(self, task: ImageTask) -> ImageSpec:
        """The image as the engine is asked for it, without the pixels that it begins with. Raises BadImage."""
        return self._image_of(task, {})

    def whole_image_of(self, task: ImageTask) -> ImageSpec:
        """The same with them, which the leader hands on; blocks. Raises BadImage."""
        pixels = {one.sha256: self._pixels.of(one, partial(self._png, one)) for one in task.row.inputs}
        return self._image_of(task, pixels)

    @cached_property
    def _pixels(self) -> SharedPixels:
        return SharedPixels(self.mesh)

    def _png(self, picture: InputPicture) -> bytes:
        return self.leader.input_png(picture) if self.leader is not None else b""

    def _image_of(self, task: ImageTask, pixels: Mapping[str, Pixels]) -> ImageSpec:
        further = self.controlnets, self.ip_adapters
        kept = self.leader.kept_tokens if self.leader is not None else None
        return image_of(task, self.loras, self.embeddings, *further, pixels=pixels, kept_tokens=kept)


def render_images(replica: Replica, tasks: Sequence[ImageTask]) -> None:
    """Render images in their order until none is left or the leader says stop. All ranks of the replica call it.

    Raises:
        ImageTooLarge, OutOfMemory: one image did not fit into memory; several did not together.
    """
    queue = _Queue(replica, tasks)
    while queue.join_more():
        queue.advance()


class _Queue:
    """The images that are left, and those that are being rendered, which are the same on all ranks."""

    def __init__(self, replica: Replica, tasks: Sequence[ImageTask]) -> None:
        self._replica, self._spans = replica, replica.engine.spans
        self._left = deque(tasks)
        self._rendering: dict[str, ImageTask] = {}
        self._renders: Renders | None = None
        self._asks_again = False

    def join_more(self) -> bool:
        """Let images join as long as there is room for the next; whether any is being rendered then."""
        self._asks_again = False
        while self._left and self._admits(task := self._left[0]):
            with structlog.contextvars.bound_contextvars(image=task.id), self._spans.about(image=task.id):
                signal = self._ask(task)
                if signal is LeaderSignal.WAIT:
                    self._asks_again = True
                    break
                self._left.popleft()
                if signal is LeaderSignal.STOP:
                    self._left.clear()
                elif signal is LeaderSignal.RENDER:
                    self._join(task)
        return bool(self._rendering)

    def advance(self) -> None:
        """Evaluate those that are being rendered until one ends, or once if the next image may join soon; commit."""
        if self._renders is None:
            raise AssertionError("no image has joined")
        try:
            finished = self._renders.advance(1 if self._asks_again else None)
        except Stopped:
            self._left.clear()
            self._hand_over(self._decoded(self._renders))
            self._rendering.clear()
        except EngineError as error:
            self._raise_after(error)
        else:
            self._hand_over(finished)

    def _admits(self, task: ImageTask) -> bool:
        """Whether an image may join now; one that is to be alone waits for the others, and they for it."""
        if not self._rendering:
            return True
        if self._renders is None or self._is_alone(task) or any(map(self._is_alone, self._rendering.values())):
            return False
        try:
            return self._renders.admits(self._replica.image_of(task))
        except BadImage:
            return True  # it is refused when it joins

    def _is_alone(self, task: ImageTask) -> bool:
        return task.index in self._replica.spec.lean or task.index in self._replica.spec.alone

    def _ask(self, task: ImageTask) -> LeaderSignal:
        mesh, leader = self._replica.mesh, self._replica.leader
        with self._spans.span(TracePhase.ASK):
            if self._rendering:  # they go on while it waits
                at_once = leader.decide(task, wait=False) if leader is not None else LeaderSignal.WAIT
                return LeaderSignal(mesh.broadcast_int(at_once))
            return await_signal(mesh, lambda: leader.decide(task) if leader is not None else LeaderSignal.WAIT)

    def _join(self, task: ImageTask) -> None:
        replica = self._replica
        leader, spec = replica.leader, replica.spec
        if not self._rendering or self._renders is None:
            self._renders = replica.engine.renders(
                control=leader.control if leader is not None else _never_asked,
                slots=1 if self._is_alone(task) else spec.slots,
                low_memory=task.index in spec.lean,
            )
        self._rendering[task.id] = task
        try:
            self._renders.join(replica.whole_image_of(task), task.id)
        except (BadImage, TooManyRanks) as error:
            # These errors follow from what is equal on all ranks, so all ranks get here.
            del self._rendering[task.id]
            if leader is not None:
                leader.fail(task, _code(error), str(error))
            return
        except EngineError as error:
            self._raise_after(error)
        if self._left:
            if leader is not None:
                leader.read_ahead(self._left[0])
            try:
                self._renders.embed_ahead(replica.image_of(self._left[0]))
            except BadImage:
                return  # it is refused when it is its turn

    def _hand_over(self, finished: Sequence[Finished]) -> None:
        for one in finished:
            self._commit(self._rendering.pop(one.name), one.rendered)

    def _commit(self, task: ImageTask, rendered: Rendered) -> None:
        mesh, leader = self._replica.mesh, self._replica.leader
        with structlog.contextvars.bound_contextvars(image=task.id), self._spans.about(image=task.id):
            log.info(
                "image rendered",
                encode_s=round(rendered.encode_s, 3),
                denoise_s=round(rendered.denoise_s, 3),
                decode_s=round(rendered.decode_s, 3),
                synchronous=rendered.evaluations.synchronous,
                displaced=rendered.evaluations.displaced,
                others=rendered.others,
                sent_bytes=rendered.bytes_sent,
            )
            with self._spans.span(TracePhase.HAND_OVER, memory_bytes=memory_bytes(mesh.device)):
                if leader is not None:
                    leader.commit(task, rendered, self._replica.provenances.of(task, others=rendered.others))

    def _decoded(self, renders: Renders) -> list[Finished]:
        try:
            return renders.decoded()
        except EngineError as error:
            self._raise_after(error)

    def _raise_after(self, error: EngineError) -> NoReturn:
        """Hand over what was finished before an error; blame an image for the memory if it was alone.

        Several together need fewer slots.
        """
        alone = next(iter(self._rendering.values())) if len(self._rendering) == 1 else None
        if self._renders is not None:
            try:
                self._hand_over(self._renders.saved())
            except Exception:
                log.exception("some images will be rendered again")  # why this rank ends is said by the other error
        if isinstance(error, OutOfMemory) and alone is not None:
            raise ImageTooLarge(alone, error) from error
        raise error


def _never_asked() -> Control:
    raise AssertionError("only the leader's control is asked")


def _code(error: EngineError) -> FailureCode:
    return FailureCode.PROMPT_TOO_LONG if isinstance(error, PromptTooLong) else FailureCode.UNSUPPORTED

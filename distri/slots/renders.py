"""Images that are rendered at the same time: who joins, who is denoised together, and what becomes of who leaves."""

import time
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from distri.model.image import ImageSpec, Rendered
from distri.ranks.device_errors import raise_device_failures
from distri.ranks.errors import BadImage
from distri.ranks.spans import RenderSpan
from distri.sampling.control import Control
from distri.sampling.denoising import SamplingOptions
from distri.slots.image_render import ImageRender, Leaving, Parts
from distri.slots.kind import Kind, Pass, kinds_of
from distri.slots.laps import Laps
from distri.slots.slot import Slot
from distri.slots.table import Table


@dataclass(frozen=True)
class Finished:
    """An image that is rendered, by the name that it joined under."""

    name: str
    rendered: Rendered


@dataclass(frozen=True)
class _Seat:
    """One of the slots, taken.

    Attributes:
        number: of the slot.
        render: whose pass it is.
        since_ns: by the monotonic clock.
    """

    number: int
    render: ImageRender
    since_ns: int


class Renders:
    """Images that are rendered at the same time. All ranks of the replica call it together, with equal arguments.

    One table is evaluated at a time. Images whose next pass is of another size, or the refiner's, wait until it is
    empty; then the table is of the kind of who waited for longest. Of a kind that was never evaluated the first image
    begins alone, to measure how many fit into memory. Where control networks steer it, that is the first evaluation
    with all of them; of images with networks that never steer together each is alone.

    An image whose passes are over leaves its slot and is decoded beside the evaluations of others, where there are
    several slots, one rank has the whole image, and memory holds both; else between two evaluations. At most as many
    latents as there are slots wait for that.

    Args:
        parts: what they are rendered with.
        options: how ranks work together on their passes.
        slots: how many are evaluated together at most.
        control: asked on the leader before every evaluation; ignored on the other ranks.
        on_final_latent: called on every rank with each image's final latent, 1CHW, float32, before it is decoded; what
            it raises ends the renders, so it must raise on all ranks or on none.
    """

    def __init__(
        self,
        parts: Parts,
        options: SamplingOptions,
        *,
        slots: int,
        control: Callable[[], Control],
        on_final_latent: Callable[[Tensor], None] | None = None,
    ) -> None:
        if slots < 1:
            raise ValueError(f"{slots} slots: at least 1 wanted")
        self.slots = slots
        self._parts, self._options, self._control = parts, options, control
        self._on_final_latent = on_final_latent
        self._laps = Laps(parts.spans, parts.now_ns, parts.mesh.traffic)
        self._kind: Kind | None = None
        self._table: Table | None = None
        self._seats: dict[Slot, _Seat] = {}
        self._waiting: list[tuple[ImageRender, Pass]] = []
        self._leaving: deque[tuple[ImageRender, Leaving]] = deque()
        self._finished: list[Finished] = []  # that nobody has been given yet

    @property
    def count(self) -> int:
        """How many images are being rendered."""
        return len(self._seats) + len(self._waiting) + len(self._leaving)

    @property
    def capacity(self) -> int:
        """How many images the table takes: the slots, or fewer where memory does not hold so many of its kind."""
        if self._kind is None or self._parts.room.is_measured(self._kind):
            fit = self._parts.room.fit(self._kind)
            return self.slots if fit is None else min(self.slots, fit.images)
        return 1

    @property
    def full(self) -> bool:
        """Whether all slots that memory allows are taken, for now."""
        return len(self._seats) >= self.capacity

    def admits(self, image: ImageSpec) -> bool:
        """Whether an image may join now; any may while no other is being rendered."""
        if not (self._seats or self._waiting):
            return True
        if self.full or len(self._waiting) >= self.slots:
            return False
        if any(own.kind == self._kind for _, own in self._waiting):
            return False  # whose text does not fit would wait for ever
        preparation = self._parts.preparation
        try:
            stage = preparation.plan(image).stages[0]
        except BadImage:
            return True  # it is refused when it joins
        control = tuple(dict.fromkeys(one.network.name for one in image.control))
        size, window = preparation.latent_size(stage), preparation.window_of(stage)
        kind = Kind(*size, window=window, control=control, references=kinds_of(image))
        return kind == self._kind and preparation.loras.holds(image.loras)

    @raise_device_failures()
    @torch.inference_mode()
    def join(self, image: ImageSpec, name: str = "") -> None:
        """Begin to render an image that is admitted. Blocks.

        Raises:
            BadImage, TooManyRanks: on all ranks, before any communication; BadLora, BadControlNet, BadReference after
                they have agreed on it. The other images are unharmed.
            OutOfMemory, GpuFailed: see `advance`.
        """
        if not self.admits(image):
            raise BadImage(
                "images that are rendered together must agree in size, LoRAs, ControlNets and kinds of references, and "
                "each needs a slot"
            )
        self._laps.begin()
        render, first = ImageRender.begin(self._parts, image, name, self._laps, low_memory=self._options.low_memory)
        self._seat(render, first)

    def embed_ahead(self, upcoming: ImageSpec) -> None:
        """Embed the prompts of an image that is likely to be next while these are denoised."""
        if not self._options.low_memory:
            self._parts.preparation.embed_ahead(upcoming)

    @raise_device_failures()
    @torch.inference_mode()
    def advance(self, most: int | None = None) -> list[Finished]:
        """Evaluate the table until an image is at the end of its pass, or `most` times; then do what comes after it.

        Returns:
            Images that are finished. There may be none although others are still being rendered, and there are some
            where nothing is left but to decode.

        Raises:
            Stopped, LeaderFailed: see `Table.evaluate`.
            OutOfMemory, GpuFailed: on the rank whose device it is, and maybe on no other; its process should end.
        """
        self._laps.begin()
        if not (self._seats or self._waiting):
            self._decode_until(len(self._leaving) - 1)
            return self._taken()
        for slot in self._denoise(self._filled_table(), most):
            seat = self._seats.pop(slot)
            if self.slots > 1:
                track, detail = f"slot {seat.number}", {"image": seat.render.name, "evaluations": slot.total}
                self._parts.spans.add(RenderSpan.DENOISE, seat.since_ns, time.monotonic_ns(), track=track, **detail)
            following = seat.render.next_pass(slot, self._laps)
            if following is not None:
                self._seat(seat.render, following)
                continue
            if self._on_final_latent is not None:
                self._on_final_latent(slot.latent_1CHW)
            self._leave(seat.render, slot.latent_1CHW)
        self._decode_until(self.slots)
        return self._taken()

    @raise_device_failures()
    @torch.inference_mode()
    def decoded(self) -> list[Finished]:
        """Wait for the images that are being decoded, and return them: for who renders no more. Blocks."""
        self._laps.begin()
        self._decode_until(0)
        return self._taken()

    def saved(self) -> list[Finished]:
        """What an error that ends the renders leaves: images that were finished by then. Computes and sends nothing."""
        for render, leaving in self._leaving:
            if (rendered := render.finished_beside(leaving)) is not None:
                self._finished.append(Finished(render.name, rendered))
        self._leaving.clear()
        return self._taken()

    def _taken(self) -> list[Finished]:
        """All that is finished, for the caller."""
        finished, self._finished = self._finished, []
        return finished

    def _decode_until(self, most: int) -> None:
        """Finish the images that are decoded by now, and those that must be until at most so many wait."""
        while self._leaving and (len(self._leaving) > most or self._leaving[0][1].picture.done()):
            render, leaving = self._leaving[0]
            self._finished.append(Finished(render.name, render.finish_beside(leaving, self._laps)))
            self._leaving.popleft()

    def _leave(self, render: ImageRender, latent_1CHW: Tensor) -> None:
        """Decode a final latent, beside the evaluations of others if that can be."""
        parts = self._parts
        if self.slots > 1 and parts.decoder.usable and parts.room.holds_decode(self._kind, self.slots):
            self._leaving.append((render, render.leave(latent_1CHW)))
            return
        parts.decoder.wait()
        with parts.room.decode(self._kind):
            self._finished.append(Finished(render.name, render.finish(latent_1CHW, self._laps)))

    def _denoise(self, table: Table, most: int | None) -> list[Slot]:
        renders = [seat.render for seat in self._seats.values()]
        one = next(iter(self._seats))
        count = min(slot.left for slot in self._seats)
        count = count if most is None else min(most, count)
        room, kind = self._parts.room, self._kind
        measures = not (self._options.low_memory or room.is_measured(kind))
        capacity = self.capacity
        if measures:
            self._parts.decoder.wait()
            count = 1  # then others may join
            measures = all(one.active)  # of an evaluation that all networks steer
        synchronous = one.synchronous
        ended: list[Slot] = []
        with room.evaluation(kind, one.rows, most_rows=one.most_rows) if measures else nullcontext():
            for _ in range(count):
                ended = table.evaluate()
        synchronous = one.synchronous - synchronous
        detail = {"synchronous": synchronous, "displaced": count - synchronous}
        if self.slots > 1:
            detail |= {"images": len(renders), "slots": capacity}
        with self._parts.spans.about(**(renders[0].about if len(renders) == 1 else {})):
            self._laps.lap(RenderSpan.DENOISE, [render.taken for render in renders], **detail)
        return ended

    def _filled_table(self) -> Table:
        """The table with all that may join it; one of the next kind if it was empty."""
        if not self._seats:
            self._kind = self._table = None
        waiting, self._waiting = self._waiting, []
        for render, own in waiting:
            self._seat(render, own)
        if self._table is None:
            raise AssertionError("no image has joined")
        return self._table

    def _seat(self, render: ImageRender, own: Pass) -> None:
        """Give a pass a slot of the table if it is of its kind and has room; else it waits."""
        if not (self._seats or self._waiting):
            self._kind = self._table = None
        if self._kind is None:
            self._kind = own.kind
            kind, parts = own.kind, self._parts
            parts.room.begin(kind, parts.decoder.wait)
            size = kind.height, kind.width
            self._table = Table(parts.unet_of(kind), parts.mesh, size, self._options, self._control, window=kind.window)
        free = set(range(self.slots)) - {seat.number for seat in self._seats.values()}
        if self._table is None or own.kind != self._kind or not (free and self._has_room(own.slot)):
            self._waiting.append((render, own))
            return
        self._table.join(own.slot)
        self._seats[own.slot] = _Seat(min(free), render, time.monotonic_ns())

    def _has_room(self, slot: Slot) -> bool:
        """Whether the table can take it: its text beside the others, and its rows in memory."""
        if self._table is None or not self._table.fits(slot):
            return False
        fit = self._parts.room.fit(self._kind)
        rows = slot.most_rows + sum(seated.most_rows for seated in self._seats)
        return not self._seats or (self._parts.room.is_measured(self._kind) and (fit is None or rows <= fit.rows))

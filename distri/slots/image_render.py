"""One image on its path from prompts to pixels: its passes one after the other, and what it has taken of the time."""

from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from distri.layers.unet import SplitUNet
from distri.model.image import Evaluations, ImageSpec, Rendered
from distri.model.passes.stages import Stage
from distri.ranks.errors import BadImage
from distri.ranks.mesh import Mesh
from distri.ranks.spans import RenderSpan, Spans
from distri.sampling.certainty import Filling
from distri.sampling.denoising import Denoising
from distri.sampling.pixels import DecodedImage, ReplicaVAE
from distri.sampling.preparation import Preparation
from distri.sampling.prepared import EncodedPicture, PreparedImage
from distri.sampling.refiner import Refiner
from distri.slots.decoder import Decoder
from distri.slots.kind import Kind, Pass, kinds_of
from distri.slots.laps import Laps, Taken
from distri.slots.room import Room
from distri.slots.slot import Slot

T = TypeVar("T")


@dataclass(frozen=True)
class Leaving:
    """A final latent, 1CHW, that is decoded beside the evaluations of others, and the picture that it becomes."""

    latent: Tensor
    picture: "Future[DecodedImage | None]"


@dataclass(frozen=True)
class Parts:
    """What images are rendered with; equal on all ranks of the replica.

    Attributes:
        mesh: whose replica renders.
        preparation: of images for the model.
        unet: the model's, split.
        refiner: takes over for images that say where.
        vae: between latents and pixels.
        spans: where it is noted what is done and when.
        now_ns: the clock; on a GPU it waits for the device first.
        decoder: beside evaluations.
        room: how much of what memory holds.
    """

    mesh: Mesh
    preparation: Preparation
    unet: SplitUNet
    refiner: Refiner | None
    vae: ReplicaVAE
    spans: Spans
    now_ns: Callable[[], int]
    decoder: Decoder
    room: Room

    def unet_of(self, kind: Kind) -> SplitUNet:
        """The network that evaluates passes of this kind."""
        return self.refiner.unet if kind.refines and self.refiner is not None else self.unet

    @property
    def unets(self) -> list[SplitUNet]:
        """All networks."""
        return [self.unet, *([self.refiner.unet] if self.refiner is not None else [])]

    def free_buffers(self) -> None:
        """Drop what is kept for other images."""
        for unet in self.unets:
            unet.free()
        if self.mesh.device.type == "cuda":
            torch.cuda.empty_cache()

    def with_room(self, work: Callable[[], T]) -> T:
        """Work of the VAE, which needs much memory for a moment, done again without recordings if it lacked some."""
        self.decoder.wait()
        try:
            return work()
        except torch.OutOfMemoryError:
            # With peers it cannot be done again: some of its messages have been sent.
            if self.mesh.replica.size > 1 or not sum(unet.shapes.drop_recordings() for unet in self.unets):
                raise
        return work()


class ImageRender:
    """One image that is being rendered.

    Attributes:
        name: the caller's.
        taken: of time and messages.
    """

    def __init__(self, parts: Parts, prepared: PreparedImage, name: str) -> None:
        self.name = name
        self.taken = Taken()
        self._parts, self._prepared = parts, prepared
        self._number, self._refines = 0, False  # of the pass, and whether it is the refiner's
        self._evaluations, self._others = Evaluations(0, 0), 0
        self._repairs: tuple[str, ...] = ()
        self._filling: Filling | None = None  # while a hole is filled in rounds
        self._of_loras = parts.preparation.loras.warnings  # others come with the LoRAs of other images

    @classmethod
    def begin(
        cls, parts: Parts, image: ImageSpec, name: str, laps: Laps, *, low_memory: bool
    ) -> "tuple[ImageRender, Pass]":
        """Read and embed its prompts; returns it with its first pass. Blocks.

        Raises:
            BadImage, TooManyRanks, BadLora, BadControlNet: see `Renders.join`.
        """
        if low_memory:
            parts.free_buffers()
        if image.refiner_switch_at is not None and parts.refiner is None:
            raise BadImage(f"refiner_switch_at {image.refiner_switch_at:g}: the model has no refiner")
        with parts.spans.about(**_about(name)):
            render = cls(parts, parts.preparation.prepare(image, low_memory=low_memory), name)
            laps.lap(RenderSpan.ENCODE, [render.taken])
            begun = render._picture(laps)
        return render, render._first_pass(begun)

    def _first_pass(self, begun: EncodedPicture | None) -> Pass:
        """The first pass, or the first walk of the rounds in which it fills a hole."""
        prepared, preparation = self._prepared, self._parts.preparation
        if begun is not None and prepared.scene is not None and prepared.scene.inpaint.rounds > 1:
            new_11HW = prepared.scene.latent_mask(*prepared.place(0)).to(begun.latent)
            self._filling = Filling(begun.latent, new_11HW, prepared.scene.inpaint.rounds)
        latent_1CHW = None if begun is None else begun.latent
        return self._pass(*preparation.start_pass(0, prepared, latent_1CHW, begun, filling=self._filling))

    def _fill(self, filling: Filling, ended: Slot) -> Pass | None:
        """What is to be denoised after a walk of a hole that is filled in rounds; None if that was the pass itself."""
        if filling.probe is None:
            self._filling = None
            return None
        filling.note(ended.predicted, ended.level)
        picture = EncodedPicture(filling.picture, None)
        start = self._parts.preparation.start_pass
        return self._pass(*start(0, self._prepared, filling.picture, picture, filling=filling))

    def _picture(self, laps: Laps) -> EncodedPicture | None:
        """The picture that the image begins with, if it does, in the size of this pass."""
        parts = self._parts
        picture_13HW = parts.preparation.picture(self._prepared, self._number)
        if picture_13HW is None:
            return None
        latent_1CHW, repairs = parts.with_room(partial(parts.vae.encode, picture_13HW))
        around_13HW, masked_1CHW = parts.preparation.masked_picture(self._prepared, picture_13HW, self._number), None
        if around_13HW is not None:
            masked_1CHW, again = parts.with_room(partial(parts.vae.encode, around_13HW))
            repairs += again
        self._repairs += repairs
        laps.lap(RenderSpan.BEGIN, [self.taken])
        return EncodedPicture(latent_1CHW, masked_1CHW)

    def next_pass(self, ended: Slot, laps: Laps) -> Pass | None:
        """What is to be denoised after this pass: the refiner's share of it, or the next size; None at the end."""
        self._evaluations += Evaluations(ended.synchronous, ended.displaced)
        self._others = max(self._others, ended.others)
        parts, prepared = self._parts, self._prepared
        if self._filling is not None and (following := self._fill(self._filling, ended)) is not None:
            return following
        if not self._refines and prepared.image.refiner_switch_at is not None and parts.refiner is not None:
            window = parts.preparation.window_of(self._stage)
            rest = parts.refiner.denoising(self._number, prepared, window=window, kept=ended.kept)
            if rest is not None:
                self._refines = True
                return self._pass(ended.latent_1CHW, rest)
        self._refines = False
        if self._number + 1 == len(prepared.plan.stages):
            return None
        self._number += 1
        stage, how = self._stage, prepared.image.highres.enlargement
        if stage.part is not None:  # the same trajectory goes on
            start, clean_1CHW = parts.preparation.start_pass, ended.predicted[-1]
            return self._pass(*start(self._number, prepared, ended.latent_1CHW, clean_1CHW=clean_1CHW))
        with parts.spans.about(**self.about):
            latent_1CHW, repairs = parts.with_room(
                partial(parts.vae.enlarge, ended.latent_1CHW, stage.height, stage.width, how)
            )
            self._repairs += repairs
            laps.lap(RenderSpan.ENLARGE, [self.taken])
            picture = self._picture(laps) if prepared.scene is not None else None
        return self._pass(*parts.preparation.start_pass(self._number, prepared, latent_1CHW, picture))

    def finish(self, latent_1CHW: Tensor, laps: Laps) -> Rendered:
        """The picture of the final latent. Blocks."""
        parts, (crop, size) = self._parts, self._cut
        with parts.spans.about(**self.about):
            picture = parts.with_room(partial(parts.vae.decode, latent_1CHW, crop, size))
            laps.lap(RenderSpan.DECODE, [self.taken])
        return self._rendered(picture)

    def leave(self, latent_1CHW: Tensor) -> Leaving:
        """Begin to decode the final latent beside the evaluations of others."""
        return Leaving(latent_1CHW, self._parts.decoder.decode(latent_1CHW, *self._cut, self.about))

    def finish_beside(self, leaving: Leaving, laps: Laps) -> Rendered:
        """The picture, decoded now if that had no room there or is not finite. Blocks until it is there.

        Of its seconds those count in which the rank waited for it.
        """
        if not leaving.picture.done():
            with self._parts.spans.about(**self.about):
                wait((leaving.picture,))
                laps.lap(RenderSpan.DECODE, [self.taken])
        leaving.picture.result()  # raises what ended it
        return self.finished_beside(leaving) or self.finish(leaving.latent, laps)

    def finished_beside(self, leaving: Leaving) -> Rendered | None:
        """The picture if it is decoded by now and finite; computes nothing."""
        if not leaving.picture.done() or leaving.picture.exception() is not None:
            return None
        picture = leaving.picture.result()
        return self._rendered(picture) if picture is not None and picture.finite else None

    @property
    def _cut(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where the picture lies on its canvas, and its size."""
        return self._prepared.plan.crop, (self._prepared.image.width, self._prepared.image.height)

    def _rendered(self, picture: DecodedImage) -> Rendered:
        image, plan, seconds = self._prepared.image, self._prepared.plan, self.taken.seconds
        scene, pixels = self._prepared.scene, picture.pixels
        if scene is not None and pixels is not None:
            pixels = scene.pasted(pixels)
        return Rendered(
            pixels=pixels,
            encode_s=seconds[RenderSpan.ENCODE],
            denoise_s=seconds[RenderSpan.DENOISE],
            decode_s=seconds[RenderSpan.DECODE] + seconds[RenderSpan.ENLARGE],
            evaluations=self._evaluations,
            others=self._others,
            bytes_sent=round(self.taken.sent_bytes),
            finite=picture.finite,
            blank=picture.blank,
            stages=plan.stages,
            canvas=plan.canvas if plan.canvas != (image.width, image.height) else None,
            crop=plan.crop,
            left_out=self._prepared.texts.left_out,
            warnings=plan.warnings + self._prepared.warnings + self._of_loras,
            repairs=self._repairs + picture.repairs,
        )

    def _pass(self, latent_1CHW: Tensor, denoising: Denoising) -> Pass:
        height, width = latent_1CHW.shape[2:]
        control = tuple(one.name for one in denoising.control)
        references = () if self._refines else kinds_of(self._prepared.image)
        kind = Kind(height, width, self._refines, denoising.window, control, references)
        return Pass(kind, Slot(latent_1CHW, denoising))

    @property
    def _stage(self) -> Stage:
        return self._prepared.plan.stages[self._number]

    @property
    def about(self) -> dict[str, str]:
        """What its spans say besides."""
        return _about(self.name)


def _about(name: str) -> dict[str, str]:
    return {"image": name} if name else {}

"""One image on its path from prompts to pixels: its passes one after the other, and what it has taken of the time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from distri.layers.unet import SplitUNet
from distri.model.image import Evaluations, ImageSpec, Rendered
from distri.model.stages import Stage
from distri.ranks.errors import BadImage
from distri.ranks.mesh import Mesh
from distri.ranks.spans import RenderSpan, Spans
from distri.sampling.denoising import Denoising
from distri.sampling.pixels import ReplicaVAE
from distri.sampling.preparation import Preparation, PreparedImage
from distri.sampling.refiner import Refiner
from distri.slots.laps import Laps, Taken
from distri.slots.slot import Slot

T = TypeVar("T")


@dataclass(frozen=True)
class Kind:
    """What passes of one table share, besides LoRAs: a network, the size of their latents, and their windows."""

    height: int
    width: int
    refines: bool = False
    window: int | None = None


@dataclass(frozen=True)
class Pass:
    """A pass that is to be denoised."""

    kind: Kind
    slot: Slot


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
    """

    mesh: Mesh
    preparation: Preparation
    unet: SplitUNet
    refiner: Refiner | None
    vae: ReplicaVAE
    spans: Spans
    now_ns: Callable[[], int]

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
        self._of_loras = parts.preparation.loras.warnings  # others come with the LoRAs of other images

    @classmethod
    def begin(
        cls, parts: Parts, image: ImageSpec, name: str, laps: Laps, *, low_memory: bool
    ) -> "tuple[ImageRender, Pass]":
        """Read and embed its prompts; returns it with its first pass. Blocks.

        Raises:
            BadImage, TooManyRanks, BadLora: see `Renders.join`.
        """
        if low_memory:
            parts.free_buffers()
        if image.refiner_switch_at is not None and parts.refiner is None:
            raise BadImage(f"refiner_switch_at {image.refiner_switch_at:g}: the model has no refiner")
        with parts.spans.about(**_about(name)):
            render = cls(parts, parts.preparation.prepare(image, low_memory=low_memory), name)
            laps.lap(RenderSpan.ENCODE, [render.taken])
            begun_1CHW = render._begun_with(laps)
        return render, render._pass(*parts.preparation.start_pass(0, render._prepared, begun_1CHW))

    def _begun_with(self, laps: Laps) -> Tensor | None:
        """The latent of the picture that the image begins with, if it does."""
        parts = self._parts
        picture_13HW = parts.preparation.picture(self._prepared)
        if picture_13HW is None:
            return None
        latent_1CHW, self._repairs = parts.with_room(partial(parts.vae.encode, picture_13HW))
        laps.lap(RenderSpan.BEGIN, [self.taken])
        return latent_1CHW

    def next_pass(self, ended: Slot, laps: Laps) -> Pass | None:
        """What is to be denoised after this pass: the refiner's share of it, or the next size; None at the end."""
        self._evaluations += Evaluations(ended.synchronous, ended.displaced)
        self._others = max(self._others, ended.others)
        parts, prepared = self._parts, self._prepared
        if not self._refines and prepared.image.refiner_switch_at is not None and parts.refiner is not None:
            rest = parts.refiner.denoising(self._number, prepared, window=parts.preparation.window_of(self._stage))
            if rest is not None:
                self._refines = True
                return self._pass(ended.latent_1CHW, rest)
        self._refines = False
        if self._number + 1 == len(prepared.plan.stages):
            return None
        self._number += 1
        stage, how = self._stage, prepared.image.highres.enlargement
        with parts.spans.about(**self.about):
            latent_1CHW, repairs = parts.with_room(
                partial(parts.vae.enlarge, ended.latent_1CHW, stage.height, stage.width, how)
            )
            self._repairs += repairs
            laps.lap(RenderSpan.ENLARGE, [self.taken])
        return self._pass(*parts.preparation.start_pass(self._number, prepared, latent_1CHW))

    def finish(self, latent_1CHW: Tensor, laps: Laps) -> Rendered:
        """The picture of the final latent. Blocks."""
        parts, image, crop = self._parts, self._prepared.image, self._prepared.plan.crop
        with parts.spans.about(**self.about):
            picture = parts.with_room(partial(parts.vae.decode, latent_1CHW, crop, (image.width, image.height)))
            laps.lap(RenderSpan.DECODE, [self.taken])
        plan, seconds = self._prepared.plan, self.taken.seconds
        return Rendered(
            pixels=picture.pixels,
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
        return Pass(Kind(height, width, self._refines, denoising.window), Slot(latent_1CHW, denoising))

    @property
    def _stage(self) -> Stage:
        return self._prepared.plan.stages[self._number]

    @property
    def about(self) -> dict[str, str]:
        """What its spans say besides."""
        return _about(self.name)


def _about(name: str) -> dict[str, str]:
    return {"image": name} if name else {}

"""All that precedes denoising: stages, prompts and LoRAs of images, and what each pass starts from."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import overload

import torch
from torch import Tensor

from distri.layers.unet import Conditions, SplitUNet, together
from distri.model import prompts
from distri.model.embeddings import Embeddings
from distri.model.image import SMALLEST_SIDE_PX, ImageSpec
from distri.model.lora import FusedLoras
from distri.model.model import Model
from distri.model.prompts import Embedding, Prompts
from distri.model.schedulers import BatchSteps, Steps
from distri.model.stages import RenderPlan, plan_stages
from distri.model.weighted_prompt import Prompt, WeightedPrompt
from distri.ranks.errors import BadImage, BadSize
from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from distri.sampling.guidance import Guidance
from distri.sampling.sampler import Denoising, halves_apart, noise
from distri.sampling.sharing import sharing_of

# What may differ among the images of a batch.
_OWN = (
    *("prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "seed"),
    *("original_size", "crop", "target_size"),
    *("negative_original_size", "negative_crop", "negative_target_size"),
)


@dataclass(frozen=True)
class PreparedImage:
    """One image, its passes, and its prompts embedded; `negative` is None without guidance."""

    image: ImageSpec
    plan: RenderPlan
    left_out: dict[str, str]
    positive: Embedding
    negative: Embedding | None


class Preparation:
    """Prepares images for a model. All ranks of a replica call it together, with equal arguments.

    Args:
        model: its UNet and text encoders get the images' LoRAs.
        unet: the model's, split.
        mesh: whose replica renders.
        spans: where embedding ahead is noted.
        factor: pixels along one side of a latent element.
        native_px: side of the square that the model was trained on.
        idle_ranks: whether ranks may be left without a part of an image.
    """

    def __init__(
        self, model: Model, unet: SplitUNet, mesh: Mesh, spans: Spans, *, factor: int, native_px: int, idle_ranks: bool
    ) -> None:
        self.loras = FusedLoras(model, mesh)
        self.embeddings = Embeddings(model, spans)
        self._model, self._unet, self._mesh = model, unet, mesh
        self._factor, self._native_px, self._idle_ranks = factor, native_px, idle_ranks

    def prepare(self, images: Sequence[ImageSpec], guidance: Guidance, *, low_memory: bool) -> list[PreparedImage]:
        """Refuse what cannot be rendered before anything is computed; then fuse LoRAs and embed prompts.

        Blocks where LoRAs differ from those of the image before, since the ranks must agree that all can read them.
        """
        plans = [self._plan(image) for image in images]
        texts = [self._read(image, guidance) for image in images]
        if len({text.pieces for text in texts}) > 1:
            raise BadImage("images of one batch must agree in how many pieces their prompts are read in")
        self._check(images[0], plans[0], guidance, low_memory=low_memory)
        if not self.loras.holds(images[0].loras):
            self.embeddings.forget()
            self.loras.set(images[0].loras)
        return [
            PreparedImage(image, plan, text.left_out, *self.embeddings.of(text))
            for image, plan, text in zip(images, plans, texts, strict=True)
        ]

    def embed_ahead(self, upcoming: ImageSpec, guidance: Guidance) -> None:
        """Embed the prompts of an image in the background, if it has the LoRAs that the encoders have now."""
        with contextlib.suppress(BadImage):  # it is refused when it is its turn
            if self.loras.holds(upcoming.loras):
                self.embeddings.embed_ahead(self._read(upcoming, guidance))

    def start_pass(
        self, number: int, batch: Sequence[PreparedImage], latents: Sequence[Tensor], guidance: Guidance
    ) -> tuple[Tensor, Denoising]:
        """What pass `number` of all images starts from: noise, or noise added to latents of this pass's size.

        Returns:
            The whole latents, BCHW, float32, equal on all ranks; and what is to be done with them.
        """
        channels, device = self._unet.unet.config.in_channels, self._mesh.device
        walks, starts, positive, negative = [], [], [], []
        for place, prepared in enumerate(batch):
            image, stage = prepared.image, prepared.plan.stages[number]
            last = stage is prepared.plan.stages[-1]
            size = (image.height, image.width) if last else (stage.height, stage.width)
            positive.append(self._conditions(prepared.positive, image.time_ids(size)))
            if prepared.negative is not None:
                negative.append(self._conditions(prepared.negative, image.negative_time_ids(size)))
            scheduler = self._model.scheduler.make(image.scheduler, image.scheduler_settings, seed=stage.seed)
            generator = torch.Generator("cpu").manual_seed(stage.seed)
            walk = Steps(scheduler, stage.steps, generator, device, strength=stage.strength, schedule=image.schedule)
            unit = noise(generator, channels, stage.height // self._factor, stage.width // self._factor)
            walks.append(walk)
            starts.append(walk.begin(latents[place] if number else None, unit.to(device)))
        conditions = together(positive), together(negative) if negative else None
        return torch.cat(starts), Denoising(BatchSteps(walks), *conditions, guidance)

    def _conditions(self, embedding: Embedding, time_ids: tuple[int, ...]) -> Conditions:
        dtype = self._unet.unet.dtype
        # float32 in every dtype: bfloat16 would round sizes above 2048 pixels.
        time_ids_16 = torch.tensor([time_ids], dtype=torch.float32, device=self._mesh.device)
        return Conditions(embedding.text.to(dtype), embedding.pooled.to(dtype), time_ids_16)

    def _plan(self, image: ImageSpec) -> RenderPlan:
        if min(image.width, image.height) < SMALLEST_SIDE_PX:
            raise BadSize(image.width, image.height, f"both sides must have at least {SMALLEST_SIDE_PX} pixels")
        if image.steps < 1:
            raise BadImage(f"steps {image.steps}: at least 1")
        return plan_stages(
            image.width,
            image.height,
            steps=image.steps,
            seed=image.seed,
            highres=image.highres,
            native_px=self._native_px,
        )

    def _read(self, image: ImageSpec, guidance: Guidance) -> Prompts:
        if image.clip_skip != 2:
            raise BadImage(f"clip_skip {image.clip_skip}: only 2 is known so far")
        return prompts.read(
            self._model.tokenizers,
            (_literal(image.prompt), _literal(image.prompt_2)),
            (_literal(image.negative_prompt), _literal(image.negative_prompt_2)) if guidance.on else None,
            long=image.long_prompt,
            zeros_for_none=self._model.zeros_for_none,
        )

    def _check(self, image: ImageSpec, plan: RenderPlan, guidance: Guidance, *, low_memory: bool) -> None:
        """Refuse what a pass of the image could not render, equally on all ranks."""
        for stage in plan.stages:
            self._model.scheduler.try_out(
                image.scheduler,
                image.scheduler_settings,
                steps=stage.steps,
                strength=stage.strength,
                schedule=image.schedule,
            )
            sharing_of(
                self._mesh,
                apart=halves_apart(self._mesh, guidance, low_memory=low_memory),
                height=stage.height // self._factor,
                width=stage.width // self._factor,
                unit=self._unet.unit,
                idle_ranks=self._idle_ranks,
            )


@overload
def _literal(prompt: Prompt) -> str: ...
@overload
def _literal(prompt: None) -> None: ...
@overload
def _literal(prompt: Prompt | None) -> str | None: ...
def _literal(prompt: Prompt | None) -> str | None:
    if isinstance(prompt, WeightedPrompt):
        raise BadImage("a prompt with weights: only literal ones are known so far")
    return prompt


def require_alike(images: Sequence[ImageSpec]) -> ImageSpec:
    """The first image of a batch. Raises BadImage if there is none, or if its images need different evaluations."""
    if not images:
        raise BadImage("a batch of no images")
    first = images[0]
    for image in images:
        if replace(first, **{name: getattr(image, name) for name in _OWN}) != image:
            raise BadImage("images of one batch must agree in size, steps, guidance, scheduler and LoRAs")
    return first

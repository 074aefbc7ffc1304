"""All that precedes denoising: stages, prompts and LoRAs of images, and what each pass starts from."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distri.layers.unet import Conditions, SplitUNet
from distri.model import prompt_reader
from distri.model.embeddings import EmbeddedPrompts, EmbeddedSide, Embeddings
from distri.model.image import SMALLEST_SIDE_PX, ImageSpec
from distri.model.inversions import Inversions, Source, naming, source_of
from distri.model.lora import FusedLoras
from distri.model.model import Model
from distri.model.prompts import MARKS, Prompts
from distri.model.schedulers import BatchSteps, Steps
from distri.model.stages import RenderPlan, plan_stages
from distri.model.timeline import Timeline
from distri.model.weighted_prompt import Prompt, WeightedPrompt
from distri.ranks.errors import BadImage, BadSize
from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from distri.sampling.conditions import PassConditions, weights_of
from distri.sampling.guidance import Guidance
from distri.sampling.sampler import Denoising, halves_apart, noise
from distri.sampling.sharing import sharing_of

# What may differ among the images of a batch.
_OWN = (
    *("prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "clip_skip", "seed"),
    *("original_size", "crop", "target_size"),
    *("negative_original_size", "negative_crop", "negative_target_size"),
)


@dataclass(frozen=True)
class PreparedImage:
    """One image, its passes, and its prompts read and embedded."""

    image: ImageSpec
    plan: RenderPlan
    texts: Prompts
    prompts: EmbeddedPrompts
    warnings: tuple[str, ...]


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
        widths = [encoder.get_input_embeddings().embedding_dim for encoder in model.text_encoders]
        room = min(tokenizer.model_max_length for tokenizer in model.tokenizers) - MARKS
        self._inversions = Inversions(widths, room, mesh)
        self._model, self._unet, self._mesh = model, unet, mesh
        self._factor, self._native_px, self._idle_ranks = factor, native_px, idle_ranks

    def prepare(self, images: Sequence[ImageSpec], guidance: Guidance, *, low_memory: bool) -> list[PreparedImage]:
        """Refuse what cannot be rendered before anything is computed; then fuse LoRAs and embed prompts.

        Blocks where LoRAs differ from those of the image before, since the ranks must agree that all can read them.
        """
        plans = [self._plan(image) for image in images]
        sources, bundles = zip(*map(_sources, images), strict=True)
        self._inversions.read([one for own in sources for one in own], [one for own in bundles for one in own])
        texts = [self._read(image, guidance) for image in images]
        if len({(text.pieces, len(text.positives)) for text in texts}) > 1:
            raise BadImage(
                "images of one batch must agree in how many pieces their prompts are read in, and how many are joined "
                "by AND"
            )
        self._check(images[0], plans[0], guidance, low_memory=low_memory)
        if not self.loras.holds(images[0].loras):
            self.embeddings.forget()
            self.loras.set(images[0].loras)
        return [
            PreparedImage(image, plan, text, self.embeddings.of(text, image.clip_skip), self._warnings_of(image))
            for image, plan, text in zip(images, plans, texts, strict=True)
        ]

    def embed_ahead(self, upcoming: ImageSpec, guidance: Guidance) -> None:
        """Embed the prompts of an image in the background, if all that takes is there: its LoRAs and embeddings."""
        with contextlib.suppress(BadImage):  # it is refused when it is its turn
            sources, bundles = _sources(upcoming)
            if self.loras.holds(upcoming.loras) and self._inversions.holds((*sources, *bundles)):
                self.embeddings.embed_ahead(self._read(upcoming, guidance), upcoming.clip_skip)

    def start_pass(
        self, number: int, batch: Sequence[PreparedImage], latents: Sequence[Tensor], guidance: Guidance
    ) -> tuple[Tensor, Denoising]:
        """What pass `number` of all images starts from: noise, or noise added to latents of this pass's size.

        Returns:
            The whole latents, BCHW, float32, equal on all ranks; and what is to be done with them.
        """
        channels, device = self._unet.unet.config.in_channels, self._mesh.device
        walks, starts = [], []
        positives: list[list[Timeline[Conditions]]] = [[] for _ in batch[0].prompts.positives]
        negative: list[Timeline[Conditions]] = []
        for place, prepared in enumerate(batch):
            image, stage = prepared.image, prepared.plan.stages[number]
            last = stage is prepared.plan.stages[-1]
            size = (image.height, image.width) if last else (stage.height, stage.width)
            own = prepared.prompts
            for side, found in zip(own.positives, positives, strict=True):
                found.append(self._conditions(side, number, image.time_ids(size)))
            if own.negative is not None:
                negative.append(self._conditions(own.negative, number, image.negative_time_ids(size)))
            scheduler = self._model.scheduler.make(image.scheduler, image.scheduler_settings, seed=stage.seed)
            generator = torch.Generator("cpu").manual_seed(stage.seed)
            walk = Steps(
                scheduler,
                stage.steps,
                generator,
                device,
                strength=stage.strength,
                switch_at=image.refiner_switch_at,
                schedule=image.schedule,
            )
            unit = noise(generator, channels, stage.height // self._factor, stage.width // self._factor)
            walks.append(walk)
            starts.append(walk.begin(latents[place] if number else None, unit.to(device)))
        weights = weights_of([[side.weight for side in one.prompts.positives] for one in batch], device)
        conditions = PassConditions(tuple(negative) or None, tuple(map(tuple, positives)), weights)
        return torch.cat(starts), Denoising(BatchSteps(walks), conditions, guidance)

    def _conditions(self, side: EmbeddedSide, number: int, time_ids: tuple[int, ...]) -> Timeline[Conditions]:
        dtype = self._unet.unet.dtype
        # float32 in every dtype: bfloat16 would round sizes above 2048 pixels.
        time_ids_16 = torch.tensor([time_ids], dtype=torch.float32, device=self._mesh.device)
        return (side.later if number else side.first).map(
            lambda embedding: Conditions(embedding.text.to(dtype), embedding.pooled.to(dtype), time_ids_16)
        )

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
        layers = min(encoder.config.num_hidden_layers for encoder in self._model.text_encoders)
        if not 1 <= image.clip_skip <= layers:
            raise BadImage(f"clip_skip {image.clip_skip}: 1 to {layers} wanted, the layers of the smaller text encoder")
        bundled = self._inversions.bundled(_sources(image)[1])

        def named(prompt: Prompt | None) -> Prompt | None:
            return naming(prompt, bundled) if isinstance(prompt, WeightedPrompt) else prompt

        return prompt_reader.read(
            self._model.tokenizers,
            (named(image.prompt) or "", named(image.prompt_2)),
            (named(image.negative_prompt), named(image.negative_prompt_2)) if guidance.on else None,
            long=image.long_prompt,
            zeros_for_none=self._model.zeros_for_none,
            vectors_of=self._inversions.vectors,
        )

    def _warnings_of(self, image: ImageSpec) -> tuple[str, ...]:
        """Embeddings that only one of the encoders knows."""
        wanted = dict.fromkeys(one for prompt in _weighted(image) for one in prompt.inversions())
        return tuple(
            f"embedding {one.name or one.path.name} has vectors for {' and '.join(has) or 'no encoder'} alone; "
            "the other encoder reads nothing in its place"
            for one in wanted
            if len(has := self._inversions.encoders_of(one)) < len(self._model.text_encoders)
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


def _weighted(image: ImageSpec) -> list[WeightedPrompt]:
    fields = (image.prompt, image.prompt_2, image.negative_prompt, image.negative_prompt_2)
    return [prompt for prompt in fields if isinstance(prompt, WeightedPrompt)]


def _sources(image: ImageSpec) -> tuple[list[Source], list[Source]]:
    """The files that its prompts name, and those of its LoRAs, which may bring embeddings along."""
    weighted = _weighted(image)
    bundles = [Source(lora.path, lora.sha256) for lora in image.loras] if weighted else []
    named = [source_of(inversion) for prompt in weighted for inversion in prompt.inversions()]
    return [source for source in named if source not in bundles], bundles


def guidance_of(images: Sequence[ImageSpec]) -> Guidance:
    """How the images of a batch are guided. Prompts joined by AND, or one with a weight, need the negative half."""
    composed = any(
        len(prompt.composables) > 1 or any(one.weight != 1 for one in prompt.composables)
        for image in images
        for prompt in (image.prompt, image.prompt_2)
        if isinstance(prompt, WeightedPrompt)
    )
    return Guidance(images[0].guidance_scale, images[0].guidance_rescale, composed)


def require_alike(images: Sequence[ImageSpec]) -> ImageSpec:
    """The first image of a batch. Raises BadImage if there is none, or if its images need different evaluations."""
    if not images:
        raise BadImage("a batch of no images")
    first = images[0]
    for image in images:
        if replace(first, **{name: getattr(image, name) for name in _OWN}) != image:
            raise BadImage("images of one batch must agree in size, steps, guidance, scheduler and LoRAs")
    return first

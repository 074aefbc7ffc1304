"""All that precedes denoising: stages, prompts and LoRAs of an image, and what each pass starts from."""

import contextlib
from dataclasses import dataclass

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
from distri.model.schedulers import Steps
from distri.model.stages import RenderPlan, Stage, plan_stages
from distri.model.timeline import Timeline
from distri.model.weighted_prompt import Prompt, WeightedPrompt
from distri.ranks.errors import BadImage, BadSize
from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from distri.sampling.conditions import PassConditions
from distri.sampling.denoising import Denoising, noise
from distri.sampling.guidance import ALWAYS, Guidance
from distri.sampling.pixels import placed
from distri.sampling.sharing import halves_apart, sharing_of


@dataclass(frozen=True)
class PreparedImage:
    """One image, its guidance and passes, and its prompts read and embedded."""

    image: ImageSpec
    guidance: Guidance
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

    def prepare(self, image: ImageSpec, *, low_memory: bool) -> PreparedImage:
        """Refuse what cannot be rendered before anything is computed; then fuse LoRAs and embed prompts.

        Blocks where LoRAs differ from those of the image before, since the ranks must agree that all can read them.
        """
        plan, guidance = self.plan(image), guidance_of(image)
        self._inversions.read(*_sources(image))
        text = self._read(image, guidance)
        self._check(image, plan, guidance, low_memory=low_memory)
        if not self.loras.holds(image.loras):
            self.embeddings.forget()
            self.loras.set(image.loras)
        embedded = self.embeddings.of(text, image.clip_skip)
        return PreparedImage(image, guidance, plan, text, embedded, self._warnings_of(image))

    def embed_ahead(self, upcoming: ImageSpec) -> None:
        """Embed the prompts of an image in the background, if all that takes is there: its LoRAs and embeddings."""
        with contextlib.suppress(BadImage):  # it is refused when it is its turn
            sources, bundles = _sources(upcoming)
            if self.loras.holds(upcoming.loras) and self._inversions.holds((*sources, *bundles)):
                self.embeddings.embed_ahead(self._read(upcoming, guidance_of(upcoming)), upcoming.clip_skip)

    def picture(self, prepared: PreparedImage) -> Tensor | None:
        """What the image begins with, 13HW of -1 to 1, in the size of its first pass; None if it is noise."""
        image, plan, first = prepared.image, prepared.plan, prepared.plan.stages[0]
        if image.picture is None:
            return None
        if image.picture.pixels is None:
            raise BadImage("the picture that it begins with was not read")
        levels_HW3 = torch.from_numpy(image.picture.pixels).to(self._mesh.device)
        picture_13HW = levels_HW3.permute(2, 0, 1)[None].float() / 127.5 - 1
        at_once = len(plan.stages) == 1
        size, crop = ((image.width, image.height), plan.crop) if at_once else (first.size, (0, 0))
        return placed(picture_13HW, image.picture.fit, size, first, crop)

    def start_pass(self, number: int, prepared: PreparedImage, latent_1CHW: Tensor | None) -> tuple[Tensor, Denoising]:
        """What pass `number` of an image starts from: noise, or noise added to a latent of this pass's size.

        Returns:
            The whole latent, 1CHW, float32, equal on all ranks; and what is to be done with it.
        """
        channels, device = self._unet.unet.config.in_channels, self._mesh.device
        image, stage = prepared.image, prepared.plan.stages[number]
        last = stage is prepared.plan.stages[-1]
        size = (image.height, image.width) if last else (stage.height, stage.width)
        own, guidance = prepared.prompts, prepared.guidance.at_scale(stage.guidance_scale)
        negative = own.negative if guidance.on else None
        conditions = PassConditions(
            None if negative is None else self._conditions(negative, number, image.negative_time_ids(size)),
            tuple(self._conditions(side, number, image.time_ids(size)) for side in own.positives),
            tuple(side.weight for side in own.positives),
        )
        generator = torch.Generator("cpu").manual_seed(stage.seed)
        walk = Steps(
            self._model.scheduler.make(image.scheduler, image.scheduler_settings, seed=stage.seed),
            stage.steps,
            generator,
            device,
            strength=stage.strength,
            switch_at=image.refiner_switch_at,
            schedule=image.schedule,
        )
        unit = noise(generator, channels, *self.latent_size(stage))
        denoising = Denoising(walk, conditions, guidance, self.window_of(stage))
        return walk.begin(latent_1CHW, unit.to(device)), denoising

    def window_of(self, stage: Stage) -> int | None:
        """Side of a pass's windows in latent elements, if it has any."""
        return None if stage.window_px is None else -(-stage.window_px // self._factor)

    def latent_size(self, stage: Stage) -> tuple[int, int]:
        """Height and width of a pass's latent."""
        return stage.height // self._factor, stage.width // self._factor

    def _conditions(self, side: EmbeddedSide, number: int, time_ids: tuple[int, ...]) -> Timeline[Conditions]:
        dtype = self._unet.unet.dtype
        # float32 in every dtype: bfloat16 would round sizes above 2048 pixels.
        time_ids_16 = torch.tensor([time_ids], dtype=torch.float32, device=self._mesh.device)
        return (side.later if number else side.first).map(
            lambda embedding: Conditions(embedding.text.to(dtype), embedding.pooled.to(dtype), time_ids_16)
        )

    def plan(self, image: ImageSpec) -> RenderPlan:
        """The passes of an image. Raises BadImage."""
        if min(image.width, image.height) < SMALLEST_SIDE_PX:
            raise BadSize(image.width, image.height, f"both sides must have at least {SMALLEST_SIDE_PX} pixels")
        if image.steps < 1:
            raise BadImage(f"steps {image.steps}: at least 1")
        if (image.highres.guidance_scale or 0) > 1 >= image.guidance_scale:
            raise BadImage(
                f"guidance_scale {image.highres.guidance_scale:g} of later passes: the first pass is not guided"
            )
        if image.highres.window_px is not None and image.highres.window_px < SMALLEST_SIDE_PX:
            raise BadImage(f"window_px {image.highres.window_px}: at least {SMALLEST_SIDE_PX}")
        if image.picture is not None and not 0 < image.picture.strength <= 1:
            raise BadImage(f"strength {image.picture.strength:g}: above 0 and at most 1")
        return plan_stages(
            image.width,
            image.height,
            steps=image.steps,
            seed=image.seed,
            highres=image.highres,
            native_px=self._native_px,
            start=image.picture.start if image.picture is not None else None,
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
            (height, width), guided = self.latent_size(stage), guidance.at_scale(stage.guidance_scale).on
            self._model.scheduler.try_out(
                image.scheduler,
                image.scheduler_settings,
                steps=stage.steps,
                strength=stage.strength,
                schedule=image.schedule,
            )
            sharing_of(
                self._mesh,
                apart=halves_apart(self._mesh, guided=guided, low_memory=low_memory),
                height=height,
                width=width,
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


def guidance_of(image: ImageSpec) -> Guidance:
    """How an image is guided. Prompts joined by AND, or one with a weight, need the negative half.

    Raises:
        BadImage: at every step, so that an interval does not go with them; or the interval is none.
    """
    composed = any(
        len(prompt.composables) > 1 or any(one.weight != 1 for one in prompt.composables)
        for prompt in (image.prompt, image.prompt_2)
        if isinstance(prompt, WeightedPrompt)
    )
    first, end = image.guidance_interval
    if not 0 <= first < end <= 1:
        raise BadImage(f"guidance_interval {first:g} to {end:g}: two rising shares of the schedule wanted, 0 to 1")
    if composed and image.guidance_interval != ALWAYS:
        raise BadImage(
            "guidance_interval does not go with prompts joined by AND or weighted as a whole, which are guided away "
            "from the negative prompt at every step"
        )
    return Guidance(image.guidance_scale, image.guidance_rescale, composed, image.guidance_interval)

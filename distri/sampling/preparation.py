"""All that precedes denoising: stages, prompts and LoRAs of an image, and what each pass starts from."""

import contextlib

import torch
from torch import Tensor

from distri.layers.conditions import Conditions
from distri.layers.unet import SplitUNet
from distri.model.adapters.lora import FusedLoras
from distri.model.image import ImageSpec
from distri.model.model import Model
from distri.model.passes.stages import RenderPlan, Stage
from distri.model.reference.references import References
from distri.model.sampling.schedulers import Steps
from distri.model.text import prompt_reader
from distri.model.text.embeddings import EmbeddedSide, Embeddings
from distri.model.text.inversions import Inversions, naming
from distri.model.text.prompts import MARKS, Prompts
from distri.model.text.timeline import Timeline
from distri.model.text.weighted_prompt import Prompt, WeightedPrompt
from distri.ranks.errors import BadImage
from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from distri.sampling.cascade import UNMEASURED, grown
from distri.sampling.certainty import Filling, try_out
from distri.sampling.conditions import PassConditions
from distri.sampling.denoising import Denoising, Kept, noise
from distri.sampling.guidance import Guidance, guidance_of
from distri.sampling.named_files import sources, weighted_prompts
from distri.sampling.pixels import placed
from distri.sampling.planning import plan_of
from distri.sampling.prepared import EncodedPicture, PreparedImage
from distri.sampling.references import rows_of
from distri.sampling.scene import Scene
from distri.sampling.sharing import halves_apart, sharing_of
from distri.sampling.steering import ControlNets


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
        self.controlnets = ControlNets(unet, mesh)
        widths = [encoder.get_input_embeddings().embedding_dim for encoder in model.text_encoders]
        room = min(tokenizer.model_max_length for tokenizer in model.tokenizers) - MARKS
        self._inversions = Inversions(widths, room, mesh)
        self._references = References(model, mesh)
        self._model, self._unet, self._mesh = model, unet, mesh
        self._factor, self._native_px, self._idle_ranks = factor, native_px, idle_ranks

    def prepare(self, image: ImageSpec, *, low_memory: bool) -> PreparedImage:
        """Refuse what cannot be rendered before anything is computed; then fuse LoRAs and embed prompts.

        Blocks where LoRAs differ from those of the image before, or a control network or a reference is new, since the
        ranks must agree that all can read them.
        """
        plan, guidance = self.plan(image), guidance_of(image)
        self._inversions.read(*sources(image))
        text = self._read(image, guidance)
        self._check(image, plan, guidance, low_memory=low_memory)
        self.controlnets.load(image.control)
        if not self.loras.holds(image.loras):
            self.embeddings.forget()
            self.loras.set(image.loras)
        embedded = self.embeddings.of(text, image.clip_skip)
        warnings = self._warnings_of(image, plan)
        references = self._references.read(image.references)
        return PreparedImage(image, Scene.of_image(image), guidance, plan, text, embedded, references, warnings)

    def embed_ahead(self, upcoming: ImageSpec) -> None:
        """Embed the prompts of an image in the background, if all that takes is there: its LoRAs and embeddings."""
        with contextlib.suppress(BadImage):  # it is refused when it is its turn
            named, bundles = sources(upcoming)
            if self.loras.holds(upcoming.loras) and self._inversions.holds((*named, *bundles)):
                self.embeddings.embed_ahead(self._read(upcoming, guidance_of(upcoming)), upcoming.clip_skip)

    def picture(self, prepared: PreparedImage, number: int = 0) -> Tensor | None:
        """What the image begins with, 13HW of -1 to 1, in the size of a pass; None if it is noise."""
        image = prepared.image
        if image.picture is None:
            return None
        if image.picture.pixels is None:
            raise BadImage("the picture that it begins with was not read")
        levels_HW3 = torch.from_numpy(image.picture.pixels).to(self._mesh.device)
        picture_13HW = levels_HW3.permute(2, 0, 1)[None].float() / 127.5 - 1
        if prepared.scene is None:
            return placed(picture_13HW, image.picture.fit, *prepared.place(number))
        return placed(prepared.scene.picture(picture_13HW), prepared.scene.fit, *prepared.place(number))

    def masked_picture(self, prepared: PreparedImage, picture_13HW: Tensor, number: int) -> Tensor | None:
        """Likewise, without what is painted anew; None if the network does not read it."""
        if prepared.scene is None or not self._model.inpaints:
            return None
        return prepared.scene.masked(picture_13HW, *prepared.place(number))

    def start_pass(
        self,
        number: int,
        prepared: PreparedImage,
        latent_1CHW: Tensor | None,
        picture: EncodedPicture | None = None,
        *,
        filling: Filling | None = None,
        clean_1CHW: Tensor | None = None,
    ) -> tuple[Tensor, Denoising]:
        """What pass `number` of an image starts from: noise, or noise added to a latent of this pass's size.

        Args:
            number: of the pass.
            prepared: whose it is.
            latent_1CHW: what it begins with; None is noise. A masked picture of strength 1 gives nothing of itself.
            picture: in this size, of which a part is painted anew.
            filling: of that part in rounds; what is started is its next walk, or the pass itself after the last.
            clean_1CHW: of a cascade, the latent without noise as the smaller picture's pass saw it last.

        Returns:
            The whole latent, 1CHW, float32, equal on all ranks; and what is to be done with it.
        """
        channels, device = self._unet.unet.config.out_channels, self._mesh.device
        image, stage = prepared.image, prepared.plan.stages[number]
        last = stage is prepared.plan.stages[-1]
        size = (image.height, image.width) if last else (stage.height, stage.width)
        probe = None if filling is None else filling.probe
        own, guidance = prepared.prompts, prepared.guidance.at_scale(stage.guidance_scale)
        negative = own.negative if guidance.on else None
        conditions = PassConditions(
            None
            if negative is None
            else self._conditions(negative, prepared, number, image.negative_time_ids(size), negative=True),
            tuple(self._conditions(side, prepared, number, image.time_ids(size)) for side in own.positives),
            tuple(side.weight for side in own.positives),
        )
        if probe is not None:
            conditions, stage = probe.conditions(conditions, stage.steps), probe.stage(stage)
        generator = torch.Generator("cpu").manual_seed(stage.seed)
        walk = Steps(
            self._model.scheduler.make(image.scheduler, image.scheduler_settings, seed=stage.seed),
            stage.steps,
            generator,
            device,
            strength=stage.strength,
            switch_at=image.refiner_switch_at,
            schedule=image.schedule,
            part=stage.part,
        )
        if probe is not None:
            walk = probe.walk(self._model.scheduler, generator, device)
        before = prepared.plan.stages[number - 1].part if number else None
        if stage.part is not None and before is not None and latent_1CHW is not None:
            if clean_1CHW is None:
                raise AssertionError("a latent grows with what it is without noise")
            doublings = before.halvings - stage.part.halvings
            detail = self._model.detail
            grown_1CHW = grown(latent_1CHW, clean_1CHW, doublings, sigma=walk.sigma, generator=generator, detail=detail)
            return grown_1CHW, Denoising(walk, conditions, guidance, self.window_of(stage))
        unit = noise(generator, channels, *self.latent_size(stage))
        unit = unit.to(device)
        kept = around = None
        if prepared.scene is not None and picture is not None:
            new_11HW = prepared.scene.latent_mask(*prepared.place(number)).to(device)
            kept = Kept(picture.latent, unit, new_11HW) if filling is None else filling.kept(unit)
            around = None if picture.masked is None else torch.cat([new_11HW, picture.masked], dim=1)
            latent_1CHW = None if number == 0 and stage.strength >= 1 else latent_1CHW
        control = self.controlnets.of_pass(image.control, *prepared.place(number))
        control = control if probe is None else probe.control(control)
        how = conditions, guidance, self.window_of(stage), kept, control, around
        return walk.begin(latent_1CHW, unit), Denoising(walk, *how, None if probe is None else generator)

    def window_of(self, stage: Stage) -> int | None:
        """Side of a pass's windows in latent elements, if it has any."""
        return None if stage.window_px is None else -(-stage.window_px // self._factor)

    def latent_size(self, stage: Stage) -> tuple[int, int]:
        """Height and width of a pass's latent."""
        return stage.height // self._factor, stage.width // self._factor

    def _conditions(
        self,
        side: EmbeddedSide,
        prepared: PreparedImage,
        number: int,
        time_ids: tuple[int, ...],
        *,
        negative: bool = False,
    ) -> Timeline[Conditions]:
        dtype, stage = self._unet.unet.dtype, prepared.plan.stages[number]
        # float32 in every dtype: bfloat16 would round sizes above 2048 pixels.
        time_ids_16 = torch.tensor([time_ids], dtype=torch.float32, device=self._mesh.device)
        own = side.later if number and stage.part is None else side.first
        if stage.part is not None:
            own = own.after(stage.part.first)
        place, device = prepared.place(number), self._mesh.device
        references = rows_of(prepared.references, place, negative=negative, device=device)
        return own.map(
            lambda embedding: Conditions(
                embedding.text.to(dtype), embedding.pooled.to(dtype), time_ids_16, references=references
            )
        )

    def plan(self, image: ImageSpec) -> RenderPlan:
        """The passes of an image. Raises BadImage."""
        return plan_of(image, self._native_px)

    def _read(self, image: ImageSpec, guidance: Guidance) -> Prompts:
        layers = min(encoder.config.num_hidden_layers for encoder in self._model.text_encoders)
        if not 1 <= image.clip_skip <= layers:
            raise BadImage(f"clip_skip {image.clip_skip}: 1 to {layers} wanted, the layers of the smaller text encoder")
        bundled = self._inversions.bundled(sources(image)[1])

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

    def _warnings_of(self, image: ImageSpec, plan: RenderPlan) -> tuple[str, ...]:
        """Embeddings that only one of the encoders knows, and a cascade whose new detail nobody has measured."""
        unmeasured: tuple[str, ...] = ()
        if self._model.detail is None and len(plan.stages) > 1 and plan.stages[0].part is not None:
            unmeasured = (UNMEASURED,)
        wanted = dict.fromkeys(one for prompt in weighted_prompts(image) for one in prompt.inversions())
        return unmeasured + tuple(
            f"embedding {one.name or one.path.name} has vectors for {' and '.join(has) or 'no encoder'} alone; "
            "the other encoder reads nothing in its place"
            for one in wanted
            if len(has := self._inversions.encoders_of(one)) < len(self._model.text_encoders)
        )

    def _check(self, image: ImageSpec, plan: RenderPlan, guidance: Guidance, *, low_memory: bool) -> None:
        """Refuse what a pass of the image could not render, equally on all ranks."""
        painted = image.picture.inpaint if image.picture is not None else None
        if self._model.inpaints and painted is None:
            raise BadImage("the model paints masked parts of pictures alone: a picture and its mask wanted")
        if painted is not None and painted.rounds > 1:
            if self._model.inpaints:
                raise BadImage(f"{painted.rounds} rounds: 1 wanted, the model sees what is known by itself")
            try_out(self._model.scheduler)
        for stage in plan.stages:
            (height, width), guided = self.latent_size(stage), guidance.at_scale(stage.guidance_scale).on
            self._model.scheduler.try_out(
                image.scheduler,
                image.scheduler_settings,
                steps=stage.steps,
                strength=stage.strength,
                schedule=image.schedule,
                keeps=painted is not None,
                part=stage.part,
            )
            sharing_of(
                self._mesh,
                apart=halves_apart(self._mesh, guided=guided, low_memory=low_memory),
                height=height,
                width=width,
                unit=self._unet.unit,
                idle_ranks=self._idle_ranks,
            )

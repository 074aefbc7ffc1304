"""What an entry point calls: a model loaded once on a mesh, then one image after the other."""

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from distri.layers.unet import Conditions, SplitUNet, together
from distri.layers.vae import SplitVAE
from distri.model import model as pipeline_model
from distri.model import prompts
from distri.model.embeddings import Embeddings
from distri.model.image import SMALLEST_SIDE_PX, Evaluations, ImageSpec, Rendered
from distri.model.lora import Fused
from distri.model.model import Model
from distri.model.prompts import Embedding, Prompts
from distri.model.schedulers import BatchSteps, Steps
from distri.model.stages import Plan, plan
from distri.ranks.errors import BadImage, BadSize, ModelError
from distri.ranks.memory import running_out
from distri.ranks.mesh import Mesh
from distri.ranks.patches import MOST_WORK
from distri.ranks.phase import NormMode
from distri.ranks.spans import Spans, Stopwatch
from distri.sampling.pixels import Darkroom
from distri.sampling.sampler import Control, Guidance, Sampled, Schedule, denoise, noise, sharing


@dataclass(frozen=True)
class Settings:
    """How an engine renders.

    Attributes:
        exact: every evaluation synchronous, TF32 off.
        warmup: how many evaluations are synchronous before displaced ones begin, if not exact; at least 1, since the
            first has nothing stale to read. Every pass of an image warms up by itself.
        norm_mode: GroupNorm in displaced evaluations.
        most_work: of a patch rank, times the mean of all, before it hands tokens on to others, where whole rows do not
            divide; at least 1, and infinity means never. Displaced, such tokens are two evaluations old.
        resync: drift of the noise prediction above which another evaluation is synchronous; None means never.
        native_px: side of the square that the model was trained on; None is what its UNet says.
        idle_ranks: render an image that has too few rows for the layout on fewer ranks, instead of refusing it.
    """

    exact: bool = False
    warmup: int = 4
    norm_mode: NormMode = NormMode.CORRECTED
    most_work: float = MOST_WORK
    resync: float | None = None
    native_px: int | None = None
    idle_ranks: bool = False

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ValueError(f"warmup {self.warmup}: at least 1, the first evaluation has nothing stale to read")
        if not self.most_work >= 1:
            raise ValueError(f"most_work {self.most_work}: at least 1, since somebody does the mean or more")

    @property
    def schedule(self) -> Schedule:
        """Which evaluations wait."""
        return Schedule(None) if self.exact else Schedule(self.warmup, self.resync)


class Engine:
    """A model on a mesh. Made and used by all ranks of a replica together, in the same order."""

    def __init__(self, model: Model, mesh: Mesh, settings: Settings, spans: Spans | None = None) -> None:
        """`spans` is where the engine notes what it does and when. Raises ModelError, Unsplittable."""
        if settings.exact:
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        pipeline_model.check(model)
        self.mesh = mesh
        self.spans = Spans() if spans is None else spans
        self.settings = settings
        self._model = model
        self._unet = SplitUNet(model.unet, norm_mode=settings.norm_mode, most_work=settings.most_work)
        self._vae = SplitVAE(model.vae)
        self._fused = Fused(model, mesh)
        self._embeddings = Embeddings(model, self.spans)
        self._darkroom = Darkroom(self._vae, mesh)
        sample_size = model.unet.config.sample_size
        if not (settings.native_px or isinstance(sample_size, int)):
            raise ModelError(f"the UNet's sample_size is {sample_size}: set Settings.native_px, 1024 for SDXL")
        self._native_px = settings.native_px or sample_size * self._vae.factor

    @classmethod
    def load(
        cls,
        model_dir: Path,
        mesh: Mesh,
        *,
        dtype: torch.dtype,
        settings: Settings,
        vae_dtype: torch.dtype = torch.float32,
        spans: Spans | None = None,
    ) -> "Engine":
        """Load an SDXL pipeline directory onto the mesh's device; no communication.

        Raises:
            ModelError: it is not one.
            Unsplittable: a part of it is unknown to the engine.
        """
        model = pipeline_model.load(model_dir, device=mesh.device, dtype=dtype, vae_dtype=vae_dtype)
        return cls(model, mesh, settings, spans)

    @property
    def buffer_bytes(self) -> int:
        """Held for other ranks' activations, over all shapes kept."""
        return self._unet.exchanges.buffer_bytes

    def render(
        self,
        image: ImageSpec,
        *,
        control: Callable[[], Control],
        lean: bool = False,
        upcoming: ImageSpec | None = None,
    ) -> Rendered:
        """Render one image: `render_batch` of one."""
        (rendered,) = self.render_batch([image], control=control, lean=lean, upcoming=upcoming)
        return rendered

    @running_out()
    @torch.inference_mode()
    def render_batch(
        self,
        images: Sequence[ImageSpec],
        *,
        control: Callable[[], Control],
        lean: bool = False,
        upcoming: ImageSpec | None = None,
    ) -> list[Rendered]:
        """Render images together; all ranks of the replica call it together, with equal arguments. Blocks.

        Each image comes out as it would alone, up to floating-point order: it has noise and scheduler of its own.

        Args:
            images: one or more that differ in prompts, seeds and what the model is told of sizes, and in nothing else.
            control: asked on the leader before every evaluation; ignored on the other ranks.
            lean: use as little memory as can be: see `sampler.denoise`; and the buffers kept for other images go.
            upcoming: an image that is likely to be next: its prompts are embedded while these are denoised.

        Returns:
            One result per image, in order.

        Raises:
            BadImage, TooManyRanks: on all ranks, before any communication; BadLora after they have agreed on it.
            Stopped, LeaderFailed: see `sampler.denoise`.
            OutOfMemory: on the rank that ran out, and maybe on no other; its process should end.
        """
        if lean:
            self._unet.exchanges.clear()
            if self.mesh.device.type == "cuda":
                torch.cuda.empty_cache()
        traffic, first, share = self.mesh.traffic, _alike(images), len(images)
        sent_before, watch = traffic.sent_bytes, Stopwatch(self.spans, self._now_ns)
        guidance = Guidance(first.guidance_scale, first.guidance_rescale)
        batch = self._prepared(images, guidance, lean=lean)
        stages, crop = batch[0].way.stages, batch[0].way.crop
        if upcoming is not None and not lean:
            self._begin(upcoming)
        watch.lap("encode")
        repairs: list[tuple[str, ...]] = [()] * share
        evaluations = Evaluations(0, 0)
        latents: list[Tensor] = []
        for number, stage in enumerate(stages):
            if number:
                grown = [self._darkroom.enlarge(latent_1CHW, stage.height, stage.width) for latent_1CHW in latents]
                latents = [latent_1CHW for latent_1CHW, _ in grown]
                repairs = [before + again for before, (_, again) in zip(repairs, grown, strict=True)]
                watch.lap("enlarge")
            sampled = self._pass(number, batch, latents, guidance, control=control, lean=lean)
            latents = list(sampled.latent.chunk(share))
            evaluations += Evaluations(sampled.synchronous, sampled.displaced)
            watch.lap("denoise", synchronous=sampled.synchronous, displaced=sampled.displaced)
        size = first.width, first.height
        shown = [self._darkroom.show(latent_1CHW, crop, size) for latent_1CHW in latents]
        watch.lap("decode")
        spent_s = {name: seconds / share for name, seconds in watch.seconds.items()}
        return [
            Rendered(
                pixels=picture.pixels,
                encode_s=spent_s["encode"],
                denoise_s=spent_s["denoise"],
                decode_s=spent_s["decode"] + spent_s.get("enlarge", 0.0),
                evaluations=evaluations,
                bytes_sent=(traffic.sent_bytes - sent_before) // share,
                finite=picture.finite,
                blank=picture.blank,
                stages=one.way.stages,
                canvas=one.way.canvas if one.way.canvas != size else None,
                crop=crop,
                left_out=one.left_out,
                warnings=one.way.warnings,
                repairs=repaired + picture.repairs,
            )
            for picture, one, repaired in zip(shown, batch, repairs, strict=True)
        ]

    def _planned(self, image: ImageSpec) -> Plan:
        if min(image.width, image.height) < SMALLEST_SIDE_PX:
            raise BadSize(image.width, image.height, f"both sides must have at least {SMALLEST_SIDE_PX} pixels")
        if image.steps < 1:
            raise BadImage(f"steps {image.steps}: at least 1")
        return plan(
            image.width,
            image.height,
            steps=image.steps,
            seed=image.seed,
            highres=image.highres,
            native_px=self._native_px,
        )

    def _read(self, image: ImageSpec, guidance: Guidance) -> Prompts:
        return prompts.read(
            self._model.tokenizers,
            (image.prompt, image.prompt_2),
            (image.negative_prompt, image.negative_prompt_2) if guidance.on else None,
            long=image.long_prompt,
            zeros_for_none=self._model.zeros_for_none,
        )

    def _check(self, image: ImageSpec, way: Plan, guidance: Guidance, *, lean: bool) -> None:
        """Refuse what a pass of the image could not render, equally on all ranks."""
        for stage in way.stages:
            self._model.scheduler.try_out(
                image.scheduler, image.scheduler_settings, steps=stage.steps, strength=stage.strength
            )
            sharing(
                self.mesh,
                apart=guidance.on and self.mesh.layout.cfg == 2 and not lean,
                height=stage.height // self._vae.factor,
                width=stage.width // self._vae.factor,
                unit=self._unet.unit,
                idle_ranks=self.settings.idle_ranks,
            )

    def _prepared(self, images: Sequence[ImageSpec], guidance: Guidance, *, lean: bool) -> list["_Prepared"]:
        """All that precedes the first pass; refuses before anything is computed."""
        plans = [self._planned(image) for image in images]
        texts = [self._read(image, guidance) for image in images]
        if len({text.pieces for text in texts}) > 1:
            raise BadImage("images of one batch must agree in how many pieces their prompts are read in")
        self._check(images[0], plans[0], guidance, lean=lean)
        if not self._fused.holds(images[0].loras):
            self._embeddings.forget()
            self._fused.set(images[0].loras)
        return [
            _Prepared(image, way, text.left_out, *self._embeddings.of(text))
            for image, way, text in zip(images, plans, texts, strict=True)
        ]

    def _begin(self, upcoming: ImageSpec) -> None:
        """Embed the prompts of an image ahead, if these encoders are its own."""
        guidance = Guidance(upcoming.guidance_scale, upcoming.guidance_rescale)
        # Refused when it is its turn.
        with contextlib.suppress(BadImage):
            if self._fused.holds(upcoming.loras):
                self._embeddings.begin(self._read(upcoming, guidance))

    def _pass(
        self,
        number: int,
        batch: Sequence["_Prepared"],
        latents: Sequence[Tensor],
        guidance: Guidance,
        *,
        control: Callable[[], Control],
        lean: bool,
    ) -> Sampled:
        """Denoise one pass of all images: from noise, or from latents of this pass's size."""
        mesh, unet, factor = self.mesh, self._unet, self._vae.factor
        walks, starts, positive, negative = [], [], [], []
        for place, one in enumerate(batch):
            image, stage = one.image, one.way.stages[number]
            last = stage is one.way.stages[-1]
            size = (image.height, image.width) if last else (stage.height, stage.width)
            positive.append(self._told(one.positive, image.told(size)))
            if one.negative is not None:
                negative.append(self._told(one.negative, image.told_negative(size)))
            scheduler = self._model.scheduler.make(image.scheduler, image.scheduler_settings, seed=stage.seed)
            generator = torch.Generator("cpu").manual_seed(stage.seed)
            walk = Steps(scheduler, stage.steps, generator, mesh.device, strength=stage.strength)
            unit = noise(generator, unet.unet.config.in_channels, stage.height // factor, stage.width // factor)
            walks.append(walk)
            starts.append(walk.begin(latents[place] if number else None, unit.to(mesh.device)))
        return denoise(
            unet,
            mesh,
            BatchSteps(walks),
            torch.cat(starts),
            negative=together(negative) if negative else None,
            positive=together(positive),
            guidance=guidance,
            schedule=self.settings.schedule,
            control=control,
            idle_ranks=self.settings.idle_ranks,
            lean=lean,
        )

    def _told(self, embedding: Embedding, ids: tuple[int, ...]) -> Conditions:
        dtype = self._unet.unet.dtype
        # float32 in every dtype: bfloat16 would round sizes above 2048 pixels.
        time_ids_16 = torch.tensor([ids], dtype=torch.float32, device=self.mesh.device)
        return Conditions(embedding.text.to(dtype), embedding.pooled.to(dtype), time_ids_16)

    def _now_ns(self) -> int:
        if self.mesh.device.type == "cuda":
            torch.cuda.synchronize(self.mesh.device)
        return time.monotonic_ns()


@dataclass(frozen=True)
class _Prepared:
    """One image, its passes, and its prompts embedded; `negative` is None without guidance."""

    image: ImageSpec
    way: Plan
    left_out: dict[str, str]
    positive: Embedding
    negative: Embedding | None


def _alike(images: Sequence[ImageSpec]) -> ImageSpec:
    """The first image. Refuses a batch whose images need evaluations of their own."""
    if not images:
        raise BadImage("a batch of no images")
    first = images[0]
    for image in images:
        if replace(first, **{name: getattr(image, name) for name in _OWN}) != image:
            raise BadImage("images of one batch must agree in size, steps, guidance, scheduler and LoRAs")
    return first


# What may differ among the images of a batch.
_OWN = (
    *("prompt", "prompt_2", "negative_prompt", "negative_prompt_2", "seed"),
    *("original_size", "crop", "target_size"),
    *("negative_original_size", "negative_crop", "negative_target_size"),
)

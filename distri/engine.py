"""What an entry point calls: a model loaded once on a mesh, then one image after the other."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from distri.layers.kernels.fused import FusedKernels
from distri.layers.unet import SplitUNet
from distri.layers.vae import SplitVAE
from distri.model import model as pipeline_model
from distri.model.image import Evaluations, ImageSpec, Rendered
from distri.model.model import Model
from distri.ranks.device_errors import raise_device_failures
from distri.ranks.errors import BadImage, ModelError
from distri.ranks.mesh import Mesh
from distri.ranks.patches import MOST_WORK, Patches
from distri.ranks.phase import NormMode
from distri.ranks.recorder import Replay
from distri.ranks.replay import recorder_of
from distri.ranks.spans import RenderSpan, Spans, Stopwatch
from distri.sampling.control import Control
from distri.sampling.pixels import ReplicaVAE
from distri.sampling.preparation import Preparation, guidance_of, require_alike
from distri.sampling.refiner import Refiner
from distri.sampling.rendered import Spent, rendered
from distri.sampling.sampler import SamplingOptions, denoise
from distri.sampling.schedule import Schedule
from pipeline.checkpoints.checkpoint import ModelFiles
from pipeline.checkpoints.kinds import Kind

T = TypeVar("T")


@dataclass(frozen=True)
class EngineSettings:
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
        fused: use fused kernels on a GPU, each once it has given what the plain layers give.
        replay: whether evaluations are recorded once a shape and replayed.
    """

    exact: bool = False
    warmup: int = 4
    norm_mode: NormMode = NormMode.CORRECTED
    most_work: float = MOST_WORK
    resync: float | None = None
    native_px: int | None = None
    idle_ranks: bool = False
    fused: bool = True
    replay: Replay = Replay.AUTO

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

    def __init__(
        self,
        model: Model,
        mesh: Mesh,
        settings: EngineSettings,
        spans: Spans | None = None,
        *,
        refiner: Model | None = None,
    ) -> None:
        """Split a model over the ranks.

        Args:
            model: SDXL's base model, or one made from it.
            mesh: whose replica renders.
            settings: how it renders.
            spans: where the engine notes what it does and when.
            refiner: takes over for images that say where.

        Raises:
            ModelError, Unsplittable: the parts of a model do not go together, or one is unknown to the engine.
        """
        if settings.exact:
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        pipeline_model.check(model)
        if refiner is not None:
            pipeline_model.check_refiner(refiner, model)
        self.mesh = mesh
        self.scheduler = model.scheduler  # the recipe of the model's own
        self.notes = model.notes
        self.spans = Spans() if spans is None else spans
        self.settings = settings
        self.kernels = FusedKernels(self.spans, wanted=settings.fused)

        def split(unet: Any) -> SplitUNet:
            return SplitUNet(
                unet,
                norm_mode=settings.norm_mode,
                most_work=settings.most_work,
                kernels=self.kernels,
                recorder=recorder_of(settings.replay, mesh.device),
                spans=self.spans,
            )

        self._unet = split(model.unet)
        self._refiner = None if refiner is None else Refiner(refiner, split(refiner.unet), mesh, self.spans)
        split_vae = SplitVAE(model.vae, kernels=self.kernels)
        self._vae = ReplicaVAE(split_vae, mesh)
        sample_size = model.unet.config.sample_size
        if not (settings.native_px or isinstance(sample_size, int)):
            raise ModelError(f"the UNet's sample_size is {sample_size}: set EngineSettings.native_px, 1024 for SDXL")
        self._preparation = Preparation(
            model,
            self._unet,
            mesh,
            self.spans,
            factor=split_vae.factor,
            native_px=settings.native_px or sample_size * split_vae.factor,
            idle_ranks=settings.idle_ranks,
        )

    @classmethod
    def load(
        cls,
        source: Path | ModelFiles,
        mesh: Mesh,
        *,
        dtype: torch.dtype,
        settings: EngineSettings,
        vae_dtype: torch.dtype = torch.float32,
        spans: Spans | None = None,
        refiner: ModelFiles | None = None,
    ) -> "Engine":
        """Load an SDXL model's folder or file onto the mesh's device; no communication.

        Raises:
            ModelError: it is not one.
            Unsplittable: a part of it is unknown to the engine.
        """
        model = pipeline_model.load(source, device=mesh.device, dtype=dtype, vae_dtype=vae_dtype)
        second = (
            pipeline_model.load(refiner, device=mesh.device, dtype=dtype, kind=Kind.REFINER)
            if refiner is not None
            else None
        )
        return cls(model, mesh, settings, spans, refiner=second)

    @property
    def buffer_bytes(self) -> int:
        """Held for other ranks' activations, over all shapes kept."""
        return self._unet.shapes.buffer_bytes

    def render(
        self,
        image: ImageSpec,
        *,
        control: Callable[[], Control],
        low_memory: bool = False,
        upcoming: ImageSpec | None = None,
        on_final_latent: Callable[[Tensor], None] | None = None,
    ) -> Rendered:
        """Render one image: `render_batch` of one."""
        (image_rendered,) = self.render_batch(
            [image], control=control, low_memory=low_memory, upcoming=upcoming, on_final_latent=on_final_latent
        )
        return image_rendered

    @raise_device_failures()
    @torch.inference_mode()
    def render_batch(
        self,
        images: Sequence[ImageSpec],
        *,
        control: Callable[[], Control],
        low_memory: bool = False,
        upcoming: ImageSpec | None = None,
        on_final_latent: Callable[[Tensor], None] | None = None,
    ) -> list[Rendered]:
        """Render images together; all ranks of the replica call it together, with equal arguments. Blocks.

        Each image comes out as it would alone, up to floating-point order: it has noise and scheduler of its own.

        Args:
            images: one or more that differ in prompts, seeds and what the model is told of sizes, and in nothing else.
            control: asked on the leader before every evaluation; ignored on the other ranks.
            low_memory: use as little memory as can be: see `SamplingOptions`; buffers kept for other images are freed.
            upcoming: an image that is likely to be next: its prompts are embedded while these are denoised.
            on_final_latent: called on every rank with the images' final latents, BCHW, float32, before they are
                decoded; what it raises ends the render, so it must raise on all ranks or on none.

        Returns:
            One result per image, in order.

        Raises:
            BadImage, TooManyRanks: on all ranks, before any communication; BadLora after they have agreed on it.
            Stopped, LeaderFailed: see `sampler.denoise`.
            OutOfMemory, GpuFailed: on the rank whose device it is, and maybe on no other; its process should end.
        """
        if low_memory:
            self._free_buffers()
        sent_before, watch = self.mesh.traffic.sent_bytes, Stopwatch(self.spans, self._now_ns)
        first = require_alike(images)
        if first.refiner_switch_at is not None and self._refiner is None:
            raise BadImage(f"refiner_switch_at {first.refiner_switch_at:g}: the model has no refiner")
        guidance = guidance_of(images)
        batch = self._preparation.prepare(images, guidance, low_memory=low_memory)
        if upcoming is not None and not low_memory:
            self._preparation.embed_ahead(upcoming, guidance_of([upcoming]))
        watch.lap(RenderSpan.ENCODE)
        options = SamplingOptions(self.settings.schedule, self.settings.idle_ranks, low_memory)
        repairs: list[tuple[str, ...]] = [()] * len(images)
        evaluations = Evaluations(0, 0)
        latents: list[Tensor] = []
        for number, stage in enumerate(batch[0].plan.stages):
            if number:
                size = stage.height, stage.width
                enlarged = [self._with_room(partial(self._vae.enlarge, latent_1CHW, *size)) for latent_1CHW in latents]
                latents = [latent_1CHW for latent_1CHW, _ in enlarged]
                repairs = [before + again for before, (_, again) in zip(repairs, enlarged, strict=True)]
                watch.lap(RenderSpan.ENLARGE)
            latent_BCHW, denoising = self._preparation.start_pass(number, batch, latents, guidance)
            sampled = denoise(self._unet, self.mesh, latent_BCHW, denoising, options, control=control)
            done = Evaluations(sampled.synchronous, sampled.displaced)
            if self._refiner is not None and first.refiner_switch_at is not None:
                rest = self._refiner.denoising(number, batch, guidance)
                if rest is not None:
                    sampled = denoise(self._refiner.unet, self.mesh, sampled.latent, rest, options, control=control)
                    done += Evaluations(sampled.synchronous, sampled.displaced)
            latents = list(sampled.latent.chunk(len(images)))
            evaluations += done
            watch.lap(RenderSpan.DENOISE, synchronous=done.synchronous, displaced=done.displaced)
        if on_final_latent is not None:
            on_final_latent(torch.cat(latents))
        crop, size = batch[0].plan.crop, (first.width, first.height)
        decoded = [self._with_room(partial(self._vae.decode, latent_1CHW, crop, size)) for latent_1CHW in latents]
        watch.lap(RenderSpan.DECODE)
        share = len(images)
        spent = Spent(
            evaluations,
            {name: seconds / share for name, seconds in watch.seconds.items()},
            (self.mesh.traffic.sent_bytes - sent_before) // share,
        )
        return [
            rendered(prepared, picture, repaired, spent, self._preparation.loras.warnings)
            for prepared, picture, repaired in zip(batch, decoded, repairs, strict=True)
        ]

    @torch.inference_mode()
    def decode_patch(self, latent_1CHW: Tensor) -> tuple[Tensor, Patches]:
        """This rank's patch of a final latent's picture as floats, about -1 to 1, and how the picture is split.

        What `render` decodes and rounds, for those who measure it. All ranks of the replica call it together; blocks.
        """
        return self._vae.decode_patch(latent_1CHW)

    def _with_room(self, work: Callable[[], T]) -> T:
        """Work of the VAE, which needs much memory for a moment, done again without recordings if it lacked some."""
        try:
            return work()
        except torch.OutOfMemoryError:
            # With peers it cannot be done again: some of its messages have been sent.
            unets = [self._unet, *([self._refiner.unet] if self._refiner is not None else [])]
            if self.mesh.replica.size > 1 or not sum(one.shapes.drop_recordings() for one in unets):
                raise
        return work()

    def _free_buffers(self) -> None:
        self._unet.free()
        if self._refiner is not None:
            self._refiner.unet.free()
        if self.mesh.device.type == "cuda":
            torch.cuda.empty_cache()

    def _now_ns(self) -> int:
        if self.mesh.device.type == "cuda":
            torch.cuda.synchronize(self.mesh.device)
        return time.monotonic_ns()

"""What an entry point calls: a model loaded once on a mesh, then images, one after the other or several at a time."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distri.layers.kernels.fused import FusedKernels
from distri.layers.unet import SplitUNet
from distri.layers.vae import SplitVAE
from distri.model import model as pipeline_model
from distri.model.image import ImageSpec, Rendered
from distri.model.model import Model
from distri.ranks.errors import BadImage, ModelError
from distri.ranks.kept_shapes import KeptShapes, kept_bytes_of
from distri.ranks.memory import memory_of
from distri.ranks.mesh import Mesh
from distri.ranks.patches import MOST_WORK, Patches
from distri.ranks.phase import Exchanged, NormMode
from distri.ranks.recorder import Replay
from distri.ranks.replay import recorder_of
from distri.ranks.spans import Spans
from distri.sampling.control import Control
from distri.sampling.denoising import SamplingOptions
from distri.sampling.pixels import ReplicaVAE
from distri.sampling.preparation import Preparation
from distri.sampling.refiner import Refiner
from distri.sampling.schedule import Schedule
from distri.slots.decoder import Decoder
from distri.slots.image_render import Parts
from distri.slots.renders import Renders
from distri.slots.room import Room
from pipeline.checkpoints.checkpoint import ModelFiles
from pipeline.checkpoints.kinds import Kind


@dataclass(frozen=True)
class EngineSettings:
    """How an engine renders.

    Attributes:
        exact: every evaluation synchronous, TF32 off.
        warmup: how many evaluations are synchronous before displaced ones begin, if not exact; at least 1, since the
            first has nothing stale to read. Every pass of an image warms up by itself.
        settling: how many evaluations at the beginning of a pass, the warm-up among them, displace keys and values
            alone: halos, moments and the transformer nearest the output wait. There it is decided what is where.
        norm_mode: GroupNorm in displaced evaluations.
        most_work: of a patch rank, times the mean of all, before it hands tokens on to others, where whole rows do not
            divide; at least 1, and infinity means never. Displaced, such tokens are two evaluations old.
        resync: drift of the noise prediction above which another evaluation is synchronous; None means never.
        exchange: how evaluations after the warm-up see the other ranks' activations, if not exact.
        native_px: side of the square that the model was trained on; None is what its UNet says.
        idle_ranks: render an image that has too few rows for the layout on fewer ranks, instead of refusing it.
        fused: use fused kernels on a GPU, each once it has given what the plain layers give.
        replay: whether evaluations are recorded once a shape and replayed.
    """

    exact: bool = False
    warmup: int = 1
    settling: int = 20
    norm_mode: NormMode = NormMode.CORRECTED
    most_work: float = MOST_WORK
    resync: float | None = None
    exchange: Exchanged = Exchanged.DISPLACED
    native_px: int | None = None
    idle_ranks: bool = False
    fused: bool = True
    replay: Replay = Replay.AUTO

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ValueError(f"warmup {self.warmup}: at least 1, the first evaluation has nothing stale to read")
        if self.settling < 0:
            raise ValueError(f"settling {self.settling}: a number of evaluations wanted, 0 or more")
        if not self.most_work >= 1:
            raise ValueError(f"most_work {self.most_work}: at least 1, since somebody does the mean or more")

    @property
    def schedule(self) -> Schedule:
        """Which evaluations wait."""
        return Schedule(None) if self.exact else Schedule(self.warmup, self.resync, self.settling)


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

        split_vae = SplitVAE(model.vae, kernels=self.kernels)
        vae = ReplicaVAE(split_vae, mesh, memory_bytes=memory_of(mesh.device, mesh.layout.ranks))
        decoder = Decoder(vae, mesh, self.spans)
        # One pool of recordings, and one limit, for all networks.
        recorder = recorder_of(settings.replay, mesh.device, alone=decoder.wait)
        shapes = KeptShapes(kept_bytes_of(mesh.device), recorder)

        def split(unet: Any) -> SplitUNet:
            return SplitUNet(
                unet,
                norm_mode=settings.norm_mode,
                most_work=settings.most_work,
                kernels=self.kernels,
                exchange=settings.exchange,
                shapes=shapes,
                spans=self.spans,
            )

        unet = split(model.unet)
        sample_size = model.unet.config.sample_size
        if not (settings.native_px or isinstance(sample_size, int)):
            raise ModelError(f"the UNet's sample_size is {sample_size}: set EngineSettings.native_px, 1024 for SDXL")
        self.native_px = settings.native_px or sample_size * split_vae.factor
        preparation = Preparation(
            model,
            unet,
            mesh,
            self.spans,
            factor=split_vae.factor,
            native_px=self.native_px,
            idle_ranks=settings.idle_ranks,
        )
        own_refiner = None if refiner is None else Refiner(refiner, split(refiner.unet), mesh, self.spans)
        self._parts = Parts(
            *(mesh, preparation, unet, own_refiner, vae, self.spans, self._now_ns),
            decoder=decoder,
            room=Room(
                mesh,
                held=1 if recorder is None else 2,
                buffers_bytes=lambda: shapes.buffer_bytes,
                # Elsewhere they are not kept in the memory that is measured.
                spare_bytes=lambda: shapes.spare_bytes if mesh.device.type == "cuda" else 0,
            ),
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
        return self._parts.unet.shapes.buffer_bytes

    def renders(
        self,
        *,
        control: Callable[[], Control],
        slots: int = 1,
        low_memory: bool = False,
        on_final_latent: Callable[[Tensor], None] | None = None,
    ) -> Renders:
        """Images that are rendered at the same time, of which there are none yet.

        Args:
            control: asked on the leader before every evaluation; ignored on the other ranks.
            slots: how many are evaluated together at most.
            low_memory: use as little memory as can be: see `SamplingOptions`; buffers kept for other images are freed,
                and the VAE computes large pictures in strips.
            on_final_latent: called on every rank with each image's final latent, 1CHW, float32, before it is decoded;
                what it raises ends the render, so it must raise on all ranks or on none.
        """
        self._parts.vae.save_memory(wanted=low_memory)
        options = SamplingOptions(self.settings.schedule, self.settings.idle_ranks, low_memory)
        return Renders(self._parts, options, slots=slots, control=control, on_final_latent=on_final_latent)

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

        Each image comes out as it would alone, up to floating-point order.

        Args:
            images: one or more of one size and with the same LoRAs.
            control, low_memory, on_final_latent: see `renders`.
            upcoming: an image that is likely to be next: its prompts are embedded while these are denoised.

        Returns:
            One result per image, in order.

        Raises:
            BadImage, TooManyRanks: on all ranks, before it is evaluated; BadLora after they have agreed on it.
            Stopped, LeaderFailed: see `Table.evaluate`.
            OutOfMemory, GpuFailed: on the rank whose device it is, and maybe on no other; its process should end.
        """
        if not images:
            raise BadImage("a batch of no images")
        renders = self.renders(
            control=control, slots=len(images), low_memory=low_memory, on_final_latent=on_final_latent
        )
        finished: dict[str, Rendered] = {}
        for number, image in enumerate(images):
            while renders.full:  # until it is known that memory holds more, or one ends
                finished |= {one.name: one.rendered for one in renders.advance(1)}
            renders.join(image, str(number))
        if upcoming is not None:
            renders.embed_ahead(upcoming)
        while renders.count:
            finished |= {one.name: one.rendered for one in renders.advance()}
        return [finished[str(number)] for number in range(len(images))]

    @torch.inference_mode()
    def decode_patch(self, latent_1CHW: Tensor) -> tuple[Tensor, Patches]:
        """This rank's patch of a final latent's picture as floats, about -1 to 1, and how the picture is split.

        What `render` decodes and rounds, for those who measure it. All ranks of the replica call it together; blocks.
        """
        return self._parts.vae.decode_patch(latent_1CHW)

    def _now_ns(self) -> int:
        if self.mesh.device.type == "cuda":
            torch.cuda.current_stream(self.mesh.device).synchronize()  # a decode on another stream goes on
        return time.monotonic_ns()

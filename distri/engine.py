"""What an entry point calls: a model loaded once on a mesh, then one image after the other."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distri import model as pipeline_model
from distri import wire
from distri.errors import BadImage, BadSize
from distri.mesh import Axis, Mesh
from distri.model import Model
from distri.patches import largest_degree
from distri.phase import NormMode
from distri.prompts import Embedding, encode, refuse_long
from distri.sampler import Control, Guidance, Schedule, denoise, noise, sharing_axis
from distri.schedulers import BatchSteps, Steps
from distri.unet import Conditions, SplitUNet, together
from distri.vae import SplitVAE

BLANK_SPREAD = 2  # levels of 255: an image whose pixels differ by no more shows nothing


@dataclass(frozen=True)
class ImageSpec:
    """One image to render.

    Attributes:
        prompt: text; at most 77 tokens for CLIP.
        negative_prompt: None is no negative prompt (zeroed embeddings), "" is the encoded empty text.
        seed: of the image's own generator.
        width, height: pixels, multiples of 8.
        steps: of the scheduler.
        guidance_scale: at most 1 switches guidance off.
        guidance_rescale: 0 to 1.
        scheduler: a diffusers class name; None is the model's own.
        original_size, target_size: height and width that the model is told; None is the requested size.
        crop: top and left that the model is told.
    """

    prompt: str
    negative_prompt: str | None
    seed: int
    width: int
    height: int
    steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    scheduler: str | None = None
    original_size: tuple[int, int] | None = None
    crop: tuple[int, int] = (0, 0)
    target_size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Settings:
    """How an engine renders.

    Attributes:
        exact: every evaluation synchronous, TF32 off.
        warmup: how many evaluations are synchronous before displaced ones begin, if not exact; at least 1, since the
            first has nothing stale to read.
        norm_mode: GroupNorm in displaced evaluations.
        resync: drift of the noise prediction above which another evaluation is synchronous; None means never.
    """

    exact: bool = False
    warmup: int = 4
    norm_mode: NormMode = NormMode.CORRECTED
    resync: float | None = None

    def __post_init__(self) -> None:
        if self.warmup < 1:
            raise ValueError(f"warmup {self.warmup}: at least 1, the first evaluation has nothing stale to read")

    @property
    def schedule(self) -> Schedule:
        """Which evaluations wait."""
        return Schedule(None) if self.exact else Schedule(self.warmup, self.resync)


@dataclass(frozen=True)
class Evaluations:
    """How many evaluations of the UNet were of which phase."""

    synchronous: int
    displaced: int


@dataclass(frozen=True)
class Rendered:
    """One image, and what it took on this rank.

    Attributes:
        pixels: uint8, height x width x 3, on the leader of the replica; None elsewhere.
        encode_s, denoise_s, decode_s: wall time in seconds; in a batch, an equal share of the batch's.
        evaluations: of the UNet.
        bytes_sent: by this rank; in a batch, an equal share of the batch's.
        finite: whether latent and decoded image are; equal on all ranks of the replica.
        blank: whether all pixels are about equal; equal on all ranks of the replica.
    """

    pixels: npt.NDArray[np.uint8] | None
    encode_s: float
    denoise_s: float
    decode_s: float
    evaluations: Evaluations
    bytes_sent: int
    finite: bool
    blank: bool


class Engine:
    """A model on a mesh. Made and used by all ranks of a replica together, in the same order."""

    def __init__(self, model: Model, mesh: Mesh, settings: Settings) -> None:
        self.mesh = mesh
        self.settings = settings
        self._model = model
        self._unet = SplitUNet(model.unet, norm_mode=settings.norm_mode)
        self._vae = SplitVAE(model.vae)

    @classmethod
    def load(cls, model_dir: Path, mesh: Mesh, *, dtype: torch.dtype, settings: Settings) -> "Engine":
        """Load an SDXL pipeline directory onto the mesh's device; no communication.

        Raises:
            ModelError: it is not one.
            Unsplittable: a part of it is unknown to the engine.
        """
        if settings.exact:
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        return cls(pipeline_model.load(model_dir, device=mesh.device, dtype=dtype), mesh, settings)

    @property
    def buffer_bytes(self) -> int:
        """Held for other ranks' activations, over all shapes kept."""
        return self._unet.exchanges.buffer_bytes

    def render(self, image: ImageSpec, *, control: Callable[[], Control]) -> Rendered:
        """Render one image: `render_batch` of one."""
        (rendered,) = self.render_batch([image], control=control)
        return rendered

    @torch.inference_mode()
    def render_batch(self, images: Sequence[ImageSpec], *, control: Callable[[], Control]) -> list[Rendered]:
        """Render images together; all ranks of the replica call it together, with equal arguments. Blocks.

        Each image comes out as it would alone, up to floating-point order: it has noise and scheduler of its own.

        Args:
            images: one or more that differ in prompts, seeds and what the model is told of sizes, and in nothing else.
            control: asked on the leader before every evaluation; ignored on the other ranks.

        Returns:
            One result per image, in order.

        Raises:
            BadImage, TooManyRanks: on all ranks, before any communication.
            Stopped, LeaderFailed: see `sampler.denoise`.
        """
        mesh, unet, first = self.mesh, self._unet, _alike(images)
        sent_before, began = mesh.traffic.sent_bytes, time.perf_counter()
        guidance = Guidance(first.guidance_scale, first.guidance_rescale)
        for image in images:
            height, width = self._check(image, guidance)
        schedulers = [self._model.scheduler.make(image.scheduler, seed=image.seed) for image in images]
        told = [self._conditions(image, guidance) for image in images]
        positive = together([positive for _, positive in told])
        negative = together([negative for negative, _ in told if negative is not None]) if guidance.on else None
        encoded = self._clock()

        walks, latents = [], []
        for image, scheduler in zip(images, schedulers, strict=True):
            generator = torch.Generator("cpu").manual_seed(image.seed)
            walks.append(Steps(scheduler, image.steps, generator, mesh.device))
            unit = noise(generator, unet.unet.config.in_channels, height, width).to(mesh.device)
            latents.append(unit * walks[-1].first_sigma)
        sampled = denoise(
            unet,
            mesh,
            BatchSteps(walks),
            torch.cat(latents),
            negative=negative,
            positive=positive,
            guidance=guidance,
            schedule=self.settings.schedule,
            control=control,
        )
        denoised = self._clock()

        share = len(images)
        decoded = [self._decode(latent_1CHW) for latent_1CHW in sampled.latent.chunk(share)]
        finished = self._clock()
        return [
            Rendered(
                pixels=pixels,
                encode_s=(encoded - began) / share,
                denoise_s=(denoised - encoded) / share,
                decode_s=(finished - denoised) / share,
                evaluations=Evaluations(sampled.synchronous, sampled.displaced),
                bytes_sent=(mesh.traffic.sent_bytes - sent_before) // share,
                finite=finite,
                blank=blank,
            )
            for pixels, finite, blank in decoded
        ]

    def largest_patch_degree(self, width: int, height: int) -> int:
        """The most patch ranks that an image of this size in pixels can be shared by."""
        factor = self._vae.factor
        return largest_degree(height // factor, width // factor, unit=self._unet.unit)

    def _check(self, image: ImageSpec, guidance: Guidance) -> tuple[int, int]:
        """Height and width of the latent. Refuses what cannot be rendered, equally on all ranks."""
        factor = self._vae.factor
        if image.width < factor or image.height < factor or image.width % factor or image.height % factor:
            raise BadSize(image.width, image.height)
        if image.steps < 1:
            raise BadImage(f"steps {image.steps}: at least 1")
        refuse_long(self._model.tokenizers, image.prompt, field="prompt")
        if guidance.on and image.negative_prompt is not None:
            refuse_long(self._model.tokenizers, image.negative_prompt, field="negative_prompt")
        height, width = image.height // factor, image.width // factor
        sharing_axis(self.mesh, guided=guidance.on, height=height, width=width, unit=self._unet.unit)
        return height, width

    def _conditions(self, image: ImageSpec, guidance: Guidance) -> tuple[Conditions | None, Conditions]:
        positive = self._embedded(image.prompt)
        conditions = self._told(positive, image)
        if not guidance.on:
            return None, conditions
        if image.negative_prompt is None and self._model.zeros_for_none:
            return self._told(positive.zeroed(), image), conditions
        return self._told(self._embedded(image.negative_prompt or ""), image), conditions

    def _embedded(self, text: str) -> Embedding:
        return encode(self._model.tokenizers, self._model.text_encoders, text, device=self.mesh.device)

    def _told(self, embedding: Embedding, image: ImageSpec) -> Conditions:
        requested = (image.height, image.width)
        ids = (*(image.original_size or requested), *image.crop, *(image.target_size or requested))
        dtype = self._unet.unet.dtype
        # float32 in every dtype: bfloat16 would round sizes above 2048 pixels.
        time_ids_16 = torch.tensor([ids], dtype=torch.float32, device=self.mesh.device)
        return Conditions(embedding.text.to(dtype), embedding.pooled.to(dtype), time_ids_16)

    def _decode(self, latent_1CHW: Tensor) -> tuple[npt.NDArray[np.uint8] | None, bool, bool]:
        """Pixels on the leader; finite and blank on all ranks of the replica. Blocks."""
        axis = self._decoding_axis(latent_1CHW)
        patch_13HW, patches = self._vae.decode(latent_1CHW, axis)
        levels = ((patch_13HW / 2 + 0.5).clamp(0, 1) * 255).nan_to_num().round().to(torch.uint8)
        finite = torch.tensor([bool(torch.isfinite(patch_13HW).all())], dtype=torch.uint8, device=self.mesh.device)
        parts = wire.collect(axis, levels, [(1, 3, *patches.size(place)) for place in range(axis.size)])
        finites = wire.collect(axis, finite, [(1,)] * axis.size)
        pixels = None
        verdict = [False, False]
        if self.mesh.is_leader:
            whole_HW3 = torch.cat(parts, dim=patches.dim)[0].permute(1, 2, 0).cpu().contiguous().numpy()
            spread = int(whole_HW3.max()) - int(whole_HW3.min())
            pixels = whole_HW3
            verdict = [all(bool(flag.item()) for flag in finites), spread <= BLANK_SPREAD]
        finite_everywhere, blank = self.mesh.broadcast_object(verdict)
        return pixels, finite_everywhere, blank

    def _decoding_axis(self, latent_1CHW: Tensor) -> Axis:
        """All ranks of the replica where the latent has rows for them, else one half's, else each rank by itself."""
        units = largest_degree(*latent_1CHW.shape[2:], unit=self._vae.unit)
        fitting = [axis for axis in (self.mesh.replica, self.mesh.patch) if axis.size <= units]
        return fitting[0] if fitting else self.mesh.alone

    def _clock(self) -> float:
        if self.mesh.device.type == "cuda":
            torch.cuda.synchronize(self.mesh.device)
        return time.perf_counter()


def _alike(images: Sequence[ImageSpec]) -> ImageSpec:
    """The first image. Refuses a batch whose images need evaluations of their own."""
    if not images:
        raise BadImage("a batch of no images")
    first = images[0]
    for image in images:
        own = {"prompt", "negative_prompt", "seed", "original_size", "crop", "target_size"}
        if replace(first, **{name: getattr(image, name) for name in own}) != image:
            raise BadImage("images of one batch must agree in size, steps, guidance and scheduler")
    return first

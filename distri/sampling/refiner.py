"""SDXL's refiner: a second network that denoises the last share of the schedule, from the latent where the base ends.

As diffusers' `denoising_end` and `denoising_start` divide it: by the noise level, which is a share of the timesteps
that the model was trained with. The refiner has one text encoder, reads what the second of the base model reads, and is
conditioned on an aesthetic score instead of a target size. LoRAs are the base model's.
"""

from dataclasses import replace

import torch

from distri.layers.conditions import Conditions
from distri.layers.unet import SplitUNet
from distri.model.model import Model
from distri.model.passes.stages import sub_seed
from distri.model.sampling.schedulers import Steps
from distri.model.text.embeddings import EmbeddedSide, Embedding, Embeddings
from distri.model.text.prompts import Prompts, Side, Text, Wording
from distri.model.text.timeline import Timeline
from distri.ranks.mesh import Mesh
from distri.ranks.spans import Spans
from distri.sampling.conditions import PassConditions
from distri.sampling.denoising import Denoising, Kept
from distri.sampling.prepared import PreparedImage

# What diffusers conditions the two halves on by default.
AESTHETIC_SCORE, NEGATIVE_AESTHETIC_SCORE = 6.0, 2.5
_NUMBER = -1  # of the refiner's noise among the passes' seeds


class Refiner:
    """A refiner on a mesh. All ranks of a replica call it together, with equal arguments.

    Args:
        model: the refiner's; its one text encoder is SDXL's second.
        unet: the model's, split.
        mesh: whose replica renders.
        spans: where embedding is noted.
    """

    def __init__(self, model: Model, unet: SplitUNet, mesh: Mesh, spans: Spans) -> None:
        self.unet = unet
        self._model, self._mesh = model, mesh
        self._embeddings = Embeddings(model, spans)

    def denoising(
        self, number: int, prepared: PreparedImage, *, window: int | None, kept: Kept | None
    ) -> Denoising | None:
        """What is left of pass `number` for the refiner; None if its share holds no timestep.

        Args:
            number: of the pass.
            prepared: whose it is.
            window: side in latent elements of the pass's windows; None is the whole.
            kept: what stays of a picture in it.
        """
        image, stage = prepared.image, prepared.plan.stages[number]
        last = stage is prepared.plan.stages[-1]
        size = (image.height, image.width) if last else (stage.height, stage.width)
        walk = Steps(
            self._model.scheduler.make(image.scheduler, image.scheduler_settings, seed=stage.seed),
            stage.steps,
            torch.Generator("cpu").manual_seed(sub_seed(stage.seed, _NUMBER)),
            self._mesh.device,
            strength=stage.strength,
            schedule=image.schedule,
            switch_at=image.refiner_switch_at,
            refines=True,
        )
        if not len(walk.timesteps):
            return None
        own = self._embeddings.of(_of_second_encoder(prepared.texts), image.clip_skip)

        def conditions(side: EmbeddedSide, sizes: tuple[float, ...]) -> Timeline[Conditions]:
            return self._conditions((side.later if number else side.first).after(walk.steps_before), sizes)

        original = image.original_size or size
        # Diffusers' refiner takes the negative half's own crop, and its size if there is one.
        negative_sizes = (*(image.negative_original_size or original), *image.negative_crop, NEGATIVE_AESTHETIC_SCORE)
        guidance = prepared.guidance.at_scale(stage.guidance_scale)
        negative = own.negative if guidance.on else None
        return Denoising(
            walk,
            PassConditions(
                None if negative is None else conditions(negative, negative_sizes),
                tuple(conditions(side, (*original, *image.crop, AESTHETIC_SCORE)) for side in own.positives),
                tuple(side.weight for side in own.positives),
            ),
            guidance,
            window,
            kept,
        )

    def _conditions(self, embeddings: Timeline[Embedding], sizes: tuple[float, ...]) -> Timeline[Conditions]:
        dtype = self.unet.unet.dtype
        sizes_15 = torch.tensor([sizes], dtype=torch.float32, device=self._mesh.device)
        return embeddings.map(lambda one: Conditions(one.text.to(dtype), one.pooled.to(dtype), sizes_15))


def _of_second_encoder(prompts: Prompts) -> Prompts:
    """What the second encoder reads of an image's prompts; what it does not read is the empty text, never zeros."""

    def second(wording: Wording) -> Wording:
        text = wording.texts[-1]
        return Wording((Text(((),)) if text is None else text,))

    def of(side: Side) -> Side:
        return replace(side, first=side.first.map(second), later=side.later.map(second))

    negative = None if prompts.negative is None else of(prompts.negative)
    return replace(prompts, positives=tuple(map(of, prompts.positives)), negative=negative)

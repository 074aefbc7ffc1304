"""An image that is ready to be denoised, and the picture that a pass of it begins with."""

from dataclasses import dataclass

from torch import Tensor

from distri.model.image import ImageSpec
from distri.model.passes.stages import RenderPlan, Stage
from distri.model.reference.references import ReadReference
from distri.model.text.embeddings import EmbeddedPrompts
from distri.model.text.prompts import Prompts
from distri.sampling.guidance import Guidance
from distri.sampling.scene import Scene


@dataclass(frozen=True)
class PreparedImage:
    """One image, its guidance and passes, and its prompts read and embedded.

    `scene` is the picture of which a part is painted anew, if one is; `references` are pictures that it shall resemble.
    """

    image: ImageSpec
    scene: Scene | None
    guidance: Guidance
    plan: RenderPlan
    texts: Prompts
    prompts: EmbeddedPrompts
    references: tuple[ReadReference, ...]
    warnings: tuple[str, ...]

    def place(self, number: int) -> tuple[tuple[int, int], Stage, tuple[int, int]]:
        """Of what is rendered, in a pass: its width and height, the pass, and its left and top there."""
        stage = self.plan.stages[number]
        last = number == len(self.plan.stages) - 1
        return ((self.image.width, self.image.height), stage, self.plan.crop) if last else (stage.size, stage, (0, 0))


@dataclass(frozen=True)
class EncodedPicture:
    """What an image begins with, in a pass's size: its latent, 1CHW, and that without what is masked, if it is read."""

    latent: Tensor
    masked: Tensor | None

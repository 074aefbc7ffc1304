"""Classifier-free guidance: how the two halves of a noise prediction become one, and at which steps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from distri.model.image import ImageSpec
from distri.model.text.weighted_prompt import WeightedPrompt
from distri.ranks.errors import BadImage

ALWAYS = (0.0, 1.0)


@dataclass(frozen=True)
class Guidance:
    """How both halves of classifier-free guidance are combined.

    Attributes:
        scale: of the difference between the halves; at most 1 means that the negative half is not evaluated.
        rescale: share of the guided prediction that is brought back to the deviation of the prompt's own prediction,
            over the whole image (Lin et al. 2023, section 3.4).
        composed: whether the prompt's prediction is itself put together from several and the negative half.
        interval: the shares of the schedule between which it guides (Kynkäänniemi et al. 2024, by steps instead of
            noise levels): step k of n from 0 is guided if k / n is at least the first and below the second.
    """

    scale: float
    rescale: float = 0.0
    composed: bool = False
    interval: tuple[float, float] = ALWAYS

    @property
    def on(self) -> bool:
        """Whether any step may be guided."""
        return self.scale > 1.0 or self.composed

    def on_at(self, share: float) -> bool:
        """Whether the step at which this share of the schedule is over is guided."""
        first, end = self.interval
        return self.on and first <= share < end

    def at_scale(self, scale: float | None) -> "Guidance":
        """The same with another scale, if there is one."""
        return self if scale is None else replace(self, scale=scale)

    def combined(self, negative: Tensor, positive: Tensor) -> Tensor:
        """The guided noise prediction of the whole image."""
        guided = negative + max(1.0, self.scale) * (positive - negative)
        if self.rescale <= 0.0:
            return guided
        axes = tuple(range(1, guided.ndim))
        matched = guided * (positive.std(dim=axes, keepdim=True) / guided.std(dim=axes, keepdim=True))
        return self.rescale * matched + (1 - self.rescale) * guided


def compose(negative: Tensor, positives: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The prediction of prompts whose guidance is added up, each with its weight (Liu et al. 2022, section 4).

    Args:
        negative: 1CHW, what all of them are guided away from.
        positives: of the prompts, likewise.
        weights: of the prompts; negative ones guide away.
    """
    composed = negative
    for positive, weight in zip(positives, weights, strict=True):
        composed = composed + weight * (positive - negative)
    return composed


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

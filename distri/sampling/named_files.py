"""The files of textual inversions that an image names: by its prompts, and those of its LoRAs, which may bring some."""

from distri.model.image import ImageSpec
from distri.model.text.inversions import Source, source_of
from distri.model.text.weighted_prompt import WeightedPrompt


def weighted_prompts(image: ImageSpec) -> list[WeightedPrompt]:
    """Its prompts that are no literal texts."""
    fields = (image.prompt, image.prompt_2, image.negative_prompt, image.negative_prompt_2)
    return [prompt for prompt in fields if isinstance(prompt, WeightedPrompt)]


def sources(image: ImageSpec) -> tuple[list[Source], list[Source]]:
    """The files that its prompts name, and those of its LoRAs."""
    weighted = weighted_prompts(image)
    bundles = [Source(lora.path, lora.sha256) for lora in image.loras] if weighted else []
    named = [source_of(inversion) for prompt in weighted for inversion in prompt.inversions()]
    return [source for source in named if source not in bundles], bundles

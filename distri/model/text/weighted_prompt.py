"""A prompt that is more than a literal text: weights, chunks, schedules, sums. Plain data, without torch.

A parser of some syntax makes it, the engine reads it; it says nothing of how people write it. From the outside in:

    WeightedPrompt                   how its weights are applied
    `- composables                   prompts whose guidance is added up: A1111's AND; mostly one
       `- periods, later             what holds until which step: A1111's schedules and alternation; mostly one
          `- parts                   what is read in chunks of its own, one after the other: BREAK, compel's .and()
             `- Part | Blend         a blend is a mean of parts' embeddings: compel's .blend()
                `- spans             Span: text of one weight, Inversion: vectors of a textual inversion
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path


class Weighting(Enum):
    """Whose rules apply: how weights act on embeddings, where long texts are cut, and what is pooled."""

    A1111 = "a1111"  # AUTOMATIC1111's web UI: modules/sd_hijack_clip.py, sd_emphasis.py ("Original")
    COMFY = "comfy"  # ComfyUI: comfy/sd1_clip.py
    COMPEL = "compel"  # compel 2: compel/embeddings_provider.py, as CompelForSDXL sets it up


@dataclass(frozen=True)
class Span:
    """Text without any syntax left in it, spaces at its ends included, and its weight, brackets multiplied in."""

    text: str
    weight: float = 1.0


@dataclass(frozen=True)
class Inversion:
    """The vectors of a textual inversion, in the place of tokens.

    Attributes:
        path: a safetensors file, of embeddings or of a LoRA that brings them along (`bundle_emb`).
        sha256: of the file, in hexadecimal, if that is to be checked.
        name: as the prompt calls it; a file of several embeddings is asked for this one.
        weight: as a span's.
    """

    path: Path
    sha256: str | None = None
    name: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Part:
    """What is read in chunks of its own.

    Attributes:
        spans: in the order of the text.
        weight: of the part among those of a blend, or of compel's `.and()`; 1 elsewhere.
    """

    spans: tuple[Span | Inversion, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class Blend:
    """The weighted sum of parts' embeddings. compel alone.

    Attributes:
        parts: with their weights.
        normalize: whether the weights are divided by their sum.
        weight: of the blend in compel's `.and()`.
    """

    parts: tuple[Part, ...]
    normalize: bool = True
    weight: float = 1.0


@dataclass(frozen=True)
class Period:
    """What a prompt says for some steps of a pass.

    Attributes:
        parts: one after the other; a text without BREAK is one.
        until: the first step that it does not hold for any more, counted from 0 at the beginning of the pass, in steps
            of the scheduler (one that evaluates twice a step counts one); None, for the last one, is the pass's end.
            A1111's code asks `step <= end_at_step` of a step that counts from 0: there a text holds one step longer
            than its pages say, and `until` is its end_at_step + 1.
    """

    parts: tuple[Part | Blend, ...]
    until: int | None = None


@dataclass(frozen=True)
class Composable:
    """One of the prompts whose guidance is added up (Liu et al. 2022, Composable Diffusion).

    Attributes:
        periods: in their order, for the first pass.
        weight: of its guidance; it may be negative.
        later: for the passes that refine, whose steps are counted anew; they walk `int(steps * strength)` of their
            steps, at least one. None is as in the first.
    """

    periods: tuple[Period, ...]
    weight: float = 1.0
    later: tuple[Period, ...] | None = None


@dataclass(frozen=True)
class WeightedPrompt:
    """A prompt with weights.

    Attributes:
        weighting: whose rules apply.
        composables: at least one; exactly one in a negative prompt, and in that of the second encoder as many as in
            that of the first.
        written: the prompt as it was written, which compel pools.
    """

    weighting: Weighting
    composables: tuple[Composable, ...]
    written: str = ""

    def inversions(self) -> Iterator[Inversion]:
        """All that it names, in order, repetitions included."""
        for composable in self.composables:
            for period in (*composable.periods, *(composable.later or ())):
                for part in period.parts:
                    for one in part.parts if isinstance(part, Blend) else (part,):
                        yield from (span for span in one.spans if isinstance(span, Inversion))


Prompt = str | WeightedPrompt  # a plain text is literal


def weighted(weighting: Weighting, *spans: Span | Inversion | str) -> WeightedPrompt:
    """A prompt of one part that holds for all steps; a plain text is a span of weight 1."""
    found = tuple(Span(span) if isinstance(span, str) else span for span in spans)
    written = "".join(span.text if isinstance(span, Span) else span.name for span in found)
    return WeightedPrompt(weighting, (Composable((Period((Part(found),)),)),), written)

"""What would fail in the pod, found where a row is validated: texts too long, steps too many, sizes that no pod holds.

Tokens are counted by CLIP's vocabulary, which every SDXL model has; where the deployment does not say that a model has
it, what is found is a warning. The pod checks all of it again, by the model that it has loaded.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.checkpoints.clip import CONTEXT_TOKENS, MARKS, count_tokens
from pipeline.deployment.adapter_memory import adapter_pixels
from pipeline.deployment.announcement import Deployment
from pipeline.errors import RowWarning
from pipeline.picture import LongPrompt, Syntax
from pipeline.promptset.fields.row import ResolvedRow
from pipeline.promptset.names.samplers import shown_name
from pipeline.promptset.syntax import reading
from pipeline.promptset.syntax.inversions import NO_INVERSIONS
from pipeline.promptset.syntax.parsed import BadSyntax, Blend, Span

_SHORT_BYTES = CONTEXT_TOKENS - MARKS  # a token has one at least
_POSITIVE = ("prompt", "prompt_2")
_ALL = (*_POSITIVE, "negative_prompt", "negative_prompt_2")

# From so many steps on a sampler fails with this spacing of SDXL's 1,000 timesteps; a test walks them in diffusers.
_SOLVERS = ("DPMSolverMultistepScheduler", "DEISMultistepScheduler", "UniPCMultistepScheduler", "SASolverScheduler")
TOO_MANY_STEPS: Mapping[str, Mapping[str, int]] = {
    "leading": dict.fromkeys(_SOLVERS, 999) | dict.fromkeys(("DDIMScheduler", "DDPMScheduler", "PNDMScheduler"), 1000),
    "linspace": dict.fromkeys(_SOLVERS, 1000),
}
_ERROR = LongPrompt.ERROR
SDXLS_SPACING = "leading"  # of a model's own scheduler; few differ


def check_feasible(row: ResolvedRow, deployment: Deployment, line: int) -> RowWarning | None:
    """What may fail in the pod, where it is not known whether it will.

    Raises ValueError with (field, message) for what no pod of this deployment can render.
    """
    if (most := deployment.megapixels_in_memory) is not None:
        _check_memory(row, most, most / deployment.one_gpu_megapixels)
    if row.steps >= _MANY_STEPS and (warning := _too_many_steps(row, line)) is not None:
        return warning
    if row.long_prompt is not _ERROR:
        return None
    known = deployment.models[row.model].clip_vocabulary
    if known is False or (found := _too_long(row)) is None:
        return None
    field, message = found
    if known:
        raise ValueError(field, message)
    return RowWarning(line, field, f"{message}. It is not known whether the model has CLIP's vocabulary")


def _longest_part(text: str, syntax: Syntax, steps: int, *, negative: bool) -> int:
    """Tokens of the longest text that is encoded at once, without its syntax; 0 where only the pod knows."""
    try:
        read = reading.read(text, syntax, steps, negative=negative, inversions=NO_INVERSIONS)
    except BadSyntax:  # it names embeddings
        return 0
    parts = [part for one in read for condition in one.schedule for part in condition.parts]
    plain = [one for part in parts for one in (part.parts if isinstance(part, Blend) else (part,))]
    return max(
        sum(count_tokens(span.text) - MARKS for span in part.spans if isinstance(span, Span)) + MARKS for part in plain
    )


_MANY_STEPS = min(least for table in TOO_MANY_STEPS.values() for least in table.values())


def _check_memory(row: ResolvedRow, most: float, gpus: float) -> None:
    """Raise ValueError with (field, message) if a replica of so many GPUs does not hold a row's picture."""
    taken = adapter_pixels(row) * gpus / 1e6
    if row.width * row.height <= (most - taken) * 1e6:
        return
    beside = f", {taken:.1f} of them less with its control networks and IP-Adapters" if taken else ""
    raise ValueError(
        "width",
        f"{row.width}x{row.height} is {row.width * row.height / 1e6:.1f} megapixels; the GPUs of the deployment's "
        f"pods hold up to {most:g} (TESSERA_ONE_GPU_MEGAPIXELS each){beside}. A smaller size wanted, or pods of more "
        "GPUs",
    )


def _too_many_steps(row: ResolvedRow, line: int) -> RowWarning | None:
    if row.scheduler is None:
        return None
    named = row.scheduler.settings.get("timestep_spacing")
    least = TOO_MANY_STEPS.get(str(named or SDXLS_SPACING), {}).get(row.scheduler.name)
    if least is None or row.steps < least:
        return None
    message = f"{row.steps} found; {shown_name(row.scheduler)} fails from {least} on; fewer wanted, or another sampler"
    if named is not None:
        raise ValueError("steps", message)
    return RowWarning(line, "steps", f"{message}, where the model's timesteps are spaced as SDXL's are")


def _too_long(row: ResolvedRow) -> tuple[str, str] | None:
    """The first text that the pod would refuse, and what to do."""
    texts = row.__dict__  # a million rows are asked
    for field in _ALL if row.guidance_scale > 1 else _POSITIVE:
        text = texts[field]
        # A character has four bytes at most.
        if not text or len(text) * (1 if text.isascii() else 4) <= _SHORT_BYTES:
            continue
        tokens = count_tokens(text)
        if tokens > CONTEXT_TOKENS and row.syntax is not None:
            tokens = _longest_part(text, row.syntax, row.steps, negative=field not in _POSITIVE)
        if tokens > CONTEXT_TOKENS:
            return field, (
                f"{tokens} tokens found; the text encoders read {CONTEXT_TOKENS}, start and end included. Shorten it, "
                "or set long_prompt to chunk (read in pieces) or truncate (cut off)"
            )
    return None

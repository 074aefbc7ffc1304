"""The `parameters` of an image, as A1111's web UI writes them and its kin, galleries and Civitai read them.

The form is that of `create_infotext` in `modules/processing.py` of AUTOMATIC1111/stable-diffusion-webui. A web UI that
reads a text of ours back means the same by it: words that only look like syntax are escaped, a picture of two passes
has the size of its first one and `Hires` settings, and hashes have the lengths that Civitai looks them up by.
"""

from __future__ import annotations

import hashlib
import json
import re

from pipeline.deployment.allow_lists import Names
from pipeline.input_picture import AdapterReference, Control, Fit, Preprocess
from pipeline.loras.blocks import as_list
from pipeline.picture import WHOLE_SCHEDULE, HighresMode, Lora, Scheduler, Syntax
from pipeline.promptset.names.samplers import shown_name
from pipeline.promptset.syntax import reading
from pipeline.promptset.syntax.escape import as_a1111, escape
from pipeline.promptset.syntax.inversions import Inversions
from pipeline.promptset.syntax.parsed import BadSyntax
from pipeline.records.provenance import Provenance
from pipeline.records.results import ImageResult

AUTOV2, AUTOV3 = 10, 12  # hexadecimal digits: of a file's SHA-256, and of that of its tensors without the header

# Spacing of timesteps by the names of A1111 1.10, whose functions give the same timesteps.
_SPACINGS = {"linspace": "Uniform", "leading": "DDIM", "trailing": "SGM Uniform"}
_SIGMAS = {
    "use_karras_sigmas": "Karras",
    "use_exponential_sigmas": "Exponential",
    "use_beta_sigmas": "Beta",
}
# As sd-webui-controlnet calls what is made of a picture, and how it comes to a size.
_MODULES = {
    Preprocess.NONE: "none",
    Preprocess.CANNY: "canny",
    Preprocess.GREY: "recolor_luminance",
    Preprocess.BLUR: "blur_gaussian",
    Preprocess.TILE: "tile_resample",
}
_RESIZES = {Fit.FILL: "Crop and Resize", Fit.FIT: "Resize and Fill", Fit.STRETCH: "Just Resize"}
# And what a picture is to a ControlNet-Union, by its number.
_UNION_TYPES = (
    *("OpenPose", "Depth", "Soft Edge", "Hard Edge"),
    *("Normal Map", "Segmentation", "Tile", "Inpaint"),
)
_NEGATIVE = "Negative prompt:"
# Readers find the parts of the text by how its lines begin.
_MARK = rf"(?:{_NEGATIVE}|Steps:)"
_NEWLINE_BEFORE_MARK, _MARK_FIRST = re.compile(rf"\n(?=\s*{_MARK})"), re.compile(rf"^(?={_MARK})")
_LORA_TAG = re.compile(r"\s*<(?:lora|lyco):[^>]{1,1000}>")
_HEXADECIMAL = re.compile(rf"[0-9a-f]{{{AUTOV2},}}")


def parameters_text(result: ImageResult) -> str:
    """Prompt, negative prompt and settings. No negative prompt has no line, the empty one has an empty line."""
    loras = "".join(f" <lora:{lora.name}:{_scales(lora)}>" for lora in result.loras)
    prompt = _lines_of(a1111_prompt(result, result.prompt, negative=False))
    lines = [_MARK_FIRST.sub(r"\\", prompt) + loras]  # A1111 drops a backslash before a letter
    if result.negative_prompt is not None:
        negative = _lines_of(a1111_prompt(result, result.negative_prompt, negative=True))
        lines.append(f"{_NEGATIVE} {negative}".rstrip())
    lines.append(", ".join(f"{name}: {value}" for name, value in _settings(result).items()))
    return "\n".join(lines)


def a1111_prompt(result: ImageResult, text: str, *, negative: bool) -> str:
    """A prompt of the result in A1111's syntax, whatever its own is; without the LoRAs that it names.

    What has no form there, as compel's blends, stands as it was written.
    """
    syntax = result.syntax
    if syntax is None or syntax is Syntax.NONE:
        return escape(text)
    if syntax is Syntax.A1111:
        return text if negative else _LORA_TAG.sub("", text)
    inversions = Inversions(Names({name: _ById() for name in result.embeddings}))
    try:
        read = reading.read(text, syntax, result.steps, negative=negative, inversions=inversions)
    except BadSyntax:  # an embedding by another name
        return text
    found = as_a1111(read)
    return text if found is None else found


class _ById:
    """An embedding that is known by its id alone."""

    names: tuple[str, ...] = ()


def schedule_type(used: Scheduler) -> str | None:
    """The name that A1111 has for how a scheduler spaces its steps; None if its settings do not say."""
    for setting, name in _SIGMAS.items():
        if used.settings.get(setting):
            return name
    return _SPACINGS.get(str(used.settings.get("timestep_spacing")))


def model_hash(model: str, revision: str, sha256: str | None) -> str:
    """AutoV2 of a checkpoint's file; of a folder, which has no single file, the first digits of its revision.

    A revision that is no digest is hashed together with the model's name.
    """
    if sha256 is not None:
        return sha256[:AUTOV2]
    if _HEXADECIMAL.fullmatch(revision):
        return revision[:AUTOV2]
    return hashlib.sha256(f"{model}@{revision}".encode()).hexdigest()[:AUTOV2]


def _settings(result: ImageResult) -> dict[str, object]:
    made = result.provenance
    settings: dict[str, object] = {"Steps": result.steps}
    used = made.scheduler or result.scheduler
    if used is not None:
        plain = {name: value for name, value in used.settings.items() if name not in _SIGMAS}
        settings["Sampler"] = shown_name(Scheduler(name=used.name, settings=plain))
        if schedule := schedule_type(used):
            settings["Schedule type"] = schedule
    width, height, hires = _passes(result)
    settings |= {
        "CFG scale": f"{result.guidance_scale:g}",
        "Seed": result.seed,
        "Size": f"{width}x{height}",
        "Model hash": model_hash(result.model, made.model_revision, made.model_sha256),
        "Model": _quoted(result.model),
    }
    if made.vae is not None:
        settings["VAE"] = _quoted(made.vae)
    if made.refiner_revision is not None and result.refiner_switch_at is not None:
        refiner = made.refiner or "refiner"  # earlier versions did not record its name
        settings["Refiner"] = _quoted(f"{refiner} [{model_hash(refiner, made.refiner_revision, None)}]")
        settings["Refiner switch at"] = f"{result.refiner_switch_at:g}"
    settings |= hires
    settings["Clip skip"] = result.clip_skip
    if result.guidance_rescale:
        settings["CFG Rescale"] = f"{result.guidance_rescale:g}"
    # A web UI has one extension for both.
    units = [_control(one, made) for one in result.control] + [_reference(one, made) for one in result.reference]
    settings |= {f"ControlNet {number}": unit for number, unit in enumerate(units)}
    settings["RNG"] = "CPU"
    settings |= _hashes(result, str(settings["Model hash"]))
    settings["Version"] = f"tessera {made.versions.get('tessera-render', '')}".strip()
    return settings


def _passes(result: ImageResult) -> tuple[int, int, dict[str, object]]:
    """Width and height of the first pass, and what is said of the later ones."""
    stages = result.made.stages
    if result.image is not None:
        painted: dict[str, object] = {}
        if result.inpaint is not None:
            painted = {"Mask blur": result.inpaint.feather}
            if (region := result.inpaint.region) is not None:
                painted |= {"Inpaint area": "Only masked", "Masked area padding": region.padding}
        return result.width, result.height, {"Denoising strength": f"{result.strength:g}", **painted}
    if result.highres.mode is not HighresMode.REFINE or len(stages) < 2:
        return result.width, result.height, {}
    first, last = stages[0], stages[-1]
    hires: dict[str, object] = {
        "Denoising strength": f"{last.strength:g}",
        "Hires resize": f"{result.width}x{result.height}",
        # Those that are walked: A1111 walks all of them.
        "Hires steps": max(1, int(last.steps * last.strength)),
        "Hires upscaler": "Lanczos",  # of those that A1111 has, the nearest to our bicubic filter
    }
    if (first.width * result.height, first.height * result.width) == (result.width * first.height,) * 2:
        scale = result.width / first.width
        hires = {"Denoising strength": hires["Denoising strength"], "Hires upscale": f"{scale:g}", **hires}
        del hires["Hires resize"]
    return first.width, first.height, hires


def _hashes(result: ImageResult, of_model: str) -> dict[str, object]:
    """`Lora hashes` and `TI hashes` as A1111 writes them, and `Hashes` as Civitai's extension does, AutoV2."""
    made, found = result.provenance, dict[str, object]()
    if tensors := {name: sha256[:AUTOV3] for name, sha256 in made.lora_tensors.items()}:
        found["Lora hashes"] = _quoted(", ".join(f"{name}: {digest}" for name, digest in tensors.items()))
    if made.embeddings:
        shown = ", ".join(f"{name}: {sha256[:AUTOV3]}" for name, sha256 in made.embeddings.items())
        found["TI hashes"] = _quoted(shown)
    if made.loras or made.embeddings:
        files = {"model": of_model} | {f"lora:{name}": sha256[:AUTOV2] for name, sha256 in made.loras.items()}
        files |= {f"embed:{name}": sha256[:AUTOV2] for name, sha256 in made.embeddings.items()}
        found["Hashes"] = json.dumps(files, ensure_ascii=False)
    return found


def _control(control: Control, made: Provenance) -> str:
    """A control network as sd-webui-controlnet writes one."""
    union = None
    if control.mode is not None:
        union = _UNION_TYPES[control.mode] if control.mode < len(_UNION_TYPES) else "Unknown"
    return _unit(
        _MODULES[control.preprocess],
        f"{control.model} [{made.controlnets.get(control.model, '')[:8]}]",
        control.scale,
        control.fit,
        (control.start, control.end),
        union=union,
    )


def _reference(reference: AdapterReference, made: Provenance) -> str:
    """An IP-Adapter likewise; where a mask lets it count has no place there."""
    file = f"{reference.adapter} [{made.ip_adapters.get(reference.adapter, '')[:8]}]"
    return _unit("ip-adapter-auto", file, reference.scale, Fit.FILL, WHOLE_SCHEDULE)


def _unit(
    module: str, model: str, scale: float, fit: Fit, steps: tuple[float, float], *, union: str | None = None
) -> str:
    parts = {
        "Module": module,
        "Model": model,
        "Weight": f"{scale:g}",
        "Resize Mode": _RESIZES[fit],
        "Guidance Start": f"{steps[0]:g}",
        "Guidance End": f"{steps[1]:g}",
        "Control Mode": "Balanced",
    }
    if union is not None:
        parts["Union Control Type"] = union
    return _quoted(", ".join(f"{name}: {value}" for name, value in parts.items()))


def _lines_of(prompt: str) -> str:
    """The prompt on lines of which none begins as a part of the whole does."""
    return _NEWLINE_BEFORE_MARK.sub(" ", "\n".join(prompt.strip().splitlines()))


def _quoted(value: str) -> str:
    """As A1111's `quote`: JSON where a reader would take the value for several."""
    return json.dumps(value, ensure_ascii=False) if any(mark in value for mark in ",:\n") else value


def _scales(lora: Lora) -> str:
    """A web UI's: one for all, or that of the text encoders before that of the UNet; and behind both, block weights."""
    text_scale = lora.scale if lora.text_scale is None else lora.text_scale
    if lora.blocks and (weights := as_list(lora.blocks)) is not None:
        return f"{text_scale:g}:{lora.scale:g}:lbw={weights}"
    return f"{lora.scale:g}" if lora.text_scale is None else f"{text_scale:g}:{lora.scale:g}"

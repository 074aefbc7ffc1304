"""Whole pictures on one GPU, from prompt to PNG: images a second at several batches.

SDXL at full size with random weights: text encoders, UNet and VAE. 20 guided steps, as MLPerf Inference renders them.
Files are encoded in the background, as in a pod.
"""

import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.engine.gpu.bench import Bench, Row
from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec
from distri.model.model import Model, load
from distri.model.schedulers import SchedulerRecipe
from distri.ranks.mesh import Mesh
from distri.ranks.recorder import Replay
from distri.sampling.control import Control

BATCHES = (1, 2, 4, 8)
STEPS, GUIDANCE, PIXELS, SMALL_PIXELS = 20, 8.0, 1024, 128
ROUNDS, ENCODERS = 3, 4
PNG_LEVEL = 1  # of a pod's files
DEMO = Path(__file__).parents[3] / "models" / "demo"  # its tokenizers: those of SDXL cannot be made from numbers
SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "leading",
    "steps_offset": 1,
}


def measure(bench: Bench) -> Iterator[Row]:
    """Each batch replayed, and one image at a time eager."""
    for how, replay, batches in (("replayed", bench.replay, BATCHES), ("eager", Replay.NEVER, BATCHES[:1])):
        engine = Engine(_model(bench), Mesh.single(bench.device), EngineSettings(replay=replay))
        for batch in batches:
            yield from bench.guarded({"how": how, "batch": batch}, partial(_rendered, bench, engine, batch))
        del engine


def _rendered(bench: Bench, engine: Engine, batch: int) -> Row:
    pixels, steps = (SMALL_PIXELS, 2) if bench.small else (PIXELS, STEPS)

    def images(turn: int) -> list[ImageSpec]:
        return [_image(turn * batch + place, pixels, steps) for place in range(batch)]

    def render(turn: int) -> list[Any]:
        return engine.render_batch(images(turn), control=lambda: Control.GO, upcoming=images(turn + 1)[0])

    render(0)
    repairs: set[str] = set()
    with ThreadPoolExecutor(ENCODERS) as encoders:
        began = time.perf_counter()
        files = []
        for turn in range(1, 1 + ROUNDS):
            for picture in render(turn):
                repairs.update(picture.repairs)
                files.append(encoders.submit(_png, picture.pixels))
        sizes = [len(file.result()) for file in files]
        seconds = time.perf_counter() - began
    found = {
        "pixels": pixels,
        "steps": steps,
        "images_per_s": round(len(files) / seconds, 3),
        "denoise_ms": round(1000 * picture.denoise_s, 1),
        "decode_ms": round(1000 * picture.decode_s, 1),
        "file_mb": round(sum(sizes) / len(sizes) / 1e6, 2),
        "memory_gb": 0.0 if bench.small else round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }
    return found | ({"repairs": sorted(repairs)} if repairs else {})


def _image(number: int, pixels: int, steps: int) -> ImageSpec:
    return ImageSpec(
        prompt=f"a photo of the mountain lake at sunrise, number {number}",
        negative_prompt="",
        seed=number,
        width=pixels,
        height=pixels,
        steps=steps,
        guidance_scale=GUIDANCE,
        scheduler="EulerDiscreteScheduler",
    )


def _png(pixels: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, "PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def _model(bench: Bench) -> Model:
    if bench.small:
        return load(DEMO, device=bench.device, dtype=torch.float32)
    tokenizers = tuple(
        CLIPTokenizer.from_pretrained(DEMO / name, local_files_only=True) for name in ("tokenizer", "tokenizer_2")
    )
    start, end = int(tokenizers[0].bos_token_id), int(tokenizers[0].eos_token_id)
    encoders = text_encoders(bench.device, bench.dtype, start=start, end=end)
    scheduler = SchedulerRecipe("EulerDiscreteScheduler", SCHEDULER)
    return Model(bench.unet(), bench.vae(torch.bfloat16), tokenizers, encoders, scheduler, zeros_for_none=True)


def text_encoders(device: torch.device, dtype: torch.dtype, *, start: int, end: int) -> tuple[Any, ...]:
    """SDXL's two by their published settings, with random weights, for texts between these tokens."""
    kind: Any = CLIPTextConfig
    tokens = {"vocab_size": 49408, "bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
    narrow = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    wide = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    torch.manual_seed(1)
    with device:
        first: Any = CLIPTextModel(kind(**narrow, **tokens))
        second: Any = CLIPTextModelWithProjection(kind(**wide, **tokens, projection_dim=1280, hidden_act="gelu"))
    return tuple(encoder.to(dtype).eval().requires_grad_(False) for encoder in (first, second))

"""Whole pictures on one GPU, from prompt to PNG: images a second with several slots.

SDXL at full size with random weights: text encoders, UNet and VAE. 20 guided steps, as MLPerf Inference renders them.
Each joins as soon as there is a slot; decodes are beside evaluations where memory holds both, and files are encoded in
the background, as in a pod. `gain` is images a second over those of one slot.
"""

import io
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.engine.gpu.bench import Bench, Row
from distri.engine import Engine, EngineSettings
from distri.model.image import ImageSpec, Rendered
from distri.model.model import Model, load
from distri.model.sampling.schedulers import SchedulerRecipe
from distri.ranks.mesh import Mesh
from distri.ranks.recorder import Replay
from distri.ranks.spans import RenderSpan
from distri.sampling.control import Control

SLOTS = (1, 2, 4, 8)
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
    """Each number of slots replayed, and one eager."""
    for how, replay, counts in (("replayed", bench.replay, SLOTS), ("eager", Replay.NEVER, SLOTS[:1])):
        engine = Engine(_model(bench), Mesh.single(bench.device), EngineSettings(replay=replay))
        one = 0.0
        for count in counts:
            for row in bench.guarded({"how": how, "slots": count}, partial(_measured, bench, engine, count)):
                one = row.get("images_per_s", one) if count == 1 else one
                yield row | ({"gain": round(row["images_per_s"] / one, 3)} if one and "images_per_s" in row else {})
        del engine


def _measured(bench: Bench, engine: Engine, count: int) -> Row:
    pixels, steps = (SMALL_PIXELS, 2) if bench.small else (PIXELS, STEPS)
    images = [_image(number, pixels, steps) for number in range((1 + ROUNDS) * count)]
    # What is made once: two evaluations of each kind are not replayed, and the first decode is measured.
    deque(_rendered(engine, images[:count], count), maxlen=0)
    repairs: set[str] = set()
    with ThreadPoolExecutor(ENCODERS) as encoders:
        began = time.perf_counter()
        files: list[Future[bytes]] = []
        others, waited_s = 0, 0.0
        for picture in _rendered(engine, images[count:], count):
            repairs.update(picture.repairs)
            others, waited_s = max(others, picture.others), waited_s + picture.decode_s
            files.append(encoders.submit(_png, picture.pixels))
        sizes = [len(file.result()) for file in files]
        seconds = time.perf_counter() - began
    decodes = [span for span in engine.spans if span.name == RenderSpan.DECODE]
    found = {
        "pixels": pixels,
        "steps": steps,
        "at_a_time": 1 + others,
        "images_per_s": round(len(files) / seconds, 3),
        "denoise_ms": round(1000 * picture.denoise_s, 1),
        "decode_ms": round(1000 * decodes[-1].seconds, 1),
        "waited_for_decode_ms": round(1000 * waited_s / len(files), 1),
        "file_mb": round(sum(sizes) / len(sizes) / 1e6, 2),
        "memory_gb": 0.0 if bench.small else round(torch.cuda.max_memory_allocated() / 1e9, 2),
    }
    return found | ({"repairs": sorted(repairs)} if repairs else {})


def _rendered(engine: Engine, images: Sequence[ImageSpec], count: int) -> Iterator[Rendered]:
    """Render images, each as soon as there is a slot."""
    left, renders = deque(images), engine.renders(control=lambda: Control.GO, slots=count)
    while left or renders.count:
        while left and renders.admits(left[0]):
            renders.join(left.popleft())
            if left:
                renders.embed_ahead(left[0])
        for finished in renders.advance():
            yield finished.rendered


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

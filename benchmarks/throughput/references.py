"""`python -m benchmarks.throughput.references`: what embedding a reference costs an engine, and what reading it does.

The image encoder has the size of ViT-H, with weights of no meaning; the store is SeaweedFS on this machine.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.throughput.control import deployment
from distri.model.reference.image_encoder import ImageEncoder
from distri.run.kept_tokens import BucketTokens
from pipeline.bucket.artifacts import Artifacts
from pipeline.records.object_keys import BatchObjects

VIT_H: dict[str, Any] = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16,
    "image_size": 224, "patch_size": 14, "projection_dim": 1024, "hidden_act": "gelu",
}  # fmt: skip
TOKENS_BYTES = 2 * 16 * 2048 * 4  # a plus adapter's for SDXL, and those of the negative half
ROUNDS = 9


def measured() -> dict[str, Any]:
    """Seconds, by what is done; of what is done often, the median."""
    with ExitStack() as stack:
        _, settings, _ = deployment(stack)
        folder = Path(stack.enter_context(TemporaryDirectory()))
        digest = _write_encoder(folder)
        pixels = np.random.default_rng(0).integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
        like: dict[str, Any] = {"device": torch.device("cpu"), "dtype": torch.float32}
        load_s, encoder = _timed(lambda: ImageEncoder(folder, digest, **like))
        embed_s = median(_timed(lambda: encoder.embed(pixels, hidden=True))[0] for _ in range(3))
        tokens = BucketTokens(Artifacts(settings), BatchObjects("bench"))
        body = np.random.default_rng(1).bytes(TOKENS_BYTES)
        writes = [_timed(lambda name=name: tokens.write(str(name), body).result())[0] for name in range(ROUNDS)]
        reads = [_timed(lambda name=name: tokens.read(str(name), len(body)))[0] for name in range(ROUNDS)]
        misses = [_timed(lambda: tokens.read("none", len(body)))[0] for _ in range(ROUNDS)]
        return {
            "encoder_mb": round((folder / "model.safetensors").stat().st_size / 1e6),
            "tokens_kb": round(TOKENS_BYTES / 1e3),
            "load_encoder_s": round(load_s, 2),
            "embed_s": round(embed_s, 2),
            **{
                name: round(median(values), 4)
                for name, values in (("write_s", writes), ("read_s", reads), ("find_nothing_s", misses))
            },
        }


def _write_encoder(folder: Path) -> str:
    config: Any = CLIPVisionConfig(**VIT_H)
    with torch.device("meta"):
        encoder: Any = CLIPVisionModelWithProjection(config)
    weights = {name: torch.randn(one.shape).mul(0.02).half() for name, one in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(config.to_json_string())
    with (folder / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _timed(do: Any) -> tuple[float, Any]:
    began = time.monotonic()
    done = do()
    return time.monotonic() - began, done


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.stdout.write(json.dumps(measured(), indent=1) + "\n")

"""Rows that agree in all but their texts are decided once, and each is what it would be alone."""

from __future__ import annotations

from typing import Any

from pipeline.deployment.allowed import AllowedLora
from pipeline.promptset.decisions.options import Decisions
from pipeline.promptset.decisions.resolve import resolve
from pipeline.promptset.fields.row import Options, ResolvedRow, Row
from tests.factories import deployment

# Each another decision.
SETTINGS: list[dict[str, Any]] = [
    {},
    {"steps": 20},
    {"steps": 20, "size": "128x64"},
    {"scheduler": "DPM++ 2M Karras"},
    {"scheduler": {"name": "DDIM", "settings": {"eta": 0.5}}},
    {"scheduler": {"name": "DDIM", "settings": {"eta": 0.25}}},
    {"loras": "film:0.5"},
    {"loras": [{"name": "film", "scale": 0.5, "blocks": {"IN04": 0.5}}]},
    {"highres": {"mode": "refine", "strength": 0.5}, "width": 512, "height": 512},
    {"guidance_interval": "0.2, 0.8", "crop": "8,8", "original_size": [128, 128]},
    {"timesteps": "999, 500", "scheduler": "Euler"},
    {"canvas": None, "mask": None, "masked_size": None},
    {"syntax": "comfy"},
    {"syntax": "none"},
    {"num_images": 3, "format": "webp", "quality": 80},
]
TEXTS: list[dict[str, Any]] = [
    {"prompt": "a (tower:1.2)", "seed": 3},
    {"prompt": "a <lora:grain:0.3> hill", "negative_prompt": "rain", "custom_id": "hill"},
    {"prompt": "sea", "prompt_2": "blue", "metadata": {"a": 1}, "seed": -1},
]


def _resolved(row: Row, decisions: Decisions, number: int) -> ResolvedRow:
    return resolve(row, decisions, line=number, index=number, first_image=3 * number, batch_seed=7)


def test_a_row_is_decided_as_it_would_be_alone_and_each_kind_of_row_once() -> None:
    defaults = Options(negative_prompt="fog", seed=5, syntax="a1111")
    here = deployment(loras={"film": AllowedLora(), "grain": AllowedLora()})
    shared = Decisions(defaults, here)
    rows = [Row.model_validate(settings | texts) for texts in TEXTS for settings in SETTINGS]
    for number, row in enumerate(rows):
        together, alone = _resolved(row, shared, number), _resolved(row, Decisions(defaults, here), number)
        assert together.model_dump_json() == alone.model_dump_json()
    decided = shared.of.cache_info()
    # Two of comfy and of none do not read the LoRA that the others' prompts name.
    assert decided.misses == 2 * len(SETTINGS) - 2
    assert decided.hits == len(rows) - decided.misses

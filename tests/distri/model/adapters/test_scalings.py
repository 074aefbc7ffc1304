"""peft's settings, as its own matcher reads them, and patterns that are refused."""

import time
from typing import Any

import pytest
from peft.utils.other import get_pattern_key

from distri.model.adapters.scalings import BadPattern, PeftSettings

NAMES = [
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
    "mid_block.resnets.0.conv1",
    "conv_in",
]
PATTERNS: list[dict[str, float]] = [
    {"to_q": 1, "attn1.to_q": 2},
    {"attn1.to_q": 2, "to_q": 1},
    {r".*attn[12]\.to_(q|k)": 3, "conv_in": 4},
    {r"blocks\.1\..*": 5, r"down_blocks\.1\..*": 6},
    {"o_q": 7, "conv1": 8, r"conv\d": 9},
    {},
]


@pytest.mark.parametrize("patterns", PATTERNS)
@pytest.mark.parametrize("name", NAMES)
def test_the_alpha_of_a_module_is_that_of_peft(patterns: dict[str, float], name: str) -> None:
    settings = PeftSettings({"unet.lora_alpha": 10, "unet.alpha_pattern": patterns}, "unet")
    assert settings.scaling(name, 4) == patterns.get(get_pattern_key(list(patterns), name), 10) / 4


def test_no_settings_say_nothing_and_the_root_is_of_the_rank() -> None:
    assert PeftSettings({"unet.lora_alpha": 10}, "text_encoder").scaling("conv_in", 4) is None
    assert PeftSettings({"unet.lora_alpha": 10, "unet.use_rslora": True}, "unet").scaling("conv_in", 4) == 5


def test_an_alpha_that_no_float_holds_is_refused() -> None:
    with pytest.raises(BadPattern, match="401 digits"):
        PeftSettings({"unet.lora_alpha": 10**400}, "unet").scaling("conv_in", 4)


@pytest.mark.parametrize("pattern", ["(a+)+b", "(a|a)*b", ".*.*.*.*.*x", "(", "a" * 2000 + "$", "[" * 500])
def test_a_pattern_that_is_none_or_could_take_for_ever_is_refused(pattern: str) -> None:
    settings: dict[str, Any] = {"unet.alpha_pattern": {pattern: 1}}
    with pytest.raises(BadPattern):
        PeftSettings(settings, "unet")


def test_the_slowest_pattern_that_is_allowed_is_fast() -> None:
    settings = PeftSettings({"unet.alpha_pattern": {".*.*.*.*!": 1}}, "unet")
    began = time.process_time()
    settings.scaling("a.b_c" * 20, 4)
    assert time.process_time() - began < 2

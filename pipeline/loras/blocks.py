"""Block weights of a LoRA as people write them, brought to names of blocks.

    12, 17, 20 or 26 numbers    the lists of sd-webui-lora-block-weight, for SDXL and (17, 26) for SD 1.x
    OUTALL                      one of the presets that it comes with
    {"down": 0.5, "up": {"block_0": [0.6, 0.8, 1]}}    the scales of diffusers' `set_adapters`

Sources: scripts/lora_block_weight.py of hako-mikan/sd-webui-lora-block-weight, and kohya-ss/sd-scripts
(networks/svd_merge_lora.py), which has the same lists; diffusers' loaders/unet_loader_utils.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

_IN, _OUT = (tuple(f"{side}{number:02}" for number in range(12)) for side in ("IN", "OUT"))
MIDDLE = "M00"
# The blocks of SDXL's UNet as web UIs name them; BASE is the text encoders.
SDXL_BLOCKS = ("BASE", *_IN[:9], MIDDLE, *_OUT[:9])
SD1_LENGTH = 17
FORMS: Mapping[int, tuple[str, ...]] = {
    12: ("BASE", "IN04", "IN05", "IN07", "IN08", MIDDLE, *_OUT[:6]),
    SD1_LENGTH: ("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", MIDDLE, *_OUT[3:]),
    20: SDXL_BLOCKS,
    26: ("BASE", *_IN, MIDDLE, *_OUT),
}

# In the list of 17: the text encoders, 6 blocks in, the middle, 9 out. ALL, NONE and ALL0.5 are every block there is.
_EVERY: Mapping[str, float] = {"ALL": 1.0, "NONE": 0.0, "ALL0.5": 0.5}
_PRESETS: Mapping[str, str] = {
    "INS": "11110000000000000",
    "IND": "10001110000000000",
    "INALL": "11111110000000000",
    "MIDD": "10001111111100000",
    "OUTD": "10000000111100000",
    "OUTS": "10000000000011111",
    "OUTALL": "10000000111111111",
}
PRESETS = (*_EVERY, *_PRESETS)
WANTED = f"12, 17, 20 or 26 numbers in the order of sd-webui-lora-block-weight, or its {', '.join(PRESETS)}"

# How many transformers each block of SDXL's UNet has, where it has any.
_TRANSFORMERS: Mapping[str, Mapping[int, int]] = {"down": {1: 2, 2: 2}, "up": {0: 3, 1: 3}}
_SAMPLERS = {("down", 1): "downsamplers.0", ("up", 0): "upsamplers.0", ("up", 1): "upsamplers.0"}
_OF_DIFFUSERS = frozenset({"unet", "text_encoder", "text_encoder_2", "down", "mid", "up"})
_UNET = (
    "conv_in",
    "time_embedding",
    "add_embedding",
    "down_blocks",
    "mid_block",
    "up_blocks",
    "conv_norm_out",
    "conv_out",
)


def of_list(numbers: Sequence[float]) -> dict[str, float]:
    """By block of SDXL, its number; 0 where a list of this length has none. Raises KeyError for another length."""
    given = dict(zip(FORMS[len(numbers)], numbers, strict=True))
    return {name: given.get(name, 0.0) for name in SDXL_BLOCKS}


def of_preset(name: str) -> dict[str, float] | None:
    """A preset by block; None if it is none of those that everybody has."""
    name = name.strip().upper()
    if name in _EVERY:
        return {} if name == "ALL" else dict.fromkeys(SDXL_BLOCKS, _EVERY[name])
    return of_list([float(digit) for digit in _PRESETS[name]]) if name in _PRESETS else None


def as_list(weights: Mapping[str, float]) -> str | None:
    """Weights by block as the list of 20 that says the same; None if they name what it has no number for."""
    if not weights.keys() <= set(SDXL_BLOCKS):
        return None
    return ",".join(f"{weights.get(name, 1.0):g}" for name in SDXL_BLOCKS)


def are_of_sd1(text: str) -> bool:
    """Whether block weights, as they are written, are for SD 1.x: some of SDXL's blocks get 0 for want of a number."""
    return text.count(",") == SD1_LENGTH - 1 or text.strip().upper() in _PRESETS


def are_scales_of_diffusers(value: Mapping[str, object]) -> bool:
    """Whether an object has the form of the scales that diffusers' `set_adapters` takes."""
    return value.keys() <= _OF_DIFFUSERS and not value.keys().isdisjoint({"unet", "down", "mid", "up"})


def of_scales(value: Mapping[str, object]) -> dict[str, object]:
    """Scales of diffusers by module of SDXL. As there, a scale of transformer i is also that of the resnet beside it.

    What is in none of the blocks with transformers has 1, and of the middle block all but its transformer.
    Raises ValueError for what has another form; numbers are not looked at.
    """
    inside = value.get("unet", {})
    found: dict[str, object] = {name: value[name] for name in ("text_encoder", "text_encoder_2") if name in value}
    if not isinstance(inside, Mapping):
        return found | dict.fromkeys(_UNET, inside)
    blocks = {name: scale for name, scale in value.items() if name in ("down", "mid", "up")} | dict(inside)
    for name, scale in blocks.items():
        if name == "mid":
            found["mid_block.attentions.0"] = scale[0] if isinstance(scale, list) and len(scale) == 1 else scale
        elif name in _TRANSFORMERS:
            found |= _of_side(name, scale)
        else:
            raise ValueError(f"{str(name)[:60]!r} found in scales by block; down, mid and up wanted")
    return found


def _of_side(side: str, scale: object) -> Iterator[tuple[str, object]]:
    blocks = {f"block_{number}": number for number in _TRANSFORMERS[side]}
    by_block = scale if isinstance(scale, Mapping) else dict.fromkeys(blocks, scale)
    for name, own in by_block.items():
        if name not in blocks:
            wanted = " and ".join(blocks)
            raise ValueError(f"{str(name)[:60]!r} found in {side}; {wanted} wanted, which have transformers in SDXL")
        number = blocks[name]
        count = _TRANSFORMERS[side][number]
        each = own if isinstance(own, list) else [own]
        if len(each) not in (1, count):
            raise ValueError(f"{len(each)} scales found in {side}.{name}; {count} wanted, or one for all")
        for place, one in enumerate(each * (count // len(each))):
            yield f"{side}_blocks.{number}.attentions.{place}", one
            yield f"{side}_blocks.{number}.resnets.{place}", one
        if (side, number) in _SAMPLERS:
            yield f"{side}_blocks.{number}.{_SAMPLERS[side, number]}", each[0]

"""How a pod's GPUs are used: data x cfg x patch, whose product is the GPU count.

Written as text here (`1x2x4`), because the control side only chooses one and passes it on; the engine's mesh gives it
meaning.
"""

from __future__ import annotations

import re

from pipeline.errors import SettingsError

ALIGNMENT_PX = 32  # a patch of SDXL's UNet starts at a multiple of 4 latent rows, which are 8 px each


def planned_layout(gpus: int, wanted: str | None = None) -> str:
    """The layout of a pod: the one asked for, or CFG halves apart and patches for the rest where both get GPUs.

    Two GPUs become two patches rather than two CFG halves, so that the latency of rows without guidance falls too.
    Raises SettingsError if the product is not the GPU count.
    """
    if wanted is None:
        return f"1x2x{gpus // 2}" if gpus >= 4 and gpus % 2 == 0 else f"1x1x{gpus}"
    match = re.fullmatch(r"([1-9]\d*)x([12])x([1-9]\d*)", wanted)
    if match is None:
        raise SettingsError(f"TESSERA_LAYOUT: {wanted!r} found; data x cfg x patch wanted, cfg 1 or 2, as in 1x2x4")
    data, cfg, patch = map(int, match.groups())
    if data * cfg * patch != gpus:
        raise SettingsError(f"TESSERA_LAYOUT: {wanted} uses {data * cfg * patch} GPUs, TESSERA_GPUS is {gpus}")
    return wanted


def shortest_long_side_px(layout: str) -> int:
    """The least length of an image's longer side that gives every patch at least one aligned unit, in pixels."""
    return int(layout.rpartition("x")[2]) * ALIGNMENT_PX

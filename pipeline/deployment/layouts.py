"""How a pod's GPUs are used: data x cfg x patch, whose product is the GPU count.

The control side only chooses a layout and passes it on; the engine's mesh (`distri/ranks/mesh.py`) gives it meaning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from pipeline.errors import SettingsError

ALIGNMENT_PX = 32  # a patch of SDXL's UNet starts at a multiple of 4 latent rows, which are 8 px each

_TEXT = re.compile(r"([1-9][0-9]*)x([12])x([1-9][0-9]*)")


@dataclass(frozen=True, order=True)
class Layout:
    """Replicas, halves of guidance apart or not, and patches. Records and settings hold its text, as in 1x2x4.

    Attributes:
        data: replicas, each with images of its own.
        cfg: 2 if the two halves of guidance have ranks of their own, else 1.
        patch: patches that an image is cut into.
    """

    data: int
    cfg: int
    patch: int

    def __post_init__(self) -> None:
        if self.data < 1 or self.cfg not in (1, 2) or self.patch < 1:
            raise ValueError(f"layout {self} found; data and patch of at least 1 and cfg 1 or 2 wanted, as in 1x2x4")

    def __str__(self) -> str:
        return f"{self.data}x{self.cfg}x{self.patch}"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read 1x2x4. Raises ValueError."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} found; data x cfg x patch wanted, cfg 1 or 2, as in 1x2x4")
        return cls(*map(int, match.groups()))

    @property
    def gpus(self) -> int:
        """GPUs of a pod of this layout: its ranks."""
        return self.data * self.cfg * self.patch

    @property
    def shortest_long_side_px(self) -> int:
        """The least length of an image's longer side that gives every patch at least one aligned unit, in pixels."""
        return self.patch * ALIGNMENT_PX

    @classmethod
    def _read(cls, value: Any) -> Layout:
        return value if isinstance(value, cls) else cls.parse(str(value))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        """A model's field of this type is read from its text or taken as it is, and written as its text."""
        return core_schema.no_info_plain_validator_function(cls._read, serialization=core_schema.to_string_ser_schema())

    @classmethod
    def __get_pydantic_json_schema__(cls, _schema: CoreSchema, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": "string"}


def planned_layout(gpus: int, wanted: Layout | None = None) -> Layout:
    """The layout of a pod: the one asked for, or CFG halves apart and patches for the rest where both get GPUs.

    Two GPUs become two patches rather than two CFG halves, so that the latency of rows without guidance falls too.
    Raises SettingsError if the product is not the GPU count.
    """
    if wanted is None:
        return Layout(1, 2, gpus // 2) if gpus >= 4 and gpus % 2 == 0 else Layout(1, 1, gpus)
    if wanted.gpus != gpus:
        raise SettingsError(f"TESSERA_LAYOUT: {wanted} uses {wanted.gpus} GPUs, TESSERA_GPUS is {gpus}")
    return wanted

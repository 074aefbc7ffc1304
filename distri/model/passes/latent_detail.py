"""What detail a model's latents have: measured once, by `python -m distri.measure_detail`, and kept beside it."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distri.ranks.errors import ModelError

_ENDING = "latent_detail.json"


@dataclass(frozen=True)
class LatentDetail:
    """The finest detail of latents without noise, by channel: Haar's coefficients across, down and in both directions.

    Attributes:
        pictures: how many were measured.
        variances: around what is expected.
        slopes: what is expected, as a multiple of the detail of a latent of half the sides, enlarged bicubically.
    """

    pictures: int
    variances: tuple[tuple[float, ...], ...]
    slopes: tuple[tuple[float, ...], ...]

    @classmethod
    def unmeasured(cls, channels: int) -> "LatentDetail":
        """That of an enlarged latent: about what is expected of pictures that look alike in all sizes."""
        return cls(0, ((0.0,) * 3,) * channels, ((1.0,) * 3,) * channels)

    @property
    def variances_C3(self) -> Tensor:
        """The same, float32, on the CPU."""
        return torch.tensor(self.variances, dtype=torch.float32)

    @property
    def slopes_C3(self) -> Tensor:
        """The same, float32, on the CPU."""
        return torch.tensor(self.slopes, dtype=torch.float32)

    def write(self, model: Path) -> Path:
        """Keep it beside a model's folder's parts, or its single file; returns where."""
        file = file_beside(model)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return file

    @classmethod
    def read(cls, model: Path, channels: int) -> "LatentDetail | None":
        """That of a model whose latents have so many channels.

        None where nobody has measured it, or an earlier version has, which expected nothing.

        Raises:
            ModelError: it is no such file.
        """
        file = file_beside(model)
        try:
            found = json.loads(file.read_bytes())
            variances = _table(found["variances"], channels)
            slopes = _table(found.get("slopes", variances), channels)
            if min(map(min, variances)) < 0:
                raise ValueError("no variance below 0 wanted")  # noqa: TRY301 - said as the others are
            return cls(int(found["pictures"]), variances, slopes) if "slopes" in found else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
            anew = "delete it, and `python -m distri.measure_detail` writes it anew"
            raise ModelError(f"{file.name} beside {model.name}: {error}; {anew}") from error


def file_beside(model: Path) -> Path:
    """Where it is kept: within the folder of a model, or beside its single file."""
    return model / _ENDING if model.is_dir() else model.with_suffix(f".{_ENDING}")


def _table(rows: Any, channels: int) -> tuple[tuple[float, ...], ...]:
    table = tuple(tuple(float(one) for one in row) for row in rows)
    if len(table) != channels or any(len(row) != 3 or not all(map(math.isfinite, row)) for row in table):
        raise ValueError(f"three finite numbers for each of {channels} channels wanted")
    return table

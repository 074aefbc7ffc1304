"""How much detail a model's latents have: measured once, by `python -m distri.measure_detail`, and kept beside it."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from distri.ranks.errors import ModelError

_ENDING = "latent_detail.json"


@dataclass(frozen=True)
class LatentDetail:
    """The variance of the finest detail of latents without noise.

    Attributes:
        pictures: how many were measured.
        variances: by channel, of Haar's orthonormal coefficients across, down and in both directions.
    """

    pictures: int
    variances: tuple[tuple[float, ...], ...]

    @property
    def variances_C3(self) -> Tensor:
        """The same, float32, on the CPU."""
        return torch.tensor(self.variances, dtype=torch.float32)

    def write(self, model: Path) -> Path:
        """Keep it beside a model's folder's parts, or its single file; returns where."""
        file = file_beside(model)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return file

    @classmethod
    def read(cls, model: Path) -> "LatentDetail | None":
        """That of a model; None where nobody has measured it. Raises ModelError if it is no such file."""
        file = file_beside(model)
        try:
            found = json.loads(file.read_bytes())
            variances = tuple(tuple(float(one) for one in row) for row in found["variances"])
            if any(len(row) != 3 or not all(0 <= one < float("inf") for one in row) for row in variances):
                raise ValueError("three variances a channel wanted")  # noqa: TRY301 - said as the others are
            return cls(int(found["pictures"]), variances)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ModelError(
                f"{file.name} beside {model.name}: {error}; `python -m distri.measure_detail` writes it anew"
            ) from error


def file_beside(model: Path) -> Path:
    """Where it is kept: within the folder of a model, or beside its single file."""
    return model / _ENDING if model.is_dir() else model.with_suffix(f".{_ENDING}")

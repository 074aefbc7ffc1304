"""CLIP's image encoder: what an IP-Adapter reads of a picture."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.initialization import no_init_weights

from distri.ranks.errors import BadReference
from pipeline.checkpoints.ip_adapter import WEIGHTS, EncoderFolder
from pipeline.errors import BadCheckpoint

_PREFIX = "vision_model."  # which versions of transformers have before the names of its tensors, or have not
_NUMBERS = "embeddings.position_ids"  # older files hold them; they are no weights


class ImageEncoder:
    """A CLIP image encoder with its projection, for inference.

    Args:
        folder: its `config.json` and `model.safetensors`; nothing else of it is read.
        sha256: of its weights, in hexadecimal, if that is to be checked.
        device: where it goes.
        dtype: of its weights.

    Attributes:
        pooled_width, hidden_width: numbers of a pooled embedding, and of a hidden state.

    Raises:
        BadReference: it is not there, is no CLIP image encoder, or is damaged.
    """

    def __init__(self, folder: Path, sha256: str | None = None, *, device: torch.device, dtype: torch.dtype) -> None:
        name = f"image encoder {folder.name}"
        try:
            found = EncoderFolder.read(folder)
            _check_digest(name, folder / WEIGHTS, sha256)
            config = CLIPVisionConfig.from_dict(dict(found.config))
            with safe_open(folder / WEIGHTS, framework="pt") as content:
                stored = {
                    key.removeprefix(_PREFIX): content.get_tensor(key).to(device, dtype)
                    for key in found.header.tensors
                    if not key.endswith(_NUMBERS)
                }
        except BadCheckpoint as error:
            raise BadReference(name, str(error)) from error
        except (OSError, ValueError, TypeError, SafetensorError) as error:
            raise BadReference(name, f"it cannot be read: {error}") from error
        with no_init_weights():
            encoder: Any = CLIPVisionModelWithProjection(config)
        names = {own.removeprefix(_PREFIX): own for own in encoder.state_dict()}
        if strange := sorted(names.keys() ^ stored.keys()):
            raise BadReference(
                name, f"{strange[0]} and {len(strange) - 1} other tensors are not those of CLIP's image encoder"
            )
        try:
            encoder.load_state_dict({names[key]: tensor for key, tensor in stored.items()}, strict=True)
        except RuntimeError as error:
            raise BadReference(name, f"its config.json and its weights do not fit: {error}") from error
        self._encoder = encoder.to(device, dtype).eval().requires_grad_(False)
        side: Any = config.image_size
        # Of Pillow, not torchvision, whose resizing rounds otherwise: one picture gives one embedding everywhere.
        self._processor = CLIPImageProcessorPil(size=side, crop_size=side)
        self._side, self._device, self._dtype = side, device, dtype
        self.pooled_width: int = config.projection_dim
        self.hidden_width: int = config.hidden_size

    @torch.inference_mode()
    def embed(self, pixels: npt.NDArray[np.uint8] | None, *, hidden: bool) -> Tensor:
        """A picture's pooled embedding, 1D, or the hidden states before the last layer, 1LD.

        The middle square of the picture is read, as CLIP was trained.

        Args:
            pixels: height x width x 3; None is what the negative half gets: zeros in the place of the pooled embedding,
                or the hidden states of a picture of zeros.
            hidden: whether hidden states are wanted.
        """
        if pixels is None and not hidden:
            return torch.zeros(1, self.pooled_width, dtype=self._dtype, device=self._device)
        if pixels is None:
            values_13HW = torch.zeros(1, 3, self._side, self._side)
        else:
            values_13HW = self._processor(pixels, return_tensors="pt", input_data_format="channels_last").pixel_values
        output = self._encoder(values_13HW.to(self._device, self._dtype), output_hidden_states=hidden)
        found: Tensor = output.hidden_states[-2] if hidden else output.image_embeds
        return found


def _check_digest(name: str, weights: Path, wanted: str | None) -> None:
    if wanted is None:
        return
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != wanted.lower():
        raise BadReference(name, f"the SHA-256 of its {WEIGHTS} is {found}, {wanted} was wanted")

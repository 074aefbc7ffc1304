"""The networks of an opened checkpoint, filled from its safetensors files; no pickle, no network, no code of theirs.

A network is made without memory for its weights and then given them, one tensor after the other, straight from the
mapped file in the number format that is wanted. `pipeline.checkpoints` has found every tensor before one is read.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.initialization import no_init_weights

from distri.ranks.errors import ModelError
from pipeline.checkpoints import clip
from pipeline.checkpoints.matching import TEXT_ENCODER, TEXT_ENCODER_2, UNET, VAE, Network, Stored
from pipeline.checkpoints.tokenizers import PADS

_TEXT_MODEL = "text_model."  # which versions of transformers have before the names of a text encoder, or have not


def load_network(network: Network, *, device: torch.device, dtype: torch.dtype) -> Any:
    """A network with its weights, for inference.

    Args:
        network: of a checkpoint.
        device: where it goes.
        dtype: of all of its weights; fp8 is computed in it.

    Raises:
        ModelError: its configuration and its weights do not go together.
    """
    kinds: dict[str, Callable[[Any], Any]] = {
        UNET: UNet2DConditionModel.from_config,
        VAE: AutoencoderKL.from_config,
        TEXT_ENCODER: lambda config: CLIPTextModel(CLIPTextConfig.from_dict(config)),
        TEXT_ENCODER_2: lambda config: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(config)),
    }
    with torch.device("meta"), no_init_weights():
        module = kinds[network.name](dict(network.config))
    names = {name.removeprefix(_TEXT_MODEL): name for name in module.state_dict()}
    if strange := sorted(names.keys() ^ network.tensors.keys()):
        raise ModelError(f"{network.name}: {strange[0]} and {len(strange) - 1} other tensors are not those of SDXL's")
    weights = {names[name]: tensor for name, tensor in _read(network.tensors, device, dtype)}
    module.load_state_dict(weights, strict=True, assign=True)
    _fill_positions(module, device)
    return module.eval().requires_grad_(False)


def load_tokenizer(name: str, folder: Path | None) -> Any:
    """A model's tokenizer, from its folder; None is CLIP's own. Raises what transformers raises."""
    kind: Any = CLIPTokenizer
    if folder is not None:
        return kind.from_pretrained(folder, local_files_only=True)
    return kind(
        vocab=clip.vocabulary(),
        merges=clip.merges(),
        bos_token=clip.START,
        eos_token=clip.END,
        unk_token=clip.END,
        pad_token=PADS[name],
        model_max_length=clip.CONTEXT_TOKENS,
    )


def _read(tensors: Any, device: torch.device, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    with ExitStack() as files:
        opened: dict[Path, Any] = {}
        for name, stored in tensors.items():
            if stored.path not in opened:
                opened[stored.path] = files.enter_context(safe_open(stored.path, framework="pt", device="cpu"))
            yield name, _tensor(opened[stored.path], stored, dtype).to(device)


def _tensor(file: Any, stored: Stored, dtype: torch.dtype) -> Tensor:
    """One tensor as the network wants it, in memory of its own."""
    place = stored.place
    if place.third is None:
        tensor = file.get_tensor(place.key)
    else:
        rows = stored.shape[0]
        tensor = file.get_slice(place.key)[place.third * rows : (place.third + 1) * rows]
    if stored.scale is not None:
        scale = file.get_tensor(stored.scale).float()
        tensor = tensor.float() * scale.reshape(-1, *[1] * (tensor.ndim - 1) if scale.numel() > 1 else ())
    if place.transposed:
        tensor = tensor.t()
    copy: Tensor = tensor.to(dtype, copy=True).reshape(stored.shape).contiguous()
    return copy


def _fill_positions(module: nn.Module, device: torch.device) -> None:
    """The positions of a text encoder's tokens, which are numbers and not weights."""
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if not buffer.is_meta:
                continue
            if name != "position_ids":
                raise ModelError(f"{type(owner).__name__} keeps {name}, which is not known here")
            owner.register_buffer(name, torch.arange(buffer.shape[-1], device=device)[None], persistent=False)

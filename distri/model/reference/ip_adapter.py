"""An IP-Adapter's file, read: projections for the UNet's cross-attention, and what makes tokens of an embedded picture.

Both of the kinds that exist for SDXL: the plain one projects the pooled embedding of a picture to a few tokens, "plus"
resamples the image encoder's hidden states. Files are those of their authors (`ip-adapter_sdxl.safetensors`), as
diffusers' `load_ip_adapter` reads them: `image_proj.*`, and `ip_adapter.N.to_k_ip.weight` with N counting attention.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from distri.ranks.errors import BadReference
from pipeline.checkpoints.header import read_header
from pipeline.errors import BadCheckpoint
from pipeline.loras.bases import BY_TEXT_WIDTH

_PROJECTION, _ATTENTION = "image_proj.", "ip_adapter."
_HEAD = 64  # numbers of a head of the resampler, which no file says

# Names of a resampler's layers in the authors' files, and in diffusers' module.
_RESAMPLER = (
    (re.compile(r"^(layers\.\d+)\.0\.norm1\."), r"\1.ln0."),
    (re.compile(r"^(layers\.\d+)\.0\.norm2\."), r"\1.ln1."),
    (re.compile(r"^(layers\.\d+)\.0\.to_out\."), r"\1.attn.to_out.0."),
    (re.compile(r"^(layers\.\d+)\.0\.to_"), r"\1.attn.to_"),
    (re.compile(r"^(layers\.\d+)\.1\.0\."), r"\1.ff.0."),
    (re.compile(r"^(layers\.\d+)\.1\.1\."), r"\1.ff.1.net.0.proj."),
    (re.compile(r"^(layers\.\d+)\.1\.3\."), r"\1.ff.1.net.2."),
)


@dataclass(frozen=True)
class IPAdapter:
    """An adapter, and the image encoder that it was made with.

    Attributes:
        path: a safetensors file.
        encoder: folder of a CLIP image encoder (transformers' CLIPVisionModelWithProjection), safetensors.
        sha256: of the file, in hexadecimal, if that is to be checked.
        encoder_sha256: of the encoder's weights, likewise.
    """

    path: Path
    encoder: Path
    sha256: str | None = None
    encoder_sha256: str | None = None

    @property
    def name(self) -> str:
        """As errors name it."""
        return self.path.name


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter for one UNet.

    Attributes:
        projections: by the name of a cross-attention layer, the weights that make keys and values of tokens, CD each.
        projection: the picture's embedding to tokens, BND.
        plus: whether it reads hidden states instead of the pooled embedding.
        reads: how many numbers these have.
        tokens: N, how many it makes.
    """

    projections: Mapping[str, tuple[Tensor, Tensor]]
    projection: nn.Module
    plus: bool
    reads: int
    tokens: int


def load_adapter(adapter: IPAdapter, unet: Any, *, device: torch.device, dtype: torch.dtype) -> LoadedAdapter:
    """Read an adapter for a UNet; no communication.

    Args:
        adapter: its file.
        unet: diffusers' module, whose cross-attention layers it was made for.
        device: where its weights go.
        dtype: of its weights.

    Raises:
        BadReference: the file is none, is damaged, is of another kind, or was made for another model.
    """
    stored = _read(adapter)
    own: dict[str, dict[str, Tensor]] = {_PROJECTION: {}, _ATTENTION: {}}
    for key, tensor in stored.items():
        for prefix, part in own.items():
            if key.startswith(prefix):
                part[key.removeprefix(prefix)] = tensor.to(device, dtype)
    if not own[_PROJECTION] or not own[_ATTENTION]:
        raise BadReference(adapter.name, f"it has no tensors named {_PROJECTION}* or {_ATTENTION}*: no IP-Adapter")
    projections = _projections(adapter.name, own[_ATTENTION], unet)
    projection, plus, reads, tokens = _projection(adapter.name, own[_PROJECTION])
    projection = projection.to(device, dtype).eval().requires_grad_(False)
    return LoadedAdapter(projections, projection, plus, reads, tokens)


def _read(adapter: IPAdapter) -> dict[str, Tensor]:
    try:
        header = read_header(adapter.path)
        if adapter.sha256 is not None:
            with adapter.path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != adapter.sha256.lower():
                raise BadReference(adapter.name, f"its SHA-256 is {found}, {adapter.sha256} was wanted")
        with safe_open(adapter.path, framework="pt") as content:
            stored = {key: content.get_tensor(key) for key in header.tensors}
    except BadCheckpoint as error:
        raise BadReference(adapter.name, str(error)) from error
    except (OSError, SafetensorError) as error:
        raise BadReference(adapter.name, f"it cannot be read as safetensors: {error}") from error
    if damaged := [key for key, tensor in stored.items() if not bool(tensor.float().isfinite().all())]:
        raise BadReference(adapter.name, f"{damaged[0]} holds numbers that are not finite: a damaged file")
    return stored


def _projections(name: str, stored: Mapping[str, Tensor], unet: Any) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer: files count attention layers in the order of the UNet's parts, self-attention among them."""
    layers = [
        (site, module)
        for site, module in unet.named_modules()
        if type(module).__name__ == "Attention" and module.is_cross_attention
    ]
    if strange := sorted(key for key in stored if not re.fullmatch(r"\d+\.to_[kv]_ip\.weight", key)):
        raise BadReference(name, f"it has {strange[0]}: IP-Adapter and IP-Adapter Plus are read, FaceID is not")
    found = {}
    for number, (site, module) in enumerate(layers):
        pair = [stored.get(f"{2 * number + 1}.to_{letter}_ip.weight") for letter in "kv"]
        of_keys, of_values = pair
        wanted = tuple(module.to_k.weight.shape)
        for letter, weight in zip("kv", pair, strict=True):
            if weight is None or tuple(weight.shape) != wanted:
                raise BadReference(name, _misfit(f"{2 * number + 1}.to_{letter}_ip.weight", weight, wanted))
        if of_keys is not None and of_values is not None:
            found[site] = (of_keys, of_values)
    if len(stored) != 2 * len(layers):
        raise BadReference(
            name,
            f"it has weights for {len(stored) // 2} cross-attention layers, this model has {len(layers)}: it was made "
            "for another model",
        )
    return found


def _misfit(key: str, weight: Tensor | None, wanted: tuple[int, ...]) -> str:
    if weight is None:
        return f"it has no {key}: it was made for a model with fewer layers"
    if weight.ndim == 2 and weight.shape[1] != wanted[1]:
        base = BY_TEXT_WIDTH.get(weight.shape[1], "another model")
        return f"it was made for {base}: its tokens have {weight.shape[1]} numbers, {wanted[1]} wanted"
    return f"{key} is {tuple(weight.shape)}, {wanted} wanted: it was made for another model"


def _projection(name: str, stored: Mapping[str, Tensor]) -> tuple[nn.Module, bool, int, int]:
    """The module that makes tokens, whether it is a resampler, what it reads, and how many tokens it makes."""
    module: nn.Module
    plus, weights = "latents" in stored, dict[str, Tensor]()
    try:
        if plus:
            tokens, hidden = stored["latents"].shape[1:]
            reads = stored["proj_in.weight"].shape[1]
            module = IPAdapterPlusImageProjection(
                embed_dims=reads,
                output_dims=stored["proj_out.weight"].shape[0],
                hidden_dims=hidden,
                depth=len({key.split(".")[1] for key in stored if key.startswith("layers.")}),
                dim_head=_HEAD,
                heads=stored["layers.0.0.to_q.weight"].shape[0] // _HEAD,
                num_queries=tokens,
                ffn_ratio=stored["layers.0.1.1.weight"].shape[0] / hidden,
            )
            for key, tensor in stored.items():
                own = _renamed(key)
                if own.endswith(".attn.to_kv.weight"):
                    weights[own.replace("to_kv", "to_k")], weights[own.replace("to_kv", "to_v")] = tensor.chunk(2)
                else:
                    weights[own] = tensor
        else:
            wide, reads = stored["proj.weight"].shape
            width = stored["norm.weight"].shape[0]
            tokens = wide // width
            module = ImageProjection(reads, width, tokens)
            weights = {key.replace("proj.", "image_embeds."): tensor for key, tensor in stored.items()}
        module.load_state_dict(weights, strict=True)
    except (KeyError, ValueError, IndexError, RuntimeError, ZeroDivisionError) as error:
        reason = f"what makes tokens of a picture is neither IP-Adapter's nor IP-Adapter Plus': {error}"
        raise BadReference(name, reason.partition("\n")[0]) from error
    return module, plus, reads, tokens


def _renamed(key: str) -> str:
    for pattern, own in _RESAMPLER:
        key = pattern.sub(own, key)
    return key

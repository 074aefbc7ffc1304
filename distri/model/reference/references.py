"""Reference pictures of images: their adapters, loaded on every rank, and their tokens, made on one and kept."""

import hashlib
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from distri.layers.references import ReferenceRows
from distri.model.model import Model
from distri.model.reference.image_encoder import ImageEncoder
from distri.model.reference.ip_adapter import IPAdapter, LoadedAdapter, load_adapter
from distri.ranks import p2p
from distri.ranks.errors import BadReference
from distri.ranks.mesh import Mesh

MOST_ADAPTERS = 4  # of SDXL weigh 0.7 GB each in half precision
KEPT = 256  # tokens of a picture take 0.3 MB in float32
_FORM = 1  # of what is kept elsewhere; it changes with how pictures are read


class KeptTokens(Protocol):
    """Where engines that render parts of one batch leave tokens for each other."""

    def read(self, name: str, size: int) -> bytes | None:
        """Tokens of so many bytes as they were left, or None."""

    def write(self, name: str, tokens: bytes) -> object:
        """Leave them, soon."""


@dataclass(frozen=True)
class ReferencePicture:
    """A picture that an image shall resemble; several add up.

    Attributes:
        adapter: that reads it.
        sha256: names the picture, so that its tokens are made once.
        scale: what its part of cross-attention is multiplied with.
        pixels: uint8, height x width x 3, equal on all ranks of a replica; None as long as they are not read.
        mask: uint8, height x width, at least 128 where the image shall resemble it; it is brought to the shape of the
            image. None is everywhere, or not read.
        masked: whether there is a mask, which may be read later.
        kept: where the leader finds tokens that another engine has made, and leaves its own; None is nowhere.
    """

    adapter: IPAdapter
    sha256: str
    scale: float = 1.0
    pixels: npt.NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    mask: npt.NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    masked: bool = False
    kept: KeptTokens | None = field(default=None, compare=False, repr=False)

    @property
    def kind(self) -> Hashable:
        """What images that are evaluated together must have in common."""
        return self.adapter, self.masked or self.mask is not None


@dataclass(frozen=True)
class ReadReference:
    """A reference whose picture is read, on every rank."""

    reference: ReferencePicture
    adapter: LoadedAdapter
    tokens: Tensor  # 2ND, of the picture and of the negative half

    def rows(self, mask_11HW: Tensor | None, *, negative: bool) -> ReferenceRows:
        """What one half of guidance attends to, in a pass with this mask."""
        scale_111 = torch.full((1, 1, 1), self.reference.scale, dtype=self.tokens.dtype, device=self.tokens.device)
        tokens_1ND = self.tokens[1:] if negative else self.tokens[:1]
        name = f"{self.reference.adapter.path} {self.reference.adapter.sha256 or ''}"
        return ReferenceRows(name, self.adapter.projections, tokens_1ND, scale_111, mask_11HW)


class References:
    """The adapters of a model, and pictures' tokens. All ranks of a replica use it together, with equal arguments.

    Args:
        model: whose UNet attends to them.
        mesh: the leader of the replica has the image encoder, and hands tokens on.
    """

    def __init__(self, model: Model, mesh: Mesh) -> None:
        self._unet, self._mesh = model.unet, mesh
        self._like = {"device": mesh.device, "dtype": model.unet.dtype}
        self._adapters: OrderedDict[IPAdapter, LoadedAdapter] = OrderedDict()
        self._tokens: OrderedDict[tuple[IPAdapter, str], Tensor] = OrderedDict()
        self._encoder: tuple[tuple[Path, str | None], ImageEncoder] | None = None

    def read(self, references: Sequence[ReferencePicture]) -> tuple[ReadReference, ...]:
        """Load what is not there. Blocks where an adapter or a picture is new to the model.

        Raises:
            BadReference: on all ranks of the replica; what was read before it is kept.
        """
        return tuple(self._read(reference) for reference in references)

    def _read(self, reference: ReferencePicture) -> ReadReference:
        if reference.masked and reference.mask is None:
            raise BadReference(reference.adapter.name, "its mask was not read")
        adapter = self._adapter(reference.adapter)
        key = reference.adapter, reference.sha256
        tokens_2ND = self._tokens.pop(key, None)
        if tokens_2ND is None:
            tokens_2ND = self._made(reference, adapter)
        self._tokens[key] = tokens_2ND
        while len(self._tokens) > KEPT:
            self._tokens.popitem(last=False)
        return ReadReference(reference, adapter, tokens_2ND)

    def _adapter(self, wanted: IPAdapter) -> LoadedAdapter:
        found, problem = self._adapters.pop(wanted, None), None
        if found is None:
            try:
                found = load_adapter(wanted, self._unet, **self._like)
            except BadReference as error:
                problem = error
            if not p2p.all_agree(self._mesh, self._mesh.replica, found is not None) or found is None:
                raise problem or BadReference(wanted.name, "another rank cannot use it")
        self._adapters[wanted] = found
        while len(self._adapters) > MOST_ADAPTERS:
            self._adapters.popitem(last=False)
        return found

    def _made(self, reference: ReferencePicture, adapter: LoadedAdapter) -> Tensor:
        """Tokens of a picture and of the negative half: made or found by the leader, broadcast in float32."""
        problem, payload = "", b""
        if self._mesh.is_leader:
            try:
                payload = self._found(reference, adapter)
            except BadReference as error:
                problem = str(error)
        if problem := self._mesh.broadcast_bytes(problem.encode()).decode():
            raise BadReference(reference.adapter.name, problem)
        flat = torch.frombuffer(bytearray(self._mesh.broadcast_bytes(payload)), dtype=torch.float32)
        return flat.view(2, adapter.tokens, -1).to(**self._like)

    def _found(self, reference: ReferencePicture, adapter: LoadedAdapter) -> bytes:
        """Tokens that another engine has left; else they are made, and left for others."""
        kept, name = reference.kept, self._name(reference)
        keys_CD, _ = next(iter(adapter.projections.values()))
        size = 2 * adapter.tokens * keys_CD.shape[1] * torch.float32.itemsize
        if kept is None or name is None:
            return self._encoded(reference, adapter).float().cpu().numpy().tobytes()
        found = kept.read(name, size)
        if found is None:
            found = self._encoded(reference, adapter).float().cpu().numpy().tobytes()
            kept.write(name, found)
        return found

    def _name(self, reference: ReferencePicture) -> str | None:
        """Of all that tokens follow from; None where a digest is not known, and so not checked."""
        adapter = reference.adapter
        if adapter.sha256 is None or adapter.encoder_sha256 is None:
            return None
        parts = _FORM, reference.sha256, adapter.sha256, adapter.encoder_sha256, self._unet.dtype
        return hashlib.sha256(" ".join(map(str, parts)).lower().encode()).hexdigest()

    def _encoded(self, reference: ReferencePicture, adapter: LoadedAdapter) -> Tensor:
        if reference.pixels is None:
            raise BadReference(reference.adapter.name, "its picture was not read")
        encoder = self._encoder_of(reference.adapter)
        given = encoder.hidden_width if adapter.plus else encoder.pooled_width
        if given != adapter.reads:
            raise BadReference(
                reference.adapter.name,
                f"it reads {adapter.reads} numbers of a picture, and {reference.adapter.encoder.name} gives {given}: "
                "it was made with another image encoder",
            )
        sides = [encoder.embed(pixels, hidden=adapter.plus) for pixels in (reference.pixels, None)]
        return torch.as_tensor(adapter.projection(torch.cat(sides)))

    def _encoder_of(self, adapter: IPAdapter) -> ImageEncoder:
        wanted = adapter.encoder, adapter.encoder_sha256
        if self._encoder is None or self._encoder[0] != wanted:
            self._encoder = None  # before the next one is loaded
            self._encoder = wanted, ImageEncoder(*wanted, **self._like)
        return self._encoder[1]

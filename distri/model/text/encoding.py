"""Chunks of tokens through a text encoder, and what weights do to what comes out, as their source has it.

Sources: A1111's modules/sd_emphasis.py (EmphasisOriginal), ComfyUI's comfy/sd1_clip.py (ClipTokenWeightEncoder),
compel 2's compel/embeddings_provider.py and compel.py, with the settings of its CompelForSDXL. Numbers are combined in
float32.
"""

# P chunks, L tokens of one with its start and end (77), C channels

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distri.model.text.chunks import Chunk
from distri.model.text.weighted_prompt import Weighting

LEAST_WEIGHT = 1e-5  # compel's: a weight of zero would need an infinite one for what lacks the words


@dataclass(frozen=True)
class ReadPart:
    """A part as one encoder reads it."""

    chunks: tuple[Chunk, ...]
    weight: float = 1.0


@dataclass(frozen=True)
class ReadBlend:
    """Several of them whose embeddings are summed."""

    parts: tuple[ReadPart, ...]
    normalize: bool
    weight: float = 1.0

    @property
    def pieces(self) -> int:
        return max(len(part.chunks) for part in self.parts)


@dataclass(frozen=True)
class Reading:
    """What one encoder reads of a prompt with weights.

    Attributes:
        weighting: whose rules apply.
        parts: one after the other.
        pooled: what compel pools; None where it is the first chunk.
    """

    weighting: Weighting
    parts: tuple[ReadPart | ReadBlend, ...]
    pooled: Chunk | None = None

    @property
    def pieces(self) -> int:
        """How many chunks it has."""
        return sum(part.pieces if isinstance(part, ReadBlend) else len(part.chunks) for part in self.parts)


@dataclass(frozen=True)
class Layer:
    """A text encoder, of whose layers one is read.

    Attributes:
        tokenizer, encoder: as transformers has them; they are not changed.
        clip_skip: counted from the last layer, which is 1.
    """

    tokenizer: Any
    encoder: Any
    clip_skip: int

    def run(self, chunks: Sequence[Chunk], mask_PL: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the layer gives for chunks, and the first output of the encoder (pooled, of one with a projection).

        Args:
            chunks: of tokens, without start and end; filled up.
            mask_PL: 0 where a token is not attended to.

        Returns:
            PLC; and the output as it is.
        """
        tokenizer = self.tokenizer
        ids_PL = torch.full((len(chunks), tokenizer.model_max_length), tokenizer.pad_token_id)
        placed = []
        for place, (row_L, chunk) in enumerate(zip(ids_PL, chunks, strict=True)):
            marked = (tokenizer.bos_token_id, *(token.id for token in chunk), tokenizer.eos_token_id)
            row_L[: len(marked)] = torch.tensor(marked)
            placed += [
                (place, at, token.vector.values) for at, token in enumerate(chunk, start=1) if token.vector is not None
            ]
        masked = {} if mask_PL is None else {"attention_mask": mask_PL.to(self.encoder.device)}
        with _vectors(self.encoder, placed):
            output = self.encoder(ids_PL.to(self.encoder.device), output_hidden_states=True, **masked)
        return output.hidden_states[-self.clip_skip], output[0]


@contextmanager
def _vectors(encoder: Any, placed: Sequence[tuple[int, int, Tensor]]) -> Iterator[None]:
    """Within the block, tokens at these chunks and places are embedded to these vectors."""
    if not placed:
        yield
        return

    def put(_module: Any, _inputs: Any, embedded_PLC: Tensor) -> Tensor:
        changed_PLC = embedded_PLC.clone()
        for chunk, at, values in placed:
            changed_PLC[chunk, at] = values.to(changed_PLC)
        return changed_PLC

    handle = encoder.get_input_embeddings().register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def encode(layer: Layer, reading: Reading, *, pieces: int) -> tuple[Tensor, Tensor]:
    """Embed what one encoder reads, with its weights.

    Args:
        layer: the encoder's.
        reading: of at most so many pieces.
        pieces: length; it is filled up with empty chunks.

    Returns:
        1LC, L being 77 a piece; and the encoder's first output for the chunk that is pooled, 1C of one with a
        projection.
    """
    missing: tuple[Chunk, ...] = ((),) * (pieces - reading.pieces)
    if reading.weighting is Weighting.COMPEL:
        states, first = _compel(layer, reading, missing)
    else:
        parts = [part for part in reading.parts if isinstance(part, ReadPart)]
        if len(parts) < len(reading.parts):
            raise AssertionError("only compel blends")
        chunks = [*(chunk for part in parts for chunk in part.chunks), *missing]
        states, first = (_a1111 if reading.weighting is Weighting.A1111 else _comfy)(layer, chunks)
    return states.flatten(0, 1)[None].to(layer.encoder.dtype), first


def _a1111(layer: Layer, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
    """Each chunk times its tokens' weights, and brought back to the mean that it had."""
    states_PLC, first = layer.run(chunks)
    if not _weighs(chunks):
        return states_PLC, first[:1]
    before_PLC = states_PLC.float()
    weighted_PLC = before_PLC * _weights(layer, chunks)
    ratio_P = before_PLC.mean(dim=(1, 2)) / weighted_PLC.mean(dim=(1, 2))
    return weighted_PLC * ratio_P[:, None, None], first[:1]


def _comfy(layer: Layer, chunks: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
    """Each token as far from that of the empty prompt as its weight says."""
    if not _weighs(chunks):
        states_PLC, first = layer.run(chunks)
        return states_PLC, first[:1]
    states_PLC, first = layer.run([*chunks, ()])
    return _from_empty(states_PLC[:-1], states_PLC[-1:], _weights(layer, chunks)), first[:1]


def _compel(layer: Layer, reading: Reading, missing: Sequence[Chunk]) -> tuple[Tensor, Tensor]:
    """Up as ComfyUI does; down by a mean with the embedding that does not attend to the words."""
    states_2LC, first = layer.run([(), _first_chunk(reading) if reading.pooled is None else reading.pooled])
    empty_1LC = states_2LC[:1]
    states = [_compel_operand(layer, part, empty_1LC) for part in reading.parts]
    return torch.cat([*states, *(empty_1LC.float() for _ in missing)]), first[1:]


def _compel_operand(layer: Layer, part: ReadPart | ReadBlend, empty_1LC: Tensor) -> Tensor:
    """One of what compel's `.and()` joins, or all there is; PLC."""
    if isinstance(part, ReadPart):
        states_PLC = _compel_part(layer, part.chunks, empty_1LC)
    else:
        filled = [(*one.chunks, *((),) * (part.pieces - len(one.chunks))) for one in part.parts]
        weights = [one.weight for one in part.parts]
        total = sum(weights) if part.normalize else 1.0
        states_PLC = torch.stack(
            [
                _compel_part(layer, chunks, empty_1LC) * (own / total)
                for chunks, own in zip(filled, weights, strict=True)
            ]
        ).sum(dim=0)
    if part.weight == 1:
        return states_PLC
    return empty_1LC.float() + (states_PLC - empty_1LC.float()) * part.weight


def _compel_part(layer: Layer, chunks: Sequence[Chunk], empty_1LC: Tensor) -> Tensor:
    weights_PL1 = _weights(layer, chunks)
    states_PLC, _ = layer.run(chunks)
    summed_PLC = _from_empty(states_PLC, empty_1LC, weights_PL1)
    total = 1.0
    length = layer.tokenizer.model_max_length
    places: dict[int, list[int]] = {}  # of each span's tokens, counted through all chunks
    own: dict[int, float] = {}
    for number, chunk in enumerate(chunks):
        for at, token in enumerate(chunk, start=1):
            places.setdefault(token.span, []).append(number * length + at)
            own[token.span] = token.weight
    for span, tokens in places.items():
        if own[span] >= 1:
            continue
        mask_PL = torch.ones(len(chunks), length, dtype=torch.long)
        mask_PL.view(-1)[tokens[0] : tokens[-1] + 1] = 0
        mask_PL[:, 0] = mask_PL[:, -1] = 1
        without_PLC, _ = layer.run(chunks, mask_PL)
        share = math.tan((1 - max(LEAST_WEIGHT, own[span])) * math.pi / 2)
        summed_PLC = summed_PLC + _from_empty(without_PLC, empty_1LC, weights_PL1) * share
        total += share
    return summed_PLC / total


def _first_chunk(reading: Reading) -> Chunk:
    part = reading.parts[0]
    return (part.parts[0] if isinstance(part, ReadBlend) else part).chunks[0]


def _from_empty(states_PLC: Tensor, empty_1LC: Tensor, weights_PL1: Tensor) -> Tensor:
    states_PLC, empty_1LC = states_PLC.float(), empty_1LC.float()
    return torch.where(weights_PL1 == 1, states_PLC, empty_1LC + (states_PLC - empty_1LC) * weights_PL1)


def _weighs(chunks: Sequence[Chunk]) -> bool:
    """Whether any token has a weight; asked of the host, so that no device is waited for."""
    return any(token.weight != 1 for chunk in chunks for token in chunk)


def _weights(layer: Layer, chunks: Sequence[Chunk]) -> Tensor:
    """Of every token; start, end and what fills up have 1."""
    weights_PL1 = torch.ones(len(chunks), layer.tokenizer.model_max_length, 1)
    for row_L1, chunk in zip(weights_PL1, chunks, strict=True):
        row_L1[1 : len(chunk) + 1, 0] = torch.tensor([token.weight for token in chunk])
    return weights_PL1.to(layer.encoder.device)

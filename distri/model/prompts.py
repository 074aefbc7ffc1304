"""Prompts to the embeddings that SDXL is conditioned on; what does not fit is read in pieces, left out, or refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from distri.ranks.errors import PromptTooLong

MARKS = 2  # the start and the end token around every piece


class LongPrompt(Enum):
    """What becomes of a text of more tokens than an encoder reads at once."""

    CHUNK = "chunk"  # read in pieces, whose embeddings are joined
    TRUNCATE = "truncate"  # its end is left out
    ERROR = "error"  # refused


@dataclass(frozen=True)
class Text:
    """A text as one encoder reads it.

    Attributes:
        pieces: token ids without start and end; at least one piece, which may be empty.
        left_out: the end of the text as it was written, where it was truncated.
    """

    pieces: tuple[tuple[int, ...], ...]
    left_out: str = ""


@dataclass(frozen=True)
class Prompts:
    """What both encoders read for one image.

    Attributes:
        positive: one text an encoder.
        negative: likewise; None within stands for zeroed embeddings, None for the whole means without guidance.
        left_out: by field, what was left out of it.
    """

    positive: tuple[Text | None, ...]
    negative: tuple[Text | None, ...] | None
    left_out: dict[str, str]

    @property
    def pieces(self) -> int:
        """How many pieces the longest text has; all are filled up to it, since both halves need one length."""
        texts = (*self.positive, *(self.negative or ()))
        return max((len(text.pieces) for text in texts if text is not None), default=1)


@dataclass(frozen=True)
class Embedding:
    """One prompt as the UNet reads it.

    Attributes:
        text: 1LC, the last but one layer of both encoders side by side; L is 77 for each piece.
        pooled: 1C, the projection of the second encoder, of the first piece.
    """

    text: Tensor
    pooled: Tensor


def read(
    tokenizers: Sequence[Any],
    positive: tuple[str, str | None],
    negative: tuple[str | None, str | None] | None,
    *,
    long: LongPrompt,
    zeros_for_none: bool,
) -> Prompts:
    """Read an image's texts; the same on every rank, before any collective.

    Args:
        tokenizers: one an encoder.
        positive: prompt, and that for the second encoder; None is the prompt itself.
        negative: likewise. A first one of None is no negative prompt at all; the empty text is encoded instead and
            gives another image. None for the whole: it is not needed.
        long: what becomes of texts that do not fit.
        zeros_for_none: whether no negative prompt means zeroed embeddings (SDXL base) or the empty text.

    Raises:
        PromptTooLong: a text does not fit and is to be refused.
    """
    left_out: dict[str, str] = {}

    def both(first: str | None, second: str | None, field: str) -> tuple[Text | None, ...]:
        fields = (field, field if second is None else f"{field}_2")
        texts: list[Text | None] = []
        for tokenizer, text, name in zip(tokenizers, (first, first if second is None else second), fields, strict=True):
            if text is None and zeros_for_none:
                texts.append(None)
                continue
            texts.append(found := _pieces(tokenizer, text or "", field=name, long=long))
            if len(found.left_out) > len(left_out.get(name, "")):
                left_out[name] = found.left_out
        return tuple(texts)

    return Prompts(
        both(*positive, "prompt"), None if negative is None else both(*negative, "negative_prompt"), left_out
    )


def encode(
    tokenizers: Sequence[Any], encoders: Sequence[Any], texts: Sequence[Text | None], *, pieces: int
) -> Embedding:
    """Embed one side of an image. Every rank encodes for itself: cheaper than a broadcast is worth.

    Args:
        tokenizers, encoders: two each; the second encoder has a projection.
        texts: one an encoder; None gives zeros.
        pieces: length in pieces; texts with fewer are filled up with empty ones.
    """
    hidden = []
    pooled = torch.empty(0)
    for tokenizer, encoder, text in zip(tokenizers, encoders, texts, strict=True):
        limit = tokenizer.model_max_length
        if text is None:
            config = encoder.config
            hidden.append(
                torch.zeros(1, pieces * limit, config.hidden_size, dtype=encoder.dtype, device=encoder.device)
            )
            pooled = torch.zeros(1, config.projection_dim, dtype=encoder.dtype, device=encoder.device)
            continue
        filled = [*text.pieces, *[()] * (pieces - len(text.pieces))]
        ids_PL = torch.full((pieces, limit), tokenizer.pad_token_id)
        for row_L, piece in zip(ids_PL, filled, strict=True):
            marked = (tokenizer.bos_token_id, *piece, tokenizer.eos_token_id)
            row_L[: len(marked)] = torch.tensor(marked)
        output = encoder(ids_PL.to(encoder.device), output_hidden_states=True)
        hidden.append(output.hidden_states[-2].flatten(0, 1)[None])
        pooled = output[0][:1]
    return Embedding(torch.cat(hidden, dim=-1), pooled)


def _pieces(tokenizer: Any, text: str, *, field: str, long: LongPrompt) -> Text:
    encoded = tokenizer(text, add_special_tokens=False, truncation=False, return_offsets_mapping=True, verbose=False)
    ids, room = encoded.input_ids, tokenizer.model_max_length - MARKS
    if len(ids) > room and long is LongPrompt.ERROR:
        raise PromptTooLong(field=field, tokens=len(ids) + MARKS, limit=tokenizer.model_max_length)
    if len(ids) > room and long is LongPrompt.TRUNCATE:
        start, _ = encoded.offset_mapping[room]
        return Text((tuple(ids[:room]),), text[start:])
    return Text(tuple(tuple(ids[start : start + room]) for start in range(0, max(1, len(ids)), room)))

"""Prompts to the embeddings that SDXL is conditioned on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distri.errors import PromptTooLong


@dataclass(frozen=True)
class Embedding:
    """One prompt as the UNet reads it.

    Attributes:
        text: 1LC, the last but one layer of both encoders side by side.
        pooled: 1C, the projection of the second encoder.
    """

    text: Tensor
    pooled: Tensor

    def zeroed(self) -> "Embedding":
        """What stands for "no negative prompt at all"; the empty text is encoded instead and gives another image."""
        return Embedding(torch.zeros_like(self.text), torch.zeros_like(self.pooled))


def refuse_long(tokenizers: Sequence[Any], text: str, *, field: str) -> None:
    """Raise PromptTooLong when a text does not fit an encoder; the same on every rank, before any collective."""
    for tokenizer in tokenizers:
        tokens = len(tokenizer(text, truncation=False, verbose=False).input_ids)
        if tokens > tokenizer.model_max_length:
            raise PromptTooLong(field=field, tokens=tokens, limit=tokenizer.model_max_length)


def encode(tokenizers: Sequence[Any], encoders: Sequence[Any], text: str, *, device: torch.device) -> Embedding:
    """Embed a text that fits. Every rank encodes for itself: cheaper than a broadcast is worth."""
    hidden, pooled = [], None
    for tokenizer, encoder in zip(tokenizers, encoders, strict=True):
        tokens = tokenizer(text, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
        output = encoder(tokens.input_ids.to(device), output_hidden_states=True)
        hidden.append(output.hidden_states[-2])
        pooled = output[0]
    if pooled is None or pooled.ndim != 2:
        raise AssertionError("the last text encoder has no projection")
    return Embedding(torch.cat(hidden, dim=-1), pooled)

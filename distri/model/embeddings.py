"""A model's embeddings of texts: made before their image's turn, and kept while other images may have the same."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from distri.model import prompts
from distri.model.model import Model
from distri.model.prompts import Embedding, Prompts, Text
from distri.ranks.spans import RenderSpan, Spans

# An embedding of one piece takes 630 KB in float32 with SDXL's encoders. Most batches have one negative prompt.
KEPT = 16


@dataclass(frozen=True)
class _Side:
    """One side of an image: a text an encoder, filled up to so many pieces."""

    texts: tuple[Text | None, ...]
    pieces: int


class Embeddings:
    """The last embeddings of a model whose text encoders do not change until they are forgotten.

    One thread embeds ahead, while the caller denoises. It embeds as the caller would, so nothing depends on whether it
    came first; it communicates with nobody. On a GPU both use the current stream, so that its order is that of calls.
    """

    def __init__(self, model: Model, spans: Spans) -> None:
        self._model, self._spans = model, spans
        self._kept: OrderedDict[_Side, Embedding] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._ahead: Future[None] | None = None

    def of(self, image: Prompts) -> tuple[Embedding, Embedding | None]:
        """The positive side of an image, and the negative one or None without guidance. Every rank by itself."""
        self._wait()
        positive, *negative = (self._embedding(side) for side in _sides(image))
        return positive, negative[0] if negative else None

    def embed_ahead(self, image: Prompts) -> None:
        """Embed an image's texts in the background. What fails is tried again, and raises, when it is asked for."""
        self._wait()
        self._ahead = self._thread.submit(self._embed, _sides(image))

    def forget(self) -> None:
        """Drop what is kept: the encoders are about to change."""
        self._wait()
        self._kept.clear()

    def _wait(self) -> None:
        if self._ahead is not None:
            wait((self._ahead,))
            self._ahead = None

    @torch.inference_mode()
    def _embed(self, sides: Sequence[_Side]) -> None:
        with self._spans.span(RenderSpan.ENCODE, track="prompts"):
            for side in sides:
                self._embedding(side)

    def _embedding(self, side: _Side) -> Embedding:
        found = self._kept.pop(side, None)
        if found is None:
            model = self._model
            found = prompts.encode(model.tokenizers, model.text_encoders, side.texts, pieces=side.pieces)
        self._kept[side] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found


def _sides(image: Prompts) -> list[_Side]:
    return [_Side(texts, image.pieces) for texts in (image.positive, image.negative) if texts is not None]

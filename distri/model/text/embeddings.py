"""A model's embeddings of texts: made before their image's turn, and kept while other images may have the same."""

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch
from torch import Tensor

from distri.model.model import Model
from distri.model.text.chunks import Token
from distri.model.text.encoding import Layer, encode
from distri.model.text.prompts import Fit, Prompts, Side, Text, Wording
from distri.model.text.timeline import Timeline
from distri.ranks.spans import RenderSpan, Spans

# An embedding of one piece takes 630 KB in float32 with SDXL's encoders. Most batches have one negative prompt.
KEPT = 16


@dataclass(frozen=True)
class Embedding:
    """One prompt as the UNet reads it.

    Attributes:
        text: 1LC, a layer of both encoders side by side; L is 77 for each piece.
        pooled: 1C, the projection of the second encoder, of the first piece.
    """

    text: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class EmbeddedSide:
    """A prompt's embeddings by step, in the first pass and in those that refine, and the weight of its guidance."""

    first: Timeline[Embedding]
    later: Timeline[Embedding]
    weight: float


@dataclass(frozen=True)
class EmbeddedPrompts:
    """All embeddings of an image, of one length; `negative` is None without guidance."""

    positives: tuple[EmbeddedSide, ...]
    negative: EmbeddedSide | None


@dataclass(frozen=True)
class _Key:
    """What an embedding is made of: so many pieces of a wording, and the layer that is read."""

    wording: Wording
    pieces: int
    clip_skip: int


class Embeddings:
    """The last embeddings of a model whose text encoders do not change until they are forgotten.

    One thread embeds ahead, while the caller denoises. It embeds as the caller would, so nothing depends on whether it
    came first; it communicates with nobody. On a GPU both use the current stream, so that its order is that of calls.
    """

    def __init__(self, model: Model, spans: Spans) -> None:
        self._model, self._spans = model, spans
        self._kept: OrderedDict[_Key, Embedding] = OrderedDict()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompts")
        self._ahead: Future[None] | None = None

    def of(self, image: Prompts, clip_skip: int) -> EmbeddedPrompts:
        """All that an image's prompts say at some step. Every rank by itself."""
        self._wait()
        # In the order in which they are embedded ahead; what an image has is held here, however much it is.
        found = {key: self._embedding(key) for key in _keys(image, clip_skip)}

        def embedded(side: Side) -> EmbeddedSide:
            def of(wording: Wording) -> Embedding:
                return _fitted(found[_Key(wording, side.fit.filled, clip_skip)], side.fit)

            return EmbeddedSide(side.first.map(of), side.later.map(of), side.weight)

        negative = None if image.negative is None else embedded(image.negative)
        return EmbeddedPrompts(tuple(embedded(side) for side in image.positives), negative)

    def embed_ahead(self, image: Prompts, clip_skip: int) -> None:
        """Embed an image's texts in the background. What fails is tried again, and raises, when it is asked for."""
        self._wait()
        self._ahead = self._thread.submit(self._embed, _keys(image, clip_skip))

    def forget(self) -> None:
        """Drop what is kept: the encoders are about to change."""
        self._wait()
        self._kept.clear()

    def _wait(self) -> None:
        if self._ahead is not None:
            wait((self._ahead,))
            self._ahead = None

    @torch.inference_mode()
    def _embed(self, keys: Sequence[_Key]) -> None:
        with self._spans.span(RenderSpan.ENCODE, track="prompts"):
            for key in keys:
                self._embedding(key)

    def _embedding(self, key: _Key) -> Embedding:
        found = self._kept.pop(key, None)
        if found is None:
            found = _embed(self._model, key)
        self._kept[key] = found
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return found


def _keys(image: Prompts, clip_skip: int) -> list[_Key]:
    return [_Key(wording, side.fit.filled, clip_skip) for side in image.sides for wording in side.wordings]


def _embed(model: Model, key: _Key) -> Embedding:
    """Embed a wording. Every rank does it for itself: cheaper than a broadcast is worth."""
    hidden = []
    pooled = torch.empty(0)
    for tokenizer, encoder, text in zip(model.tokenizers, model.text_encoders, key.wording.texts, strict=True):
        if text is None:
            config, like = encoder.config, {"dtype": encoder.dtype, "device": encoder.device}
            hidden.append(torch.zeros(1, key.pieces * tokenizer.model_max_length, config.hidden_size, **like))
            pooled = torch.zeros(1, config.projection_dim, **like)
            continue
        layer = Layer(tokenizer, encoder, key.clip_skip)
        if isinstance(text, Text):
            pieces = [tuple(Token(one) for one in piece) for piece in text.pieces]
            states_PLC, first = layer.run([*pieces, *[()] * (key.pieces - len(pieces))])
            states_1LC, pooled = states_PLC.flatten(0, 1)[None], first[:1]
        else:
            states_1LC, pooled = encode(layer, text, pieces=key.pieces)
        hidden.append(states_1LC)
    return Embedding(torch.cat(hidden, dim=-1), pooled)


def _fitted(embedding: Embedding, fit: Fit) -> Embedding:
    """The same at the length of all that an image has."""
    text_1LC = embedding.text
    if fit.extended > fit.filled:
        more = text_1LC.shape[1] // fit.filled * (fit.extended - fit.filled)
        text_1LC = torch.cat([text_1LC, text_1LC[:, -1:].expand(-1, more, -1)], dim=1)
    if fit.total > fit.extended:
        text_1LC = text_1LC.repeat(1, fit.total // fit.extended, 1)
    return Embedding(text_1LC, embedding.pooled)

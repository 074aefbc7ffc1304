"""Prompts as the encoders of SDXL read them."""

from dataclasses import dataclass
from enum import Enum

from distri.model.text.encoding import Reading
from distri.model.text.timeline import Timeline

MARKS = 2  # the start and the end token around every piece


class LongPrompt(Enum):
    """What becomes of a text of more tokens than an encoder reads at once."""

    CHUNK = "chunk"  # read in pieces, whose embeddings are joined
    TRUNCATE = "truncate"  # its end is left out
    ERROR = "error"  # refused


@dataclass(frozen=True)
class Text:
    """A literal text as one encoder reads it.

    Attributes:
        pieces: token ids without start and end; at least one piece, which may be empty.
        left_out: the end of the text as it was written, where it was truncated.
    """

    pieces: tuple[tuple[int, ...], ...]
    left_out: str = ""


@dataclass(frozen=True)
class Wording:
    """What both encoders read at once. None within stands for zeroed embeddings."""

    texts: tuple[Text | Reading | None, ...]

    @property
    def pieces(self) -> int:
        """How many pieces the longest text has; all are filled up to it."""
        own = (
            text.pieces if isinstance(text, Reading) else len(text.pieces) for text in self.texts if text is not None
        )
        return max(own, default=1)


@dataclass(frozen=True)
class Fit:
    """How texts of different lengths, in pieces, come to one, since all conditions of an image need one.

    Attributes:
        filled: up to this, empty pieces are embedded with the text.
        extended: up to this, its last vector is repeated: what A1111 does among prompts joined by AND.
        total: up to this, it is repeated as a whole, which changes nothing for attention: A1111 evaluates halves of
            different lengths one by one, ComfyUI repeats them too.
    """

    filled: int
    extended: int
    total: int


@dataclass(frozen=True)
class Side:
    """The prompt, one of several joined by AND, or the negative prompt.

    Attributes:
        first: its wording by step in the first pass.
        later: likewise in those that refine.
        weight: of its guidance.
        fit: of all its wordings.
    """

    first: Timeline[Wording]
    later: Timeline[Wording]
    weight: float
    fit: Fit

    @property
    def wordings(self) -> tuple[Wording, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.first.values, *self.later.values)))


@dataclass(frozen=True)
class Prompts:
    """What both encoders read for one image.

    Attributes:
        positives: at least one.
        negative: None means without guidance.
        left_out: by field, what was left out of it.
    """

    positives: tuple[Side, ...]
    negative: Side | None
    left_out: dict[str, str]

    @property
    def sides(self) -> tuple[Side, ...]:
        """All of them."""
        return self.positives if self.negative is None else (*self.positives, self.negative)

    @property
    def pieces(self) -> int:
        """Length of all embeddings."""
        return self.positives[0].fit.total

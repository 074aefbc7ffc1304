"""CLIP's byte-pair encoding: the vocabulary of SDXL's two text encoders, and the tokens of a text, without torch.

The merges are those of `bpe_simple_vocab_16e6.txt` (OpenAI's CLIP and open_clip, MIT licence, see data/README.md).
Texts are read as the tokenizers of transformers read them: NFC, white space as one blank, lower case. The method is
that of Sennrich, Haddow and Birch 2016.
"""

from __future__ import annotations

import functools
import json
import re
import unicodedata
from importlib.resources import files
from itertools import pairwise
from pathlib import Path

import zstandard

START, END = "<|startoftext|>", "<|endoftext|>"
CONTEXT_TOKENS = 77  # start and end included
MARKS = 2  # the start and the end token
MERGES = 49152 - 2 * 256 - 2
MAX_COUNTED_WORDS = 65_536

_WORD_END = "</w>"
_SPECIAL = re.compile(f"({re.escape(START)}|{re.escape(END)})")
# Python's \w without digits and underscore still has numbers that are no digits, such as 2 squared.
_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|(?:(?![{numbers}])[^\W\d_])+|[\d{numbers}]|(?:(?![{numbers}])[^\s\w]|_)+"


def merges() -> list[tuple[str, str]]:
    """The pairs in the order in which they are merged."""
    packed = files("pipeline.checkpoints").joinpath("data/clip-merges.txt.zst").read_bytes()
    lines = zstandard.ZstdDecompressor().decompress(packed).decode().splitlines()
    return [(first, second) for first, second in (line.split() for line in lines)]


@functools.cache
def vocabulary() -> dict[str, int]:
    """Each token's number: bytes, bytes that end a word, merged pairs, start and end."""
    letters = list(_letter_of_byte().values())
    pairs = ["".join(pair) for pair in merges()]
    tokens = [*letters, *(letter + _WORD_END for letter in letters), *pairs, START, END]
    return {token: number for number, token in enumerate(tokens)}


def token_ids(text: str) -> list[int]:
    """The tokens of a text, without the start and the end that an encoder puts around it.

    What the text says of `<|startoftext|>` and `<|endoftext|>` is those tokens.
    """
    known, ids = vocabulary(), list[int]()
    for part in _SPECIAL.split(text):
        if part in (START, END):
            ids.append(known[part])
            continue
        # Letter by letter: str.lower makes another sigma at the end of a word, which the tokenizers do not.
        plain = "".join(map(str.lower, re.sub(r"\s+", " ", unicodedata.normalize("NFC", part))))
        for word in _words(plain.isascii()).findall(plain):
            ids += _tokens_of(word)
    return ids


def count_tokens(text: str) -> int:
    """How many tokens an encoder reads for a text, start and end included; at most `CONTEXT_TOKENS` at once."""
    return sum(map(_COUNTS.__getitem__, text.split())) + MARKS


def has_clip_vocabulary(folder: Path) -> bool | None:
    """Whether the tokenizers of a diffusers folder have CLIP's vocabulary; None if none of them can be read here."""
    for name in ("tokenizer/tokenizer.json", "tokenizer/vocab.json"):
        try:
            read = json.loads((folder / name).read_bytes())
        except (OSError, ValueError, RecursionError):
            continue
        found = read.get("model", {}).get("vocab") if name.endswith("tokenizer.json") else read
        return bool(found == vocabulary())
    return None


class _Counts(dict[str, int]):
    """Tokens by what stands between two blanks, which no token spans: a million prompts have few such words."""

    def __missing__(self, word: str) -> int:
        if len(self) >= MAX_COUNTED_WORDS:
            self.clear()
        count = self[word] = len(token_ids(word))
        return count


_COUNTS = _Counts()


@functools.cache
def _words(ascii_only: bool) -> re.Pattern[str]:
    """Contractions, runs of letters, single numbers, runs of all else; the first use with other letters takes 0.2 s."""
    if ascii_only:
        return re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
    others = (chr(code) for code in range(128, 0x110000) if unicodedata.category(chr(code)) in ("No", "Nl"))
    return re.compile(_PIECES.format(numbers="".join(others)))


@functools.cache
def _ranks() -> dict[tuple[str, str], int]:
    return {pair: rank for rank, pair in enumerate(merges())}


@functools.cache
def _letter_of_byte() -> dict[int, str]:
    """One printable letter for each byte, in the order of the vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    return letters | {byte: chr(256 + number) for number, byte in enumerate(others)}


@functools.lru_cache(maxsize=65536)
def _tokens_of(word: str) -> tuple[int, ...]:
    ranks, letters = _ranks(), _letter_of_byte()
    parts = [letters[byte] for byte in word.encode()]
    parts[-1] += _WORD_END
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, MERGES))
        if best not in ranks:
            break
        merged, place = list[str](), 0
        while place < len(parts):
            if tuple(parts[place : place + 2]) == best:
                merged.append("".join(best))
                place += 2
            else:
                merged.append(parts[place])
                place += 1
        parts = merged
    known = vocabulary()
    return tuple(known[part] for part in parts)

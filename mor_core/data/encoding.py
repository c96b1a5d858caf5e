"""Encoding many documents: each distinct word of ASCII text is encoded once.

Byte-level BPE never merges across words, so the tokens of a text are those of its words. Source code repeats few
words very often: looking them up takes a quarter of the processor time of encoding every occurrence, and gives
the same ids. Text beyond ASCII goes through the tokenizer as it is.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ASCII_WORD = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
    re.ASCII,
)
"""The words that the ByteLevel pre-tokenizer (GPT-2's pattern) finds, for text of ASCII characters."""

MOST_WORDS = 1_000_000
"""Distinct words remembered; text with more, such as hexadecimal tables, encodes the rest again each time."""

DOCUMENTS_AT_ONCE = 256
"""Documents given to the tokenizer in one call, over which it spreads its threads."""


def encoded(tokenizer: "Tokenizer", texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
    """The token ids of each text, in order, exactly as `tokenizer.encode` gives them."""
    words = _Words(tokenizer)
    remaining = iter(texts)
    while batch := list(islice(remaining, DOCUMENTS_AT_ONCE)):
        beyond_ascii = [text for text in batch if not text.isascii()]
        encodings = iter(tokenizer.encode_batch_fast(beyond_ascii, add_special_tokens=False))
        for text in batch:
            if text.isascii():
                ids = b"".join(map(words.__getitem__, ASCII_WORD.findall(text)))
                yield np.frombuffer(ids, dtype=np.uint32)
            else:
                yield np.array(next(encodings).ids, dtype=np.uint32)


class _Words(dict[str, bytes]):
    """The ids of each word met so far, as the raw bytes of 32-bit integers, ready to be joined."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, word: str) -> bytes:
        ids = self._tokenizer.encode(word, add_special_tokens=False).ids
        raw = np.array(ids, dtype=np.uint32).tobytes()
        if len(self) < MOST_WORDS:
            self[word] = raw
        return raw

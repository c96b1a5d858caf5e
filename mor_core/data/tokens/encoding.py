"""Encoding many documents: each distinct word is encoded once.

Byte-level BPE never merges across words, so the tokens of a text are those of its words. Text repeats few words very
often: looking them up takes a quarter to a half of the processor time of encoding every occurrence, and gives the same
ids. Tokenizers that find words in another way encode text as it is.
"""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ASCII_WORD = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+",
    re.ASCII,
)
"""The words that the ByteLevel pre-tokenizer (GPT-2's pattern) finds, for text of ASCII characters."""

STRETCH = re.compile(r"[^\S\x1c-\x1f]*[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+")
"""White space and what follows up to the next white space. That pattern always ends a word where white space begins,
so words never reach out of a stretch, whatever its characters. (Python alone takes 1C to 1F for white space.)"""

MOST_WORDS = 1_000_000
"""Distinct words remembered; text with more, such as hexadecimal tables, encodes the rest again each time."""

DOCUMENTS_AT_ONCE = 256
"""Documents given to the tokenizer in one call, over which it spreads its threads."""


def encoded(tokenizer: "Tokenizer", texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
    """The token ids of each text, in order, exactly as `tokenizer.encode` gives them without special tokens."""
    kinds = _pre_tokenizers(tokenizer)
    if kinds not in (["ByteLevel"], ["Digits", "ByteLevel"]):
        yield from _as_they_are(tokenizer, texts)
        return
    # Digits cuts before a number, which changes what the white space before it is: only stretches hold both
    by_word, ids_of_words = kinds == ["ByteLevel"], _Words(tokenizer)
    for text in texts:
        words = ASCII_WORD if by_word and text.isascii() else STRETCH
        ids = b"".join(map(ids_of_words.__getitem__, words.findall(text)))
        yield np.frombuffer(ids, dtype=np.uint32)


def _as_they_are(tokenizer: "Tokenizer", texts: Iterable[str]) -> Iterator[NDArray[np.uint32]]:
    remaining = iter(texts)
    while batch := list(islice(remaining, DOCUMENTS_AT_ONCE)):
        for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
            yield np.array(encoding.ids, dtype=np.uint32)


def _pre_tokenizers(tokenizer: "Tokenizer") -> list[str]:
    """The steps by which a tokenizer finds words in text, or none where something else may look at more than a word."""
    described: dict[str, Any] = json.loads(tokenizer.to_str())
    step = described.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", [step])
    plain = (
        described["model"].get("type") == "BPE"
        and described.get("normalizer") is None
        and all(added["special"] for added in described["added_tokens"])  # taken for text, see load_tokenizer
        and all(step.get("use_regex", True) and not step.get("add_prefix_space", False) for step in steps)
    )
    return [str(step.get("type")) for step in steps] if plain else []


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

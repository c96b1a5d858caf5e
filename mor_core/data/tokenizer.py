"""Byte-level BPE: trained on the training part, the same tokenizer for the same text every time."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0

SAMPLE_BYTES = 10_000_000
"""Bytes of text that merges are counted on. Documents come in hash order, so the first are a fair sample."""


def train_tokenizer(documents: Iterable[str], vocab_size: int) -> "Tokenizer":
    """Learn byte-level BPE from the first `SAMPLE_BYTES` of `documents`.

    Every byte has an id, so any text can be encoded. A text too small for `vocab_size` ids gives a tokenizer
    with fewer; the ids above then never occur.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample(documents, SAMPLE_BYTES), trainer)
    return _plain(tokenizer)


def load_tokenizer(path: Path) -> "Tokenizer":
    """The tokenizer in a tokenizer.json; text that spells `<|endoftext|>` is encoded as ordinary text."""
    from tokenizers import Tokenizer

    return _plain(Tokenizer.from_file(str(path)))


def token_bytes(tokenizer_file: Path, vocab_size: int) -> NDArray[np.int64]:
    """How many bytes of text each id stands for; [vocab_size], 0 for the end of text and for unused ids.

    Bits per byte of a text are its summed loss in nats / ln 2 / the sum of this over its tokens. In byte-level
    BPE a token is spelled with one character a byte, so the length of the spelling is the number of bytes.
    """
    vocabulary = json.loads(tokenizer_file.read_bytes())["model"]["vocab"]
    counts = np.zeros(vocab_size, dtype=np.int64)
    for spelling, token in vocabulary.items():
        counts[token] = len(spelling)
    counts[END_OF_TEXT_ID] = 0
    return counts


def _plain(tokenizer: "Tokenizer") -> "Tokenizer":
    # else a document that spells the special token would end there, and its bytes would not be counted
    tokenizer.encode_special_tokens = True
    return tokenizer


def _sample(documents: Iterable[str], max_bytes: int) -> Iterator[str]:
    taken = 0
    for text in documents:
        yield text
        taken += len(text.encode())
        if taken >= max_bytes:
            return

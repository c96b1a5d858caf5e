"""Documents to token shards: encoded once, with an end-of-text token after each document."""

import hashlib
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, tee
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mor_core.data.cache_files import published_folder, write_json
from mor_core.data.snapshot import MANIFEST, SCHEMA, SPLITS, TOKENIZER_FILE, snapshot_fingerprint
from mor_core.data.spec import DataError
from mor_core.data.text.frozen_corpus import CorpusSnapshot, read_texts
from mor_core.data.tokens.encoding import encoded
from mor_core.data.tokens.tokenizer import (
    END_OF_TEXT_ID,
    GivenTokenizer,
    check_vocabulary,
    load_tokenizer,
    token_bytes,
    train_tokenizer,
)
from mor_core.files import file_sha256

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SHARD_TOKENS = 2**26
"""Most tokens in one shard: 134 MB of 16-bit ids."""

CHECKED_AT_ONCE = 2**20
"""Tokens counted at once: counting widens each id to eight bytes."""


def write_tokens(
    corpus: CorpusSnapshot,
    vocab_size: int,
    target: Path,
    shard_tokens: int = SHARD_TOKENS,
    tokenizer: GivenTokenizer | None = None,
) -> dict[str, Any]:
    """Encode both splits with the given tokenizer, or with one trained on the training part, and publish tokenizer,
    shards and manifest as `target`.

    Returns the manifest. An existing `target` is replaced; the result depends on the corpus, the vocabulary size,
    the given tokenizer and the version of the tokenizer library alone. Raises `DataError` where the given tokenizer
    has more ids than the vocabulary, or does not keep a document byte for byte.
    """
    texts = {split: read_texts(corpus, split) for split in SPLITS}
    dtype = dtype_for(vocab_size)
    with published_folder(target, replace=True) as folder:
        file = folder / TOKENIZER_FILE
        used = _train(texts["train"], vocab_size, file) if tokenizer is None else _take(tokenizer, vocab_size, file)
        ids = {split: used.encode(texts[split]) for split in SPLITS}
        shards = {
            split: _write_shards(folder, split, _ended(ids[split], used.end_of_text_id), dtype, shard_tokens)
            for split in SPLITS
        }
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "name": corpus.name,
            "corpus_fingerprint": corpus.fingerprint,
            "tokenizer_fingerprint": file_sha256(file),
            "vocab_size": vocab_size,
            "used_vocab_size": used.num_ids,
            "end_of_text_id": used.end_of_text_id,
            "dtype": dtype,
            "splits": {split: _described(corpus, split, shards[split]) for split in SPLITS},
        }
        manifest["fingerprint"] = snapshot_fingerprint(manifest)
        write_json(folder / MANIFEST, manifest)
        if tokenizer is None:
            _check_bytes(folder, manifest)
    return manifest


@dataclass(frozen=True, kw_only=True)
class _Used:
    """The tokenizer of one snapshot, in use."""

    encode: Callable[[Iterable[str]], Iterator[NDArray[np.uint32]]]
    """The ids of each text, in order, without special tokens."""
    end_of_text_id: int
    num_ids: int


def _train(texts: Iterable[str], vocab_size: int, file: Path) -> _Used:
    tokenizer = train_tokenizer(texts, vocab_size)
    tokenizer.save(str(file))
    return _Used(
        encode=lambda texts: encoded(tokenizer, texts),
        end_of_text_id=END_OF_TEXT_ID,
        num_ids=tokenizer.get_vocab_size(),
    )


def _take(tokenizer: GivenTokenizer, vocab_size: int, file: Path) -> _Used:
    copy_tokenizer(tokenizer, vocab_size, file)
    return _Used(
        encode=lambda texts: checked_ids(
            load_tokenizer(file), token_bytes(file, vocab_size), tokenizer.end_of_text_id, tokenizer.file, texts
        ),
        end_of_text_id=tokenizer.end_of_text_id,
        num_ids=tokenizer.num_ids,
    )


def copy_tokenizer(tokenizer: GivenTokenizer, vocab_size: int, file: Path) -> None:
    """Keep a given tokenizer beside its tokens; `DataError` where it does not fit the vocabulary, or just changed."""
    check_vocabulary(tokenizer, vocab_size)
    shutil.copyfile(tokenizer.file, file)
    if file_sha256(file) != tokenizer.fingerprint:
        raise DataError(f"The tokenizer {tokenizer.file} changed while it was read; run the command again.")


def checked_ids(
    tokenizer: "Tokenizer", bytes_of: NDArray[np.int64], end_of_text_id: int, named: Path | str, texts: Iterable[str]
) -> Iterator[NDArray[np.uint32]]:
    """The ids of each text under any tokenizer; `DataError` where they do not stand for each of its bytes once.

    The one change that is let through is canonical composition (NFC): bits per byte are then of the composed text.
    """
    composes = tokenizer.normalizer is not None and tokenizer.normalizer.normalize_str("e\u0301") == "\u00e9"
    texts, encoded_texts = tee(texts)  # as many texts apart as the tokenizer is given at once
    for text, ids in zip(texts, encoded(tokenizer, encoded_texts), strict=True):
        kept = unicodedata.normalize("NFC", text) if composes else text
        if (counted := int(bytes_of[ids].sum())) != len(kept.encode()) or end_of_text_id in ids:
            raise DataError(
                f"The tokenizer {named} does not keep text byte for byte: its tokens stand for {counted} "
                f"bytes of a document of {len(kept.encode())} that begins {text[:40]!r}; give one that does, such "
                "as a byte-level one, or leave that text out."
            )
        yield ids


def dtype_for(vocab_size: int) -> str:
    """The stored type of a token id, little-endian: 16 bits where every id fits, else 32."""
    return "<u2" if vocab_size <= 2**16 else "<u4"


def _described(corpus: CorpusSnapshot, split: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "tokens": sum(shard["tokens"] for shard in shards),
        "documents": corpus.documents[split],
        "bytes": corpus.bytes[split],
        "shards": shards,
    }


def _ended(documents: Iterable[NDArray[np.uint32]], end_of_text_id: int) -> Iterator[NDArray[np.uint32]]:
    for ids in documents:
        yield np.append(ids, np.uint32(end_of_text_id))


def _write_shards(
    folder: Path, split: str, documents: Iterable[NDArray[np.uint32]], dtype: str, shard_tokens: int
) -> list[dict[str, Any]]:
    """Write token ids one after another into files of `shard_tokens` tokens; the last may hold fewer."""
    by_shard = groupby(_numbered(documents, shard_tokens), key=itemgetter(0))
    return [
        _write_shard(folder / f"{split}-{number:05d}.bin", (ids.astype(dtype) for _, ids in parts))
        for number, parts in by_shard
    ]


def _numbered(documents: Iterable[NDArray[np.uint32]], shard_tokens: int) -> Iterator[tuple[int, NDArray[np.uint32]]]:
    """The same ids in order, cut where a shard is full, each part with the number of its shard."""
    position = 0
    for ids in documents:
        cuts = np.arange(-position % shard_tokens, len(ids), shard_tokens)
        for part in np.split(ids, cuts):
            if len(part):
                yield position // shard_tokens, part
            position += len(part)


def _write_shard(path: Path, parts: Iterable[NDArray[Any]]) -> dict[str, Any]:
    digest = hashlib.sha256()
    tokens = 0
    with path.open("wb") as file:
        for ids in parts:
            raw = ids.tobytes()
            file.write(raw)
            digest.update(raw)
            tokens += len(ids)
    return {"file": path.name, "tokens": tokens, "sha256": digest.hexdigest()}


def _check_bytes(folder: Path, manifest: dict[str, Any]) -> None:
    """Bits per byte are exact only if every byte of text is in exactly one token."""
    bytes_of = token_bytes(folder / TOKENIZER_FILE, manifest["vocab_size"])
    for split in SPLITS:
        counted = 0
        for shard in manifest["splits"][split]["shards"]:
            ids = np.memmap(folder / shard["file"], dtype=manifest["dtype"], mode="r")
            parts = np.split(ids, range(CHECKED_AT_ONCE, len(ids), CHECKED_AT_ONCE))
            counted += sum(int(np.bincount(part, minlength=len(bytes_of)) @ bytes_of) for part in parts)
        assert counted == manifest["splits"][split]["bytes"], f"tokens of {split} stand for {counted} bytes"

"""Documents to token shards: encoded once, with an end-of-text token after each document."""

import hashlib
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mor_core.data.corpus import CorpusSnapshot, read_texts
from mor_core.data.encoding import encoded
from mor_core.data.publish import published_folder, write_json
from mor_core.data.snapshot import MANIFEST, SCHEMA, SPLITS, TOKENIZER_FILE, snapshot_fingerprint
from mor_core.data.tokenizer import END_OF_TEXT_ID, token_bytes, train_tokenizer
from mor_core.data.user_text import file_sha256

SHARD_TOKENS = 2**26
"""Most tokens in one shard: 134 MB of 16-bit ids."""

CHECKED_AT_ONCE = 2**20
"""Tokens counted at once: counting widens each id to eight bytes."""


def write_tokens(
    corpus: CorpusSnapshot, vocab_size: int, target: Path, shard_tokens: int = SHARD_TOKENS
) -> dict[str, Any]:
    """Train the tokenizer, encode both splits, and publish tokenizer, shards and manifest as `target`.

    Returns the manifest. An existing `target` is replaced; the result depends on the corpus, the vocabulary size
    and the version of the tokenizer library alone.
    """
    texts = {split: read_texts(corpus, split) for split in SPLITS}
    tokenizer = train_tokenizer(texts["train"], vocab_size)
    dtype = dtype_for(vocab_size)
    with published_folder(target, replace=True) as folder:
        tokenizer.save(str(folder / TOKENIZER_FILE))
        shards = {
            split: _write_shards(folder, split, _ended(encoded(tokenizer, texts[split])), dtype, shard_tokens)
            for split in SPLITS
        }
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "name": corpus.name,
            "corpus_fingerprint": corpus.fingerprint,
            "tokenizer_fingerprint": file_sha256(folder / TOKENIZER_FILE),
            "vocab_size": vocab_size,
            "used_vocab_size": tokenizer.get_vocab_size(),
            "dtype": dtype,
            "splits": {split: _described(corpus, split, shards[split]) for split in SPLITS},
        }
        manifest["fingerprint"] = snapshot_fingerprint(manifest)
        write_json(folder / MANIFEST, manifest)
        _check_bytes(folder, manifest)
    return manifest


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


def _ended(documents: Iterable[NDArray[np.uint32]]) -> Iterator[NDArray[np.uint32]]:
    for ids in documents:
        yield np.append(ids, np.uint32(END_OF_TEXT_ID))


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

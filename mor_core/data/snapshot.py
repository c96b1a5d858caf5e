"""What is known about prepared tokens: the manifest in their folder, and the value made from it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.data.publish import read_json
from mor_core.data.spec import DataError
from mor_core.plain_names import is_plain_name

SPLITS = ("train", "valid")
MANIFEST = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class DataSnapshot:
    """Tokens of a frozen corpus under one tokenizer, ready to train on."""

    name: str
    """The corpus: `python-sources`, or the name of the user's file or folder."""

    fingerprint: str
    """sha256 over the fingerprints of corpus and tokenizer and the hashes of all shards."""

    tokenizer_fingerprint: str
    """sha256 of tokenizer.json."""

    vocab_size: int
    """Number of token ids that were asked for; a small corpus may leave the last ones unused."""

    train_tokens: int
    """Training tokens, one end of text for each document included."""

    valid_tokens: int
    """Validation tokens, one end of text for each document included."""

    train_bytes: int
    """Bytes of UTF-8 text behind the training tokens."""

    valid_bytes: int
    """Bytes of UTF-8 text behind the validation tokens."""

    folder: Path
    """Where the shards, the tokenizer and the manifest are."""


def load_snapshot(folder: Path) -> DataSnapshot:
    """The snapshot in a folder; `DataError` where there is none, or one of another version."""
    manifest = read_manifest(folder)
    splits = manifest["splits"]
    return DataSnapshot(
        name=manifest["name"],
        fingerprint=manifest["fingerprint"],
        tokenizer_fingerprint=manifest["tokenizer_fingerprint"],
        vocab_size=manifest["vocab_size"],
        train_tokens=splits["train"]["tokens"],
        valid_tokens=splits["valid"]["tokens"],
        train_bytes=splits["train"]["bytes"],
        valid_bytes=splits["valid"]["bytes"],
        folder=folder,
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of tokens; `DataError` where there is none, or one of another layout."""
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError as error:
        raise DataError(f"There is no data snapshot in {folder}; run `mor-sweep data prepare`.") from error
    if manifest.get("schema") != SCHEMA:
        raise DataError(
            f"{folder} has the layout {manifest.get('schema')}, expected {SCHEMA}; "
            "run `mor-sweep data prepare --refresh`."
        )
    for entry in (entry for split in SPLITS for entry in manifest["splits"][split]["shards"]):
        if not is_plain_name(entry["file"]) or (folder / entry["file"]).is_symlink():
            raise DataError(f"{folder / MANIFEST} names {entry['file']!r}, expected a file of its own folder")
    return manifest


def snapshot_fingerprint(manifest: dict[str, Any]) -> str:
    """sha256 over corpus, tokenizer and shard hashes of a manifest."""
    shards = [entry["sha256"] for split in SPLITS for entry in manifest["splits"][split]["shards"]]
    parts = [manifest["corpus_fingerprint"], manifest["tokenizer_fingerprint"], *shards]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()

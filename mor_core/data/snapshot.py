"""The description of prepared tokens: the manifest in their folder, and the values that are read from it.

Training needs a `DataSnapshot`. The rest is for people: how many documents, what was left out, where text is from."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.data.cache_files import read_json
from mor_core.data.spec import REFRESH, DataError
from mor_core.errors import Fix
from mor_core.files import is_plain_name

SPLITS = ("train", "valid")
MANIFEST = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class DataSnapshot:
    """Tokens of a frozen corpus under one tokenizer, ready to train on."""

    name: str
    """The corpus: `python-sources`, `pinned-python`, or the name of the user's file or folder."""

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
        prepare = Fix(verb="data prepare", words="run {}")
        raise DataError(f"There is no data snapshot in {folder}", fix=prepare) from error
    if manifest.get("schema") != SCHEMA:
        raise DataError(f"{folder} has the layout {manifest.get('schema')}, expected {SCHEMA}", fix=REFRESH)
    for entry in (entry for split in SPLITS for entry in manifest["splits"][split]["shards"]):
        if not is_plain_name(entry["file"]) or (folder / entry["file"]).is_symlink():
            raise DataError(f"{folder / MANIFEST} names {entry['file']!r}, expected a file of its own folder")
    return manifest


def snapshot_fingerprint(manifest: dict[str, Any]) -> str:
    """sha256 over corpus, tokenizer and shard hashes of a manifest."""
    shards = [entry["sha256"] for split in SPLITS for entry in manifest["splits"][split]["shards"]]
    parts = [manifest["corpus_fingerprint"], manifest["tokenizer_fingerprint"], *shards]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The documents of a snapshot."""

    train_documents: int
    valid_documents: int

    bytes_per_token: float
    """Bytes of UTF-8 text behind a training token, ends of text counted."""

    left_out: dict[str, int]
    """Number of files or documents left out, by reason; where lines are cut from documents that are kept, of lines."""

    near_duplicate_rate: float | None
    """Share of the distinct documents that were left out as much like an earlier one; None where none were looked
    for."""

    provenance: dict[str, Any]
    """source, revision, licence and filter, where the text is not frozen as a copy."""


def contents_of(snapshot: DataSnapshot) -> Contents:
    """Read the manifest of a snapshot, and the description of its frozen corpus. Raises `DataError`."""
    manifest = read_manifest(snapshot.folder)
    documents = {side: manifest["splits"][side]["documents"] for side in SPLITS}
    left_out = manifest.get("left_out")
    if left_out is None:
        left_out = _frozen_left_out(snapshot.folder.parent.parent, manifest["corpus_fingerprint"])
    looked_for = manifest.get("deduplicate") == "near" or "near duplicate" in left_out
    alike = left_out.get("near duplicate", 0)
    return Contents(
        train_documents=documents["train"],
        valid_documents=documents["valid"],
        bytes_per_token=snapshot.train_bytes / snapshot.train_tokens,
        left_out=left_out,
        near_duplicate_rate=alike / (alike + sum(documents.values())) if looked_for else None,
        provenance=manifest.get("provenance", {}),
    )


def _frozen_left_out(cache: Path, fingerprint: str) -> dict[str, int]:
    for description in (cache / "corpora").glob(f"*/{fingerprint}/corpus.json"):
        return read_json(description)["left_out"]
    return {}

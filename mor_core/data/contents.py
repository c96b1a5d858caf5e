"""What is known about prepared data beyond what training needs: documents, what was left out, where it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.data.publish import read_json
from mor_core.data.snapshot import SPLITS, DataSnapshot, read_manifest


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The documents of a snapshot."""

    train_documents: int
    valid_documents: int

    bytes_per_token: float
    """Bytes of UTF-8 text behind a training token, ends of text counted."""

    left_out: dict[str, int]
    """Number of files or documents left out, by reason."""

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

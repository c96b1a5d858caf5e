"""A snapshot of data that does not exist, for plans that nobody trains."""

from pathlib import Path

from mor_core.data.snapshot import DataSnapshot

MADE_UP_DATA = DataSnapshot(
    name="python-sources",
    fingerprint="a" * 64,
    tokenizer_fingerprint="b" * 64,
    vocab_size=512,
    train_tokens=20_000_000,
    valid_tokens=1_000_000,
    train_bytes=48_000_000,
    valid_bytes=2_400_000,
    folder=Path("unused"),
)

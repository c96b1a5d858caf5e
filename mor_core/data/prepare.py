"""The doors to prepared data: look it up, make it where it is absent, open it.

    <cache>/tokens/<corpus fingerprint>-v<vocabulary>/   tokenizer.json  train-00000.bin ...  valid-00000.bin
                                                         manifest.json

A small corpus is frozen as a copy (mor_core.data.text.frozen_corpus) and its folder appears whole; a large one is read
in place, in parts (mor_core.data.large.corpus), and its folder is prepared once the manifest is there.

Under a given tokenizer the folder's name also holds the start of its fingerprint and the id that ends a document.

Light on purpose: a plan looks up a snapshot without loading the tokenizer or the near-duplicate index.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mor_core.data.batches import TokenReader, open_shard
from mor_core.data.cache_files import MEND, check_size, naming_what_cannot_be_written, read_json
from mor_core.data.large.corpus import Spread, find_source, freeze_source, is_large, one_after_another, write_large
from mor_core.data.large.sources import PART_BYTES, Source, parts_needed
from mor_core.data.remote import fetch_folder, local_folder
from mor_core.data.snapshot import (
    MANIFEST,
    SPLITS,
    TOKENIZER_FILE,
    DataSnapshot,
    load_snapshot,
    read_manifest,
)
from mor_core.data.spec import DataError, DataSpec, cache_folder
from mor_core.data.text.frozen_corpus import (
    CorpusSnapshot,
    environment_note,
    fallback_note,
    find_corpus,
    prepare_corpus,
)
from mor_core.data.text.source_hashes import remember_source_hashes, source_is_gone
from mor_core.data.tokens.tokenizer import GivenTokenizer, check_vocabulary, read_tokenizer, token_bytes
from mor_core.data.tokens.write_shards import write_tokens
from mor_core.errors import Fix
from mor_core.files import file_sha256


def find(spec: DataSpec, cache: Path | None = None) -> DataSnapshot | None:
    """The prepared snapshot that `spec` means, or None where it has not been prepared. Its name is the name of the
    path in `spec`: equal content under two names is prepared once.

    A user's files are compared by content, so changed files are not prepared. Raises `DataError` where a path
    does not exist, a given tokenizer cannot be used, or the prepared description is damaged.
    """
    cache = cache or cache_folder()
    if spec.is_remote:
        folder = local_folder(spec.corpus, cache)
        return _fitting(spec, load_snapshot(folder)) if (folder / MANIFEST).is_file() else None
    tokenizer = _given(spec)
    corpus = find_source(spec, cache) if is_large(spec) else find_corpus(spec, cache)
    folder = corpus and _tokens_folder(corpus, spec, tokenizer, cache)
    if not corpus or not folder or not (folder / MANIFEST).is_file():
        return None
    return replace(load_snapshot(folder), name=corpus.name)


def find_by_fingerprint(fingerprint: str, cache: Path | None = None) -> DataSnapshot | None:
    """The prepared snapshot with this fingerprint, also after a refresh has put another in its place."""
    for manifest in sorted(((cache or cache_folder()) / "tokens").glob(f"*/{MANIFEST}")):
        if read_json(manifest).get("fingerprint") == fingerprint:
            return load_snapshot(manifest.parent)
    return None


def note_on(spec: DataSpec, cache: Path | None = None) -> str | None:
    """A sentence on why other text stands for what `spec` names, or None."""
    return fallback_note(spec, cache or cache_folder())


def prepare(
    spec: DataSpec,
    cache: Path | None = None,
    refresh: bool = False,
    report: Callable[[str], None] | None = None,
    spread: Spread[Any, Any] = one_after_another,
    part_bytes: int = PART_BYTES,
    most_parts: int | None = None,
) -> DataSnapshot:
    """The snapshot that `spec` means, made now where it is absent; `report` is told what happens.

    Safe to call from several processes at once. Shards that were lost are made again from the frozen text, or from the
    files of a large corpus. `refresh` freezes the text anew. The parts of a large corpus, of about `part_bytes` of text
    each, are prepared by `spread`. Raises `DataError` for text that cannot be used, for a cache folder that cannot be
    written, and where more than `most_parts` parts would be needed.
    """
    cache = cache or cache_folder()
    if not refresh and (ready := _intact(spec, cache)):
        if report and (note := note_on(spec, cache)):
            report(note)
        _remember(spec, cache, report)
        return ready
    from filelock import FileLock

    with naming_what_cannot_be_written(cache):
        cache.mkdir(parents=True, exist_ok=True)
        lock = FileLock(cache / "prepare.lock")
        lock.acquire()
    try:
        if not refresh and (ready := _intact(spec, cache)):  # another process made it meanwhile
            return ready
        if report:
            report(f"Preparing the data of {spec.corpus}, once; later runs use the same snapshot")
        if spec.is_remote:
            folder = local_folder(spec.corpus, cache)
            fetch_folder(spec.corpus, folder, report)
            return _fitting(spec, load_snapshot(folder))
        if is_large(spec):
            source = (None if refresh else find_source(spec, cache)) or freeze_source(spec, cache, part_bytes)
            _check_parts(source, spec, most_parts)
            remember_source_hashes(spec, cache)  # A resumed preparation need not read all files first.
            if report:
                report(f"{len(source.parts)} parts; stopped at any moment, the same command goes on")
            snapshot = _prepare_tokens(source, spec, cache, report, spread)
        else:
            corpus = prepare_corpus(spec, cache, refresh, report)
            snapshot = _prepare_tokens(corpus, spec, cache, report)
        _remember(spec, cache, report)
        return snapshot
    finally:
        lock.release()


def _check_parts(source: Source, spec: DataSpec, most_parts: int | None) -> None:
    if most_parts is not None and (needed := parts_needed(source)) > most_parts:
        raise DataError(
            f"The data of {spec.corpus} are not prepared, and it has {needed} parts of text, expected at most "
            f"{most_parts} where a sweep prepares them itself, on one core",
            fix=Fix(
                verb="data prepare",
                words="run {} for the same sweep file and corpus first, which uses all cores, then this command again",
            ),
        )


def open_tokens(snapshot: DataSnapshot) -> TokenReader:
    """Map the shards of a snapshot into memory.

    Raises `DataError` that names the shard which is missing or has another size than when it was prepared, or
    the tokenizer that was changed, and where the folder now holds another snapshot. `TokenReader.verify` also
    compares every byte.
    """
    manifest = read_manifest(snapshot.folder)
    if manifest["fingerprint"] != snapshot.fingerprint:
        raise DataError(
            f"{snapshot.folder} holds the data snapshot {manifest['fingerprint'][:12]}, expected "
            f"{snapshot.fingerprint[:12]}; plan the sweep again with the data that is there."
        )
    shards = {
        split: tuple(
            open_shard(snapshot.folder, entry, manifest["dtype"]) for entry in manifest["splits"][split]["shards"]
        )
        for split in SPLITS
    }
    tokenizer_file = snapshot.folder / TOKENIZER_FILE
    if not tokenizer_file.is_file() or file_sha256(tokenizer_file) != snapshot.tokenizer_fingerprint:
        raise DataError(f"{tokenizer_file} is missing or not the tokenizer that was prepared; {MEND}")
    bytes_of = token_bytes(tokenizer_file, snapshot.vocab_size)
    return TokenReader(train=shards["train"], valid=shards["valid"], token_bytes=bytes_of)


def _prepare_tokens(
    corpus: CorpusSnapshot | Source,
    spec: DataSpec,
    cache: Path,
    report: Callable[[str], None] | None,
    spread: Spread[Any, Any] = one_after_another,
) -> DataSnapshot:
    """The tokens of a corpus, made where they are not there in full: what others may be reading is never replaced."""
    tokenizer = _given(spec)
    folder = _tokens_folder(corpus, spec, tokenizer, cache)
    if not _is_whole(folder):
        named = replace(corpus, name=_published_name(folder) or corpus.name)
        if isinstance(named, Source):
            write_large(named, spec.vocab_size, folder, tokenizer, spread, report)
        else:
            write_tokens(named, spec.vocab_size, folder, tokenizer=tokenizer)
    manifest = read_manifest(folder)
    snapshot = replace(load_snapshot(folder), name=corpus.name)
    if report:
        report(
            f"Tokens: {snapshot.train_tokens} to train on, {snapshot.valid_tokens} for validation, "
            f"{snapshot.train_bytes / snapshot.train_tokens:.2f} bytes a token"
        )
    if report and manifest["used_vocab_size"] < spec.vocab_size:
        source = "text supports" if tokenizer is None else "given tokenizer has"
        report(
            f"The {source} only {manifest['used_vocab_size']} of the {spec.vocab_size} token ids asked for; "
            "the others stay unused."
        )
    return snapshot


def _intact(spec: DataSpec, cache: Path) -> DataSnapshot | None:
    """The prepared snapshot if all its files are there in full, else None."""
    snapshot = find(spec, cache)
    return snapshot if snapshot and _has_all_files(snapshot.folder) else None


def _has_all_files(folder: Path) -> bool:
    """Whether the files that the manifest lists are there in their full size."""
    manifest = read_manifest(folder)
    itemsize = np.dtype(manifest["dtype"]).itemsize
    try:
        for split in SPLITS:
            for entry in manifest["splits"][split]["shards"]:
                check_size(folder / entry["file"], entry["tokens"] * itemsize)
    except DataError:
        return False
    return (folder / TOKENIZER_FILE).is_file()


def _published_name(folder: Path) -> str | None:
    """The name that was published with the tokens: it stays where lost files are made again."""
    try:
        return read_manifest(folder)["name"]
    except DataError:
        return None


def _is_whole(folder: Path) -> bool:
    """Whether every byte of the files that the manifest lists is as it was prepared."""
    try:
        if not _has_all_files(folder):
            return False
        open_tokens(load_snapshot(folder)).verify()
    except DataError:
        return False
    return True


def _remember(spec: DataSpec, cache: Path, report: Callable[[str], None] | None) -> None:
    remember_source_hashes(spec, cache)
    if report and source_is_gone(spec):
        report(f"note: {spec.corpus} is gone; the text that was frozen when it was last prepared is used")
    corpus = find_corpus(spec, cache) if spec.is_python else None
    if report and corpus and (note := environment_note(corpus)):
        report(note)


def _fitting(spec: DataSpec, snapshot: DataSnapshot) -> DataSnapshot:
    """Data that were prepared elsewhere, if they are of the vocabulary that is asked for; else `DataError`."""
    if snapshot.vocab_size != spec.vocab_size:
        raise DataError(
            f"{spec.corpus} was prepared with a vocabulary of {snapshot.vocab_size}, expected {spec.vocab_size}; set "
            f"vocab_size to {snapshot.vocab_size}, or prepare the text again."
        )
    return snapshot


def _given(spec: DataSpec) -> GivenTokenizer | None:
    """The tokenizer that `spec` names, fit for its vocabulary; `DataError` where it is not."""
    if spec.tokenizer is None:
        return None
    tokenizer = read_tokenizer(spec.tokenizer)
    check_vocabulary(tokenizer, spec.vocab_size)
    return tokenizer


def _tokens_folder(
    corpus: CorpusSnapshot | Source, spec: DataSpec, tokenizer: GivenTokenizer | None, cache: Path
) -> Path:
    suffix = "" if tokenizer is None else f"-t{tokenizer.fingerprint[:16]}-e{tokenizer.end_of_text_id}"
    return cache / "tokens" / f"{corpus.fingerprint}-v{spec.vocab_size}{suffix}"

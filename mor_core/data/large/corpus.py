"""Large corpora: tokenised in parts, in place, in flat memory; killed at any moment, the same command goes on.

What is done is read from the data folder, one record a part; the manifest is written last. Which process prepares a
part is the caller's choice (`Spread`), and changes no byte of the outcome.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mor_core.data.cache_files import PARTIAL, naming_what_cannot_be_written, read_json, write_json
from mor_core.data.large.parts import PartJob, PartResult, drop_documents, is_held_back, prepare_part
from mor_core.data.large.repeated import repeated_documents
from mor_core.data.large.sources import PART_BYTES, Source, documents_of, load_source, make_source, write_source
from mor_core.data.snapshot import MANIFEST, SCHEMA, SPLITS, TOKENIZER_FILE, snapshot_fingerprint
from mor_core.data.spec import DataError, DataSpec
from mor_core.data.text.hub import find_files
from mor_core.data.text.source_hashes import source_contents, source_fingerprint
from mor_core.data.text.user_files import SourceGone, common_root, source_files
from mor_core.data.tokens.tokenizer import END_OF_TEXT_ID, GivenTokenizer, load_tokenizer, train_tokenizer
from mor_core.data.tokens.write_shards import copy_tokenizer, dtype_for
from mor_core.files import file_sha256

POINTER = "current.json"

LARGE = 300_000_000
"""Bytes of files from which a user's text is read in place, in parts; less is frozen as a copy, in memory."""

MOST_PARTS_BESIDE = 2
"""Parts that a sweep prepares before it trains, in its own process: some four minutes of one core."""

FOOTER_BYTES = 2**16
"""Read of each file of a mirror to tell it from another: reading all of it would take as long as preparing a part."""

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")
Spread = Callable[[Callable[[Item], Outcome], Iterable[Item]], Iterator[Outcome]]
"""Applies a function to items that are taken as workers become free; outcomes come as they are ready."""

Report = Callable[[str], None]


def one_after_another(function: Callable[[Item], Outcome], items: Iterable[Item]) -> Iterator[Outcome]:
    """The `Spread` of this process."""
    return map(function, items)


def is_large(spec: DataSpec) -> bool:
    """Whether a corpus is read in parts: all of the hub are, and so is what asks for another removal of duplicates.

    Raises `DataError` for a large corpus under `quality`.
    """
    if spec.is_python:
        return False
    if spec.is_hub or spec.deduplicate != "exact":
        return True
    try:
        large = sum(file.stat().st_size for file in source_files(spec.corpus)) >= LARGE
    except SourceGone:
        return False  # Its text was frozen as a copy, or it is of no use any more.
    if large and spec.quality:
        raise DataError(
            f"quality is true, but {spec.corpus} has {LARGE / 1e6:.0f} MB or more, which are read in parts without "
            "these rules; leave quality out, or give fewer files."
        )
    return large


def find_source(spec: DataSpec, cache: Path) -> Source | None:
    """The frozen source that `spec` means, or None where it has not been frozen. Asks no hub."""
    pointer = _key_folder(spec, cache) / POINTER
    return load_source(pointer.parent / read_json(pointer)["fingerprint"]) if pointer.is_file() else None


def freeze_source(spec: DataSpec, cache: Path, part_bytes: int = PART_BYTES) -> Source:
    """List the files of a large corpus and cut them into parts. Raises `DataError` where one cannot be read."""
    settings: dict[str, Any] = {
        "part_bytes": part_bytes,
        "max_bytes": spec.max_bytes,
        "deduplicate": spec.deduplicate,
    }
    if spec.is_hub:
        hub_files = find_files(spec.corpus)
        contents = {file: _content(file) for file in hub_files.files}
        source = make_source(spec.corpus, contents, kind=hub_files.kind, provenance=hub_files.provenance, **settings)
    else:
        contents = source_contents(spec.corpus, cache)
        provenance = {"source": spec.corpus, "revision": "files", "licence": "not stated", "filter": "none"}
        source = make_source(common_root(spec.corpus).name, contents, provenance=provenance, **settings)
    folder = _key_folder(spec, cache)
    write_source(source, folder / source.fingerprint)
    write_json(folder / POINTER, {"fingerprint": source.fingerprint})
    return source


def write_large(
    source: Source,
    vocab_size: int,
    target: Path,
    tokenizer: GivenTokenizer | None = None,
    spread: Spread[Any, Any] = one_after_another,
    report: Report | None = None,
) -> dict[str, Any]:
    """Prepare every part that is not done, remove what repeats, and write the manifest of `target`. Returns it.

    Raises `DataError` where a part cannot be read, and where nothing is left for training or for validation.
    """
    with naming_what_cannot_be_written(target):
        target.mkdir(parents=True, exist_ok=True)
    _remove_changed_shards(target)
    used_ids, end_of_text_id = _tokenizer(source, vocab_size, target, tokenizer)
    fingerprint = file_sha256(target / TOKENIZER_FILE)
    jobs = [
        PartJob(
            number=number,
            pieces=pieces,
            folder=target,
            tokenizer=str(tokenizer.file if tokenizer else target / TOKENIZER_FILE),
            tokenizer_fingerprint=fingerprint,
            end_of_text_id=end_of_text_id,
            vocab_size=vocab_size,
            dtype=dtype_for(vocab_size),
            validation_share=source.validation_share,
            signatures=source.deduplicate == "near",
        )
        for number, pieces in enumerate(source.parts)
    ]
    records = _prepared(jobs, source, spread, report)
    left_out: Counter[str] = Counter()
    for record in records:
        left_out.update(record["skipped"])
    if source.deduplicate != "none":
        dropped, reasons = repeated_documents(target, range(len(records)), near=source.deduplicate == "near")
        left_out.update(reasons)
        for number, rows in dropped.items():
            records[number] = drop_documents(jobs[number], rows)
    manifest = _manifest(source, records, left_out) | {
        "tokenizer_fingerprint": fingerprint,
        "vocab_size": vocab_size,
        "used_vocab_size": used_ids,
        "end_of_text_id": end_of_text_id,
        "dtype": dtype_for(vocab_size),
    }
    _check_not_empty(source, manifest)
    manifest["fingerprint"] = snapshot_fingerprint(manifest)
    _remove_what_is_not_listed(target, manifest)
    write_json(target / MANIFEST, manifest)
    return manifest


def _prepared(
    jobs: Sequence[PartJob], source: Source, spread: Spread[Any, Any], report: Report | None
) -> list[dict[str, Any]]:
    """The records of the parts, in order, up to the one that reaches the limit on text."""
    records: dict[int, dict[str, Any]] = {}

    def needed() -> int | None:
        """How many parts are needed, once that is known."""
        total = 0
        for number in range(len(jobs)):
            if number not in records:
                return None
            total += sum(records[number]["bytes"].values())
            if source.max_bytes is not None and total >= source.max_bytes:
                return number + 1
        return len(jobs)

    most = str(len(jobs)) if source.max_bytes is None else f"at most {len(jobs)}"
    results: Iterator[PartResult] = spread(prepare_part, (job for job in jobs if needed() is None))
    for result in results:
        if result.problem is not None:
            raise result.problem
        assert result.record is not None
        records[result.number] = result.record
        if report:
            tokens = sum(shard["tokens"] for record in records.values() for shard in record["shards"].values())
            report(f"Part {len(records)} of {most}: {tokens:,} tokens so far")
    return [records[number] for number in range(needed() or 0)]


def _manifest(source: Source, records: Sequence[dict[str, Any]], left_out: Counter[str]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "name": source.name,
        "corpus_fingerprint": source.fingerprint,
        "provenance": source.provenance,
        "deduplicate": source.deduplicate,
        "left_out": dict(left_out.most_common()),
        "parts": [len(records), len(source.parts)],
        "splits": {side: _split(side, records) for side in SPLITS},
    }


def _split(side: str, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    shards = [record["shards"][side] for record in records]
    listed = [{key: shard[key] for key in ("file", "tokens", "sha256")} for shard in shards if shard["tokens"]]
    return {
        "tokens": sum(shard["tokens"] for shard in shards),
        "documents": sum(record["documents"][side] for record in records),
        "bytes": sum(record["bytes"][side] for record in records),
        "shards": listed,
    }


def _tokenizer(source: Source, vocab_size: int, target: Path, tokenizer: GivenTokenizer | None) -> tuple[int, int]:
    """Put the tokenizer into the folder, unless it is there; the ids that it has, and the one that ends a document."""
    file = target / TOKENIZER_FILE
    if tokenizer is not None:
        if not file.is_file() or file_sha256(file) != tokenizer.fingerprint:
            copy_tokenizer(tokenizer, vocab_size, file)
        return tokenizer.num_ids, tokenizer.end_of_text_id
    if not file.is_file():
        temporary = target / f".{TOKENIZER_FILE}{PARTIAL}"
        train_tokenizer(_training_documents(source), vocab_size).save(str(temporary))
        temporary.replace(file)
    return load_tokenizer(file).get_vocab_size(), END_OF_TEXT_ID


def _training_documents(source: Source) -> Iterator[str]:
    for part in source.parts:
        for text in documents_of(part, Counter()):
            if not is_held_back(hashlib.sha256(text.encode()).digest(), source.validation_share):
                yield text


def _check_not_empty(source: Source, manifest: dict[str, Any]) -> None:
    for side, purpose in (("train", "training"), ("valid", "validation")):
        if manifest["splits"][side]["documents"] == 0:
            total = sum(manifest["splits"][split]["documents"] for split in SPLITS)
            left_out = ", ".join(f"{count} {reason}" for reason, count in manifest["left_out"].items()) or "nothing"
            raise DataError(
                f"{source.name} gives {total} document(s) and none of them for {purpose} (left out: {left_out}); add "
                "more text."
            )


def _remove_changed_shards(folder: Path) -> None:
    """Where a manifest lists shards that are not the ones that were prepared, they are to be made again."""
    if not (folder / MANIFEST).is_file():
        return
    manifest = read_json(folder / MANIFEST)
    for shard in (shard for side in SPLITS for shard in manifest["splits"][side]["shards"]):
        _remove_unless(folder / shard["file"], shard["sha256"])
    _remove_unless(folder / TOKENIZER_FILE, manifest["tokenizer_fingerprint"])


def _remove_unless(path: Path, sha256: str) -> None:
    if path.is_file() and file_sha256(path) != sha256:
        path.unlink()


def _remove_what_is_not_listed(folder: Path, manifest: dict[str, Any]) -> None:
    """Remove shards with repeated documents, parts beyond the limit and what killed processes left."""
    listed = {shard["file"] for side in SPLITS for shard in manifest["splits"][side]["shards"]}
    for path in folder.iterdir():
        stale = path.suffix == ".bin" and path.name not in listed
        if stale or path.name.endswith(PARTIAL):
            path.unlink(missing_ok=True)


def _content(file: str) -> str:
    """What a file of the hub holds: its URL names the commit; of a mirror's, size and footer stand for all of it."""
    if "://" in file:
        return file
    path = Path(file)
    with path.open("rb") as opened:
        opened.seek(max(0, path.stat().st_size - FOOTER_BYTES))
        footer = hashlib.sha256(opened.read()).hexdigest()
    return f"{path.stat().st_size} {footer} {path.parent.name}/{path.name}"


def _key_folder(spec: DataSpec, cache: Path) -> Path:
    limit = "" if spec.max_megabytes is None else f"-{spec.max_megabytes:g}MB"
    duplicates = "" if spec.deduplicate == "exact" else f"-{spec.deduplicate}"
    if spec.is_hub:
        named = hashlib.sha256(spec.corpus.encode()).hexdigest()[:16]
        return cache / "corpora" / f"{spec.corpus.replace('/', '-').replace(':', '-')}-{named}{limit}{duplicates}"
    name, content = common_root(spec.corpus).name, source_fingerprint(spec.corpus, cache)
    return cache / "corpora" / f"{name}-{content[:16]}-parts{limit}{duplicates}"

"""The corpus as a frozen snapshot: documents chosen and split once, named by the sha256 of what they hold.

    <cache>/corpora/<key>/current.json             which snapshot a specification means
    <cache>/corpora/<key>/<fingerprint>/           corpus.json  train.jsonl  valid.jsonl
    <cache>/corpora/<key>/fallback.json            why the installed libraries stand for `pinned-python`

A snapshot is never rewritten. For `python-sources` the key is the name and the limit, so that a changed
environment keeps its snapshot until it is refreshed; for a path the key holds the hash of the files, and for
`pinned-python` that of its list, so that changed files and another list are another corpus.

Where the wheels of `pinned-python` cannot be had, it stands for `python-sources` in that cache from then on, in name,
text and fingerprint, even when the wheels can be had later: so a sweep that began without them goes on. Refreshing
tries the wheels again, and changes nothing where they still cannot be had. Once the text of the wheels is frozen, it is
never replaced by the installed libraries: refreshing it without the wheels is an error.
"""

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mor_core.data.cache_files import published_folder, read_frozen, read_json, write_json
from mor_core.data.snapshot import SPLITS
from mor_core.data.spec import PINNED_PYTHON, PYTHON_SOURCES, REFRESH, DataError, DataSpec
from mor_core.data.text import python_sources
from mor_core.data.text.documents import (
    Document,
    Selection,
    admit_all,
    bytes_by_package,
    split_by_hash,
    split_by_package,
    split_over_folders,
    split_over_packages,
    validation_packages,
)
from mor_core.data.text.pinned_python import WheelsNotObtained, fetch_wheels, list_fingerprint, scan_pinned_python
from mor_core.data.text.quality import SMALL_VOCABULARY, admission_for
from mor_core.data.text.source_hashes import source_fingerprint
from mor_core.data.text.user_files import common_root, read_user_text

CORPUS_FILE = "corpus.json"
POINTER = "current.json"
FALLBACK = "fallback.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CorpusSnapshot:
    """A frozen corpus and what is known about it."""

    name: str
    """`python-sources`, `pinned-python`, or the name of the user's file or folder."""

    fingerprint: str
    """sha256 over the ordered hashes of the documents and their split."""

    folder: Path

    documents: dict[str, int]
    """Number of documents by split."""

    bytes: dict[str, int]
    """Bytes of UTF-8 text by split."""

    packages: dict[str, int]
    """Bytes of text by package; empty for a user's own text."""

    validation_packages: tuple[str, ...]
    """The packages held back; empty for a user's own text, which is split by document."""

    left_out: dict[str, int]
    """Number of files or documents left out, by reason; where lines are cut from documents that are kept, of lines."""

    installed: tuple[str, ...]
    """The distributions and versions that were installed; empty for text that does not depend on them."""


def find_corpus(spec: DataSpec, cache: Path) -> CorpusSnapshot | None:
    """The frozen corpus that `spec` means, or None where it has not been prepared.

    Raises `DataError` where a user's path does not exist.
    """
    pointer = _key_folder(spec, cache) / POINTER
    if spec.is_pinned_python and pointer.with_name(FALLBACK).is_file():
        return find_corpus(_fallback(spec), cache)
    if not pointer.is_file():
        return None
    return load_corpus(pointer.parent / read_json(pointer)["fingerprint"])


def prepare_corpus(
    spec: DataSpec,
    cache: Path,
    refresh: bool = False,
    report: Callable[[str], None] | None = None,
    site_folders: Sequence[Path] | None = None,
) -> CorpusSnapshot:
    """The frozen corpus that `spec` means, made now if there is none or if `refresh` asks for a new one.

    `site_folders` are the folders to take Python files from, those of the running interpreter by default.
    Where the wheels of `pinned-python` cannot be had, `report` is told why, and the installed libraries are the corpus.
    """
    if not refresh and (corpus := find_corpus(spec, cache)):
        if report and (note := fallback_note(spec, cache)):
            report(note)
        return corpus
    started = time.monotonic()
    key_folder = _key_folder(spec, cache)
    try:
        corpus = _freeze(spec, key_folder, cache, report, site_folders)
    except WheelsNotObtained as error:
        if (key_folder / POINTER).is_file():
            raise DataError(f"{error.message}; the text that was frozen stays in use.") from error
        write_json(key_folder / FALLBACK, {"reason": error.message})
        if report:
            report(str(fallback_note(spec, cache)))
        return prepare_corpus(_fallback(spec), cache, False, report, site_folders)
    if _key_folder(spec, cache) != key_folder:
        raise DataError(f"{spec.corpus} changed while it was read; run the command again once it is complete.")
    write_json(key_folder / POINTER, {"fingerprint": corpus.fingerprint})
    (key_folder / FALLBACK).unlink(missing_ok=True)
    if report:
        report(f"{_described(corpus)}, in {time.monotonic() - started:.1f} s")
    return corpus


def load_corpus(folder: Path) -> CorpusSnapshot:
    """Read what is known about a frozen corpus; `DataError` where its description is missing or damaged."""
    stored = read_frozen(folder / CORPUS_FILE, SCHEMA, "corpus")
    for field in ("validation_packages", "installed"):
        stored[field] = tuple(stored[field])
    return CorpusSnapshot(folder=folder, **stored)


def read_texts(corpus: CorpusSnapshot, split: str) -> list[str]:
    """The documents of one split in their frozen order; `DataError` where they are not those that were frozen."""
    path = corpus.folder / f"{split}.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    texts = [text for line in lines if (text := _frozen_text(line)) is not None]
    if len(texts) != corpus.documents[split]:
        raise DataError(
            f"{path} holds {len(texts)} of the {corpus.documents[split]} documents that were frozen", fix=REFRESH
        )
    return texts


def fallback_note(spec: DataSpec, cache: Path) -> str | None:
    """A sentence on why the installed libraries stand for `pinned-python`, or None."""
    if not spec.is_pinned_python:
        return None
    fallback = _key_folder(spec, cache) / FALLBACK
    if not fallback.is_file():
        return None
    return (
        f"note: {read_json(fallback)['reason']}; the installed libraries ({PYTHON_SOURCES}) are in use instead, which "
        "no other machine has alike, until `mor-sweep data prepare` is told to refresh them."
    )


def environment_note(corpus: CorpusSnapshot, site_folders: Sequence[Path] | None = None) -> str | None:
    """A sentence on how the installed libraries differ from those that were frozen, or None."""
    if not corpus.installed:
        return None
    now = set(python_sources.installed_versions(site_folders or python_sources.site_folders()))
    changed = sorted(now.symmetric_difference(corpus.installed))
    if not changed:
        return None
    named = ", ".join(changed[:4]) + (", ..." if len(changed) > 4 else "")
    return (
        f"The installed libraries have changed since the corpus was frozen ({named}); the frozen text stays in "
        "use until `mor-sweep data prepare` is told to refresh it."
    )


def _fallback(spec: DataSpec) -> DataSpec:
    """What stands for `pinned-python` where its wheels cannot be had."""
    return replace(spec, corpus=PYTHON_SOURCES)


def _freeze(
    spec: DataSpec,
    key_folder: Path,
    cache: Path,
    report: Callable[[str], None] | None,
    site_folders: Sequence[Path] | None,
) -> CorpusSnapshot:
    if not spec.is_python:
        return _freeze_files(spec, key_folder)
    admit = (
        admission_for(spec.vocab_size, corpus_non_ascii_share=0.0) if spec.quality else admit_all
    )  # Python is ASCII.
    if spec.is_pinned_python:
        selection, installed = scan_pinned_python(fetch_wheels(cache / "wheels", report), spec.max_bytes, admit), ()
    else:
        folders = site_folders or python_sources.site_folders()
        selection = python_sources.scan_python_sources(folders, spec.max_bytes, admit)
        installed = python_sources.installed_versions(folders)
    packages = bytes_by_package(selection.documents)
    if spec.quality:
        split = split_over_packages(selection.documents)
        selection = replace(selection, left_out=selection.left_out + split.left_out)
        return _write(spec.corpus, key_folder, selection, split.documents, packages, split.packages, installed)
    held_back = validation_packages(packages)
    documents = split_by_package(selection.documents, held_back)
    return _write(spec.corpus, key_folder, selection, documents, packages, held_back, installed)


def _freeze_files(spec: DataSpec, key_folder: Path) -> CorpusSnapshot:
    root = common_root(spec.corpus)
    if spec.quality:
        selection = read_user_text(spec.corpus, spec.max_bytes, quality_for=spec.vocab_size)
        split = split_over_folders(selection.documents, str(root))
        selection = replace(selection, left_out=selection.left_out + split.left_out)
        return _write(root.name, key_folder, selection, split.documents)
    selection = read_user_text(spec.corpus, spec.max_bytes)
    return _write(root.name, key_folder, selection, split_by_hash(selection.documents, str(root)))


def _write(
    name: str,
    key_folder: Path,
    selection: Selection,
    split: dict[str, list[Document]],
    packages: dict[str, int] | None = None,
    held_back: tuple[str, ...] = (),
    installed: tuple[str, ...] = (),
) -> CorpusSnapshot:
    fingerprint = _fingerprint(split)
    corpus = CorpusSnapshot(
        name=name,
        fingerprint=fingerprint,
        folder=key_folder / fingerprint,
        documents={side: len(split[side]) for side in SPLITS},
        bytes={side: sum(document.num_bytes for document in split[side]) for side in SPLITS},
        packages=dict(Counter(packages).most_common()),
        validation_packages=held_back,
        left_out=dict(selection.left_out.most_common()),
        installed=installed,
    )
    description = {"schema": SCHEMA} | asdict(corpus)
    del description["folder"]
    with published_folder(corpus.folder, replace=True) as folder:
        for side in SPLITS:
            _write_documents(folder / f"{side}.jsonl", split[side])
        write_json(folder / CORPUS_FILE, description)
    return corpus


def _fingerprint(split: dict[str, list[Document]]) -> str:
    digest = hashlib.sha256()
    for side in SPLITS:
        digest.update("".join(f"{side} {document.sha256}\n" for document in split[side]).encode())
    return digest.hexdigest()


def _write_documents(path: Path, documents: Iterable[Document]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for document in documents:
            row = {"name": document.name, "sha256": document.sha256, "text": document.text}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _frozen_text(line: bytes) -> str | None:
    """The text in one line of a frozen corpus, or None where the line is damaged."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    unchanged = hashlib.sha256(row["text"].encode()).hexdigest() == row["sha256"]
    return row["text"] if unchanged else None


def _described(corpus: CorpusSnapshot) -> str:
    left_out = ", ".join(f"{count} {reason}" for reason, count in corpus.left_out.items()) or "nothing"
    return (
        f"Corpus {corpus.name}: {sum(corpus.documents.values())} documents, "
        f"{sum(corpus.bytes.values()) / 1e6:.1f} MB, {corpus.bytes['valid'] / 1e6:.1f} MB of it for validation; "
        f"left out: {left_out}"
    )


def _key_folder(spec: DataSpec, cache: Path) -> Path:
    limit = "" if spec.max_megabytes is None else f"-{spec.max_megabytes:g}MB"
    if spec.quality:  # Which documents are left out depends on the vocabulary.
        limit += "-quality-small" if spec.vocab_size < SMALL_VOCABULARY else "-quality"
    if spec.is_pinned_python:
        return cache / "corpora" / f"{PINNED_PYTHON}-{list_fingerprint()[:16]}{limit}"
    if spec.is_python:
        return cache / "corpora" / f"{PYTHON_SOURCES}{limit}"
    name, content = common_root(spec.corpus).name, source_fingerprint(spec.corpus, cache)
    return cache / "corpora" / f"{name}-{content[:16]}{limit}"

"""A sweep as one file, for machines that share no disk: a plain tar of what is published, with the sum of every file.

    manifest.json                    first: schema, sweep, and path -> sha256 and size of everything that follows
    sweeps/<name>/...                its plans, tables, fits, forecasts and figures
    segments/<id>/...                every published segment of any of its plans, with or without its checkpoint, and
                                     what its weights scored on tasks and lost on its texts

A checkpoint that is left out has a pruned.json in its place, as one that `gc` removed: work that needs it takes its
steps again. What is only begun is left out, and so is what other verbs make anew: MLflow's database (`mlflow sync`),
and pages and drawings that could hold a script (`report`, `plot`). Bundles that have these are read, without them.
"""

import hashlib
import io
import json
import math
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.errors import UserError
from mor_core.files import file_sha256
from mor_core.training.manifest import MANIFEST, OPTIMIZER, WEIGHTS, CheckpointError, verify_checkpoint
from orchestrator.planning.canonical import is_content_id
from orchestrator.store.pruned import PRUNED, pruned_document, read_pruned
from orchestrator.store.published import CHECKPOINT, METRICS, RESULT, SEQUENCE_LOSSES, SPEC, StoreError
from orchestrator.store.store import FORECASTS, Store
from orchestrator.store.sweep_document import TEXTS, find_document, sweep_texts

BUNDLE_SCHEMA = "mor-sweep.bundle/1"
BUNDLE_MANIFEST = "manifest.json"
SEGMENT_FILES = (SPEC, METRICS, SEQUENCE_LOSSES, RESULT, PRUNED)
CHECKPOINT_FILES = (MANIFEST, WEIGHTS, OPTIMIZER)
SWEEP_FILES = (
    "sweep.json",
    TEXTS,
    "runs.parquet",
    "segments.parquet",
    "fits.json",
    "tuned.json",
    "recipe.toml",
    "pilot.json",
    "advised.toml",
    "report.html",
)
FIGURE_SUFFIXES = (".png", ".svg", ".json", ".html")

SCRIPTED_SUFFIXES = (".svg", ".html")
"""A browser runs what such a file says: it is made here or not at all."""

SMALL_FILES = (SPEC, RESULT, MANIFEST, PRUNED)
LARGEST_SMALL_FILE = 2**24
LARGEST_TEXT = 2**30
"""Bytes. A reader takes these files into memory; weights and optimiser states have no bound but the disk."""


class BundleError(UserError):
    """A bundle cannot be written or taken in; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class Bundled:
    """What a bundle holds."""

    sweep: str
    """The sweep's name."""
    segments: int
    """Published segments."""
    num_bytes: int
    """Of the file."""


def export_bundle(store: Store, sweep: str | None, target: Path, *, checkpoints: bool = True) -> Bundled:
    """Write a sweep's bundle to a new file, which appears whole. Raises BundleError and StoreError."""
    name, document = find_document(store, sweep)
    if target.exists():
        raise BundleError(f"{target} exists already: name a new file")
    if not target.parent.is_dir():
        raise BundleError(f"{target.parent} is not a folder: name a file in one that exists")
    for segment_id, reason in store.fetch_checkpoints() if checkpoints else ():
        raise StoreError(f"segment {segment_id} cannot be bundled: {reason}")
    planned = sorted(_segment_ids(store, name, document))
    segments = [segment_id for segment_id in planned if store.verified_result(segment_id) is not None]
    contents = dict(_sweep_contents(store, name))
    for segment_id in segments:
        contents |= _segment_contents(store, segment_id, checkpoints=checkpoints)
    files = {path: _described(content) for path, content in contents.items()}
    manifest = {"schema": BUNDLE_SCHEMA, "sweep": name, "checkpoints": checkpoints, "files": files}
    temporary = target.with_name(f"{target.name}.{os.getpid()}.writing")
    try:
        with tarfile.open(temporary, "w:", format=tarfile.PAX_FORMAT) as tar:
            for path, content in ({BUNDLE_MANIFEST: json.dumps(manifest, sort_keys=True).encode()} | contents).items():
                _add(tar, path, content, files.get(path))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return Bundled(sweep=name, segments=len(segments), num_bytes=target.stat().st_size)


Content = Path | bytes
"""A file, or what one would hold."""


def is_bundled_path(path: str, sweep: str) -> bool:
    """Whether a bundle of a sweep may hold this path: only the files that a results folder has, none of them code."""
    match path.split("/"):
        case ["sweeps", name, file]:
            return name == sweep and file in SWEEP_FILES
        case ["sweeps", name, "figures", file]:
            plain = file.isprintable() and not file.startswith(".") and "\\" not in file
            return name == sweep and plain and Path(file).suffix in FIGURE_SUFFIXES
        case ["sweeps", name, folder, file] if folder == FORECASTS:
            return name == sweep and file.endswith(".json") and is_content_id(file.removesuffix(".json"))
        case ["segments", segment_id, file]:
            return is_content_id(segment_id) and file in SEGMENT_FILES
        case ["segments", segment_id, folder, file]:
            return is_content_id(segment_id) and folder == CHECKPOINT and file in CHECKPOINT_FILES
        case _:
            return False


def is_scripted(path: str | Path) -> bool:
    """Whether a browser that opens the file may run what it says."""
    return Path(path).suffix in SCRIPTED_SUFFIXES


def largest_size(path: str) -> float:
    """Bytes that a file of a bundle may have."""
    name = Path(path).name
    if name in SMALL_FILES:
        return LARGEST_SMALL_FILE
    return math.inf if name in (WEIGHTS, OPTIMIZER) else LARGEST_TEXT


def _segment_ids(store: Store, name: str, document: dict[str, Any]) -> set[str]:
    """Of every revision, the task scores of its weights, and their losses on the sweep's texts."""
    planned = {segment["id"] for revision in document["revisions"] for segment in revision["segments"]}
    texts = sweep_texts(store, name).values()
    measured = {text.segment_id(weights) for weights in planned for text in texts}
    return planned | measured | {score for weights in planned for score in store.published_task_scores(weights)}


def _sweep_contents(store: Store, name: str) -> Iterator[tuple[str, Content]]:
    folder = store.sweep_folder(name)
    figures = sorted((folder / "figures").glob("*"))
    for path in [*(folder / file for file in SWEEP_FILES), *figures, *store.forecast_files(name)]:
        inside = f"sweeps/{name}/{path.relative_to(folder).as_posix()}"
        carried = is_bundled_path(inside, name) and not is_scripted(path)
        if carried and path.is_file() and not path.is_symlink():
            yield inside, path


def _segment_contents(store: Store, segment_id: str, *, checkpoints: bool) -> dict[str, Content]:
    files, top = store.published(segment_id), f"segments/{segment_id}"
    contents: dict[str, Content] = {
        f"{top}/{path.name}": path
        for path in (files.folder / name for name in SEGMENT_FILES if name != RESULT)
        if path.is_file()
    }
    checkpoint = files.checkpoint
    if checkpoint.is_dir() and checkpoints:
        try:
            manifest = verify_checkpoint(checkpoint)
        except CheckpointError as error:
            raise StoreError(f"segment {segment_id} cannot be bundled: {error}; `mor-sweep fsck` says more") from error
        names = (MANIFEST, *manifest.files)
        contents |= {f"{top}/{CHECKPOINT}/{name}": checkpoint / name for name in names}
    elif f"{top}/{PRUNED}" not in contents and _had_checkpoint(store, segment_id):
        pruned = pruned_document(segment_id, "left out of a bundle")
        contents[f"{top}/{PRUNED}"] = json.dumps(pruned, indent=1, sort_keys=True).encode()
    contents[f"{top}/{RESULT}"] = files.result  # Last, as it is published: with it the segment is done.
    return contents


def _had_checkpoint(store: Store, segment_id: str) -> bool:
    result = store.result(segment_id)
    if result is None or not result.is_finished or result.kind == "evaluate":
        return False
    return read_pruned(store, segment_id) is None


def _described(content: Content) -> dict[str, Any]:
    if isinstance(content, bytes):
        return {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    return {"sha256": file_sha256(content), "size": content.stat().st_size}


def _add(tar: tarfile.TarFile, path: str, content: Content, described: dict[str, Any] | None) -> None:
    """A member without owner, time or mode of this machine."""
    member = tarfile.TarInfo(path)
    member.size = described["size"] if described else len(content) if isinstance(content, bytes) else 0
    if isinstance(content, bytes):
        tar.addfile(member, io.BytesIO(content))
    else:
        with content.open("rb") as file:
            tar.addfile(member, file)

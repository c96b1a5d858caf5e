"""Take a sweep's bundle in: read it wholly into a private folder, verify it there, then let its segments appear.

A bundle comes from somewhere else, so nothing of it is believed: only regular files with the names, sizes and sums that
its manifest states, only names that a results folder has (none of which is ever executed or unpickled), each once, and
segments whose content has the id that their folder says. What is refused has changed nothing.
"""

import hashlib
import json
import os
import secrets
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mor_core.file_hash import file_sha256
from mor_core.plain_names import is_plain_name
from orchestrator.bundle import BUNDLE_SCHEMA, MANIFEST, BundleError, is_bundled_path
from orchestrator.fsck_segments import check_segment, read_spec
from orchestrator.identity import OtherVersion
from orchestrator.records import write_tables
from orchestrator.revisions import load_sweep
from orchestrator.store import SCRATCH, Store, StoreError, replace_text
from orchestrator.sweep_document import read_document

LARGEST_MANIFEST = 256 * 2**20
PIECE = 2**20
COMPARED = ("spec.json", "metrics.jsonl", "result.json", "checkpoint/manifest.json")
"""What makes two published segments of one id the same; the last one where both have it."""


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a bundle."""

    sweep: str
    """The sweep's name."""
    added: int
    """Segments that were not here."""
    kept: int
    """Segments that were here already, and are the same."""


def import_bundle(store: Store, bundle: Path) -> Imported:
    """Add what a bundle holds to a results folder; the same again changes nothing, and so does one that was cut short.

    Raises BundleError where anything of it is not as it should be: then nothing has appeared.
    """
    if not bundle.is_file():
        raise BundleError(f"{bundle} is not a file: name a bundle that `mor-sweep export SWEEP FILE.tar` wrote")
    with _private_folder(store) as folder:
        try:
            sweep = _unpack(bundle, folder)
        except (tarfile.TarError, EOFError) as error:
            raise BundleError(f"{bundle} is cut short or no bundle ({error}): copy it again") from error
        staged = Store(root=folder)
        names = _verified_segments(staged, bundle)
        document = _verified_document(store, staged, sweep, bundle)
        new = [name for name in names if not _is_here(store, staged, name)]
        for name in new:
            _appear(store, staged, name)
        _appear_sweep(store, staged, sweep, document)
    write_tables(store, load_sweep(store, sweep))
    return Imported(sweep=sweep, added=len(new), kept=len(names) - len(new))


@contextmanager
def _private_folder(store: Store) -> Iterator[Path]:
    """On the disk of the results, so that what was verified appears by a rename. One that a kill left goes with gc."""
    folder = store.root / SCRATCH / f"import-{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not any(folder.parent.iterdir()):
            folder.parent.rmdir()


def _unpack(bundle: Path, folder: Path) -> str:
    """Write the bundle's files, each verified, below a folder. Returns the sweep's name."""
    with tarfile.open(bundle, "r:") as tar:
        manifest = _manifest(tar, bundle)
        left: dict[str, Any] = dict(manifest["files"])
        total = sum(said["size"] for said in left.values())
        if total > bundle.stat().st_size:
            raise BundleError(f"{bundle} states {total:,} bytes of files and has fewer: it is cut short or was altered")
        free = shutil.disk_usage(folder).free
        if total > free:
            raise BundleError(f"{bundle} needs {total:,} bytes in {folder.parent}, where {free:,} are free: free some")
        while (member := tar.next()) is not None:
            said = left.pop(member.name, None)
            if said is None:
                what = "twice" if member.name in manifest["files"] else "but not in its manifest"
                raise BundleError(f"{bundle} holds {member.name!r} {what}: nothing of it was taken in")
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                raise BundleError(f"{bundle}: {member.name!r} is no plain file: nothing of it was taken in")
            if member.size != said["size"]:
                raise BundleError(
                    f"{bundle}: {member.name!r} has {member.size:,} bytes, its manifest states {said['size']:,}"
                )
            content = tar.extractfile(member)
            assert content is not None
            _write(content, folder / member.name, said["sha256"], bundle)
    if left:
        raise BundleError(f"{bundle} lacks {min(left)!r} and {len(left) - 1} more of its manifest: copy it again")
    return manifest["sweep"]


def _manifest(tar: tarfile.TarFile, bundle: Path) -> dict[str, Any]:
    """The first member. Raises BundleError unless every path that it names may stand in a bundle."""
    member = tar.next()
    wanted = f"{bundle} is not a bundle of this program: name one that `mor-sweep export SWEEP FILE.tar` wrote"
    if member is None or member.name != MANIFEST or not member.isreg() or member.size > LARGEST_MANIFEST:
        raise BundleError(wanted)
    content = tar.extractfile(member)
    assert content is not None
    try:
        said = json.loads(content.read())
    except ValueError as error:
        raise BundleError(f"{wanted} ({error})") from error
    files = said.get("files") if isinstance(said, dict) else None
    if not isinstance(files, dict) or said.get("schema") != BUNDLE_SCHEMA or not is_plain_name(said.get("sweep")):
        raise BundleError(wanted)
    for path, each in files.items():
        if not is_bundled_path(path, said["sweep"]):
            raise BundleError(f"{bundle} names {path!r}, which is no file of a bundle: nothing of it was taken in")
        size, digest = (each.get("size"), each.get("sha256")) if isinstance(each, dict) else (None, None)
        if not isinstance(size, int) or size < 0 or not isinstance(digest, str):
            raise BundleError(f"{bundle} states no size and sum of {path!r}: nothing of it was taken in")
    return said


def _write(content: IO[bytes], path: Path, digest: str, bundle: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = hashlib.sha256()
    with path.open("xb") as file:
        while piece := content.read(PIECE):
            found.update(piece)
            file.write(piece)
    if found.hexdigest() != digest:
        raise BundleError(
            f"{bundle}: {path.name} of {path.parent.name} has the sha256 {found.hexdigest()}, its manifest states "
            f"{digest}: it was altered or damaged, copy it again"
        )


def _verified_segments(staged: Store, bundle: Path) -> list[str]:
    """Ids of the unpacked segments, parents first. Raises BundleError where one is not what its folder's name says."""
    segments = []
    folder = staged.root / "segments"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            segment = read_spec(path / "spec.json")
            staged.hint(segment, staged.result(path.name))
        except (StoreError, OtherVersion) as error:
            raise BundleError(f"{bundle}: segment {path.name} is not readable ({error})") from error
        wrong = [finding for finding in check_segment(staged, path).findings if not finding.is_note]
        if wrong:
            raise BundleError(f"{bundle}: segment {path.name} is not whole: {Path(wrong[0].path).name} {wrong[0].what}")
        order = ("stable", "decay", "evaluate").index(segment.kind)
        segments.append((order, segment.stop_step, path.name))
    return [name for _, _, name in sorted(segments)]


def _verified_document(store: Store, staged: Store, sweep: str, bundle: Path) -> dict[str, Any]:
    """The sweep's plans: the bundle's where they go on from those that are here. Raises BundleError where they part."""
    try:
        load_sweep(staged, sweep)
        theirs = read_document(staged.sweep_folder(sweep) / "sweep.json")
    except (StoreError, ValueError, OtherVersion) as error:
        raise BundleError(f"{bundle} has no readable plan of the sweep {sweep!r} ({error})") from error
    assert theirs is not None
    path = store.sweep_folder(sweep) / "sweep.json"
    ours = read_document(path)
    if ours is None:
        return theirs
    longer, shorter = sorted((ours, theirs), key=lambda document: len(document["revisions"]), reverse=True)
    if longer["revisions"][: len(shorter["revisions"])] != shorter["revisions"]:
        other = file_sha256(staged.sweep_folder(sweep) / "sweep.json")
        raise BundleError(
            f"{store.root} has another sweep named {sweep!r} (sha256 of sweep.json here {file_sha256(path)}, in the "
            f"bundle {other}): import it into another --results folder"
        )
    return longer


def _is_here(store: Store, staged: Store, name: str) -> bool:
    """Whether the same segment is published here. Raises BundleError where another result of it is."""
    if not store.is_done(name):
        store.refuse_obstructed(name)
        return False
    here, there = store.segment_folder(name), staged.segment_folder(name)
    for part in COMPARED:
        digests = [file_sha256(folder / part) if (folder / part).is_file() else "" for folder in (here, there)]
        if digests[0] != digests[1] and (all(digests) or "/" not in part):
            raise BundleError(
                f"segment {name} is here already with another {part} (sha256 here {digests[0] or 'none'}, in the "
                f"bundle {digests[1] or 'none'}): import the bundle into another --results folder"
            )
    return True


def _appear(store: Store, staged: Store, name: str) -> None:
    """One rename: a reader sees the whole segment or none. Hints first: readers ask whether the segment is done."""
    target = store.segment_folder(name)
    store.hint(read_spec(staged.segment_folder(name) / "spec.json"), staged.result(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        staged.segment_folder(name).rename(target)
    except OSError:
        if not store.is_done(name):  # Another import was first with the same one.
            raise


def _appear_sweep(store: Store, staged: Store, sweep: str, document: dict[str, Any]) -> None:
    """Tables, fits and figures where there are none, then the plans: with them the sweep is there."""
    here, there = store.sweep_folder(sweep), staged.sweep_folder(sweep)
    for path in sorted(there.rglob("*")):
        target = here / path.relative_to(there)
        if path.is_file() and path.name != "sweep.json" and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    here.mkdir(parents=True, exist_ok=True)
    replace_text(here / "sweep.json", json.dumps(document))
    replace_text(here.parent / ".last", sweep)

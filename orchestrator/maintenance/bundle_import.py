"""Take a sweep's bundle in: read it wholly into a private folder, verify it there, then let its segments appear.

A bundle comes from somewhere else, so nothing of it is believed: only regular files with the names, sizes and sums that
its manifest states, only names that a results folder has (none of which is ever executed or unpickled), each once;
segments whose content has the id that their folder says; plans that lead to them and to nothing else; and a run table
that can be made of both. What is refused has changed nothing.
"""

import hashlib
import json
import os
import secrets
import shutil
import tarfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from mor_core.files import (
    file_sha256,
    is_folder_name,
    is_plain_name,
    parse_json_object,
    read_json_object,
    rename_unless_there,
    replace_text,
)
from mor_core.flops import total_params, unique_params, unrolled_params
from orchestrator.maintenance.bundle import (
    BUNDLE_MANIFEST,
    BUNDLE_SCHEMA,
    BundleError,
    is_bundled_path,
    is_scripted,
    largest_size,
)
from orchestrator.maintenance.check_segment import check_segment
from orchestrator.maintenance.check_sweep import fit_findings
from orchestrator.planning.canonical import OtherVersion
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import Segment, TaskEvaluation, trunk_id
from orchestrator.planning.plan import cell_identity
from orchestrator.records.fits.forecasts import read_forecasts
from orchestrator.records.revisions import Sweep, load_sweep
from orchestrator.records.table import segment_table, table, write_tables
from orchestrator.store.attempts import SCRATCH
from orchestrator.store.published import (
    CHECKPOINT_MANIFEST,
    METRICS,
    RESULT,
    SEQUENCE_LOSSES,
    SPEC,
    PublishedSegment,
    StoreError,
    read_spec,
)
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import read_document, sweep_texts, write_sweep_texts

LARGEST_MANIFEST = 256 * 2**20
LARGEST_HEADER = 8 * 2**10
"""Bytes that stand before a member's content: its name and size take some 2 KiB where both are long."""
PIECE = 2**20
COMPARED = (SPEC, METRICS, SEQUENCE_LOSSES, RESULT, CHECKPOINT_MANIFEST)
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
    left_out: int
    """Pages and drawings of the bundle that were not taken in: they could hold a script."""


def import_bundle(store: Store, bundle: Path) -> Imported:
    """Add what a bundle holds to a results folder; the same again changes nothing, and so does one that was cut short.

    Raises BundleError where anything of it is not as it should be: then nothing has appeared.
    """
    if not bundle.is_file():
        raise BundleError(f"{bundle} is not a file: name a bundle that `mor-sweep export SWEEP FILE.tar` wrote")
    with _private_folder(store) as folder:
        staged = Store(root=folder)
        with _nothing_believed(bundle):
            sweep = _unpack(bundle, folder)
            segments = _verified_segments(staged, bundle)
            _verify_sweep(staged, sweep, segments, bundle)
            document = _joined_document(store, staged, sweep)
            left_out = _remove_scripted(staged, sweep)
        new = [name for name in segments if not _is_here(store, staged, name)]
        for name in new:
            _appear(store, staged, name)
        _appear_sweep(store, staged, sweep, document)
    write_tables(store, sweep)
    return Imported(sweep=sweep, added=len(new), kept=len(segments) - len(new), left_out=left_out)


@contextmanager
def _nothing_believed(bundle: Path) -> Iterator[None]:
    """Whatever fails on a bundle's content is a refusal: no list of errors is whole for content unseen."""
    try:
        yield
    except (BundleError, OSError):  # The disk is this machine's.
        raise
    except (StoreError, OtherVersion) as error:
        raise BundleError(f"{bundle} cannot be taken in ({error})") from error
    except Exception as error:
        cause = f"{type(error).__name__}: {error}"
        raise BundleError(f"{bundle} is damaged or was altered ({cause!r:.300}): nothing of it was taken in") from error


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


class _Headers:
    """What tarfile reads of a bundle. It takes lengths in headers at their word, so what it may read is bounded."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell = file.seek, file.tell
        self.left = LARGEST_HEADER
        self._file = file

    def read(self, size: int) -> bytes:
        """As a file's read, until what is left of the bound is read."""
        self.left -= size
        if size < 0 or self.left < 0:
            raise tarfile.ReadError(f"the header of a file in it is longer than {LARGEST_HEADER:,} bytes")
        return self._file.read(size)


def _members(file: BinaryIO, bundle: Path) -> Iterator[tarfile.TarInfo]:
    """What a tar holds, one after the other; their content starts at `offset_data`. Raises BundleError."""
    headers = _Headers(file)
    try:
        tar = tarfile.TarFile(mode="r", fileobj=headers)  # type: ignore[arg-type]
        while (member := tar.next()) is not None:
            yield member
            headers.left = LARGEST_HEADER
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{bundle} is cut short or no bundle ({error}): copy it again") from error


def _unpack(bundle: Path, folder: Path) -> str:
    """Write the bundle's files, each verified, below a folder. Returns the sweep's name."""
    with bundle.open("rb") as file, bundle.open("rb") as contents:
        members = _members(file, bundle)
        manifest = _manifest(next(members, None), contents, bundle)
        left: dict[str, Any] = dict(manifest["files"])
        _check_room(bundle, folder, sum(described["size"] for described in left.values()))
        for member in members:
            described = left.pop(member.name, None)
            if described is None:
                fault = "twice" if member.name in manifest["files"] else "but not in its manifest"
                raise BundleError(f"{bundle} holds {member.name!r} {fault}: nothing of it was taken in")
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                raise BundleError(f"{bundle}: {member.name!r} is no plain file: nothing of it was taken in")
            if member.size != described["size"]:
                raise BundleError(
                    f"{bundle}: {member.name!r} has {member.size:,} bytes, its manifest states {described['size']:,}"
                )
            contents.seek(member.offset_data)
            _write(contents, folder / member.name, described, bundle)
    if left:
        raise BundleError(f"{bundle} lacks {min(left)!r} and {len(left) - 1} more of its manifest: copy it again")
    return manifest["sweep"]


def _check_room(bundle: Path, folder: Path, total: int) -> None:
    if total > bundle.stat().st_size:
        raise BundleError(f"{bundle} states {total:,} bytes of files and has fewer: it is cut short or was altered")
    free = shutil.disk_usage(folder).free
    if total > free:
        raise BundleError(f"{bundle} needs {total:,} bytes in {folder.parent}, where {free:,} are free: free some")


def _manifest(member: tarfile.TarInfo | None, contents: BinaryIO, bundle: Path) -> dict[str, Any]:
    """The first member. Raises BundleError unless every path that it names may stand in a bundle."""
    expected = f"{bundle} is not a bundle of this program: name one that `mor-sweep export SWEEP FILE.tar` wrote"
    if member is None or member.name != BUNDLE_MANIFEST or not member.isreg() or member.size > LARGEST_MANIFEST:
        raise BundleError(expected)
    contents.seek(member.offset_data)
    try:
        manifest = parse_json_object(contents.read(member.size), Path(BUNDLE_MANIFEST))
    except ValueError as error:
        raise BundleError(f"{expected} ({error})") from error
    files, sweep = manifest.get("files"), manifest.get("sweep")
    if not isinstance(files, dict) or manifest.get("schema") != BUNDLE_SCHEMA:
        raise BundleError(expected)
    if not isinstance(sweep, str) or not is_plain_name(sweep) or not sweep.isprintable():
        raise BundleError(f"{bundle} is of a sweep named {sweep!r:.200}, which is no name of a sweep")
    for path, described in files.items():
        if not is_bundled_path(path, sweep):
            raise BundleError(f"{bundle} names {path!r:.300}, which is no file of a bundle: nothing of it was taken in")
        _check_described(path, described, bundle)
    return manifest


def _check_described(path: str, described: object, bundle: Path) -> None:
    """The size and sum that a manifest states of a file."""
    size, digest = (described.get("size"), described.get("sha256")) if isinstance(described, dict) else (None, None)
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        raise BundleError(f"{bundle} states no size and sum of {path!r}: nothing of it was taken in")
    if size > largest_size(path):
        raise BundleError(
            f"{bundle} states {size:,} bytes of {path!r}, expected at most {largest_size(path):,}: nothing of it was "
            "taken in"
        )


def _write(contents: BinaryIO, path: Path, described: dict[str, Any], bundle: Path) -> None:
    """The next bytes of the bundle, as many as are stated, as a file that must have the stated sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), described["size"]
    with path.open("xb") as file:
        while size and (piece := contents.read(min(size, PIECE))):
            digest.update(piece)
            file.write(piece)
            size -= len(piece)
    if size:
        raise BundleError(f"{bundle} is cut short in the middle of {path.name} of {path.parent.name}: copy it again")
    if digest.hexdigest() != described["sha256"]:
        raise BundleError(
            f"{bundle}: {path.name} of {path.parent.name} has the sha256 {digest.hexdigest()}, its manifest states "
            f"{described['sha256']!r:.80}: it was altered or damaged, copy it again"
        )


def _verified_segments(staged: Store, bundle: Path) -> dict[str, Segment]:
    """The unpacked segments by id, parents first. Raises BundleError where one is not what its folder's name says."""
    segments: dict[str, Segment] = {}
    folder = staged.root / "segments"
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        try:
            segment = read_spec(PublishedSegment(folder=path).spec)
            staged.hint(segment, staged.result(path.name))
        except (StoreError, OtherVersion) as error:
            raise BundleError(f"{bundle}: segment {path.name} is not readable ({error})") from error
        problems = [finding for finding in check_segment(staged, path).findings if not finding.is_note]
        if problems:
            problem = problems[0]
            raise BundleError(f"{bundle}: segment {path.name} is not whole: {Path(problem.path).name} {problem.what}")
        if isinstance(segment.evaluation, TaskEvaluation) and not segment.evaluation.task.isprintable():
            raise BundleError(f"{bundle}: segment {path.name} scores {segment.evaluation.task!r:.80}, which is no task")
        segments[path.name] = segment
    order = ("stable", "decay", "evaluate")
    return dict(sorted(segments.items(), key=lambda item: (order.index(item[1].kind), item[1].stop_step, item[0])))


def _verify_sweep(staged: Store, name: str, segments: Mapping[str, Segment], bundle: Path) -> None:
    """Plans, and all that readers will make of them, before anything of it can be read. Raises what these raise."""
    sweep = load_sweep(staged, name)
    for cell in sweep.cells:
        wrong = _wrong_with_cell(cell, segments.get(str(cell.evaluate_segment)))
        if wrong:
            raise BundleError(f"{bundle}: cell {cell.cell_id} of sweep {name} {wrong}: nothing of it was taken in")
    _verify_planned(sweep, segments, bundle)
    runs = table(staged, sweep)
    segment_table(staged, sweep)
    list(fit_findings(staged, sweep, runs))
    read_forecasts(staged, name)
    for path in staged.sweep_folder(name).rglob("*"):
        if path.suffix == ".json":
            read_json_object(path)
        if path.suffix == ".toml":
            tomllib.loads(path.read_text(encoding="utf-8"))


def _wrong_with_cell(cell: Cell, evaluation: Segment | None) -> str | None:
    """What a cell says that its id, its own model or the segment that measured it does not; None where all agree."""
    if cell_identity(cell, str(cell.evaluate_segment)) != cell.cell_id:
        return "is not what its id says"
    if not is_folder_name(cell.arm) or not cell.size.isprintable():
        return f"has the labels {cell.arm!r:.80} and {cell.size!r:.80}, expected plain names"
    model = cell.model
    counts = (cell.tokens, cell.unique_params, cell.unrolled_params, cell.total_params)
    expected = (cell.steps * cell.tokens_per_step, unique_params(model), unrolled_params(model), total_params(model))
    if (counts, cell.architecture, cell.recursions) != (expected, model.architecture, model.recursion.count):
        return "has counts that its model does not have"
    if evaluation is None:
        return None
    trunk = evaluation.trunk
    trained = (trunk.model, trunk.train, trunk.seed, trunk_id(trunk), evaluation.stop_step)
    if (*trained, evaluation.trunk_step) != (model, cell.train, cell.seed, cell.trunk_id, cell.steps, cell.decay_start):
        return "is not what the segment that measured it trained"
    return None


def _verify_planned(sweep: Sweep, segments: Mapping[str, Segment], bundle: Path) -> None:
    """What the plans say of the segments that the bundle holds."""
    for name, segment in segments.items():
        planned = sweep.segments.get(name)
        if planned is None:  # Of earlier settings, or a task's score, or a text's loss.
            continue
        if (planned.kind, planned.stop_step, planned.trunk_id) != (
            segment.kind,
            segment.stop_step,
            trunk_id(segment.trunk),
        ):
            raise BundleError(f"{bundle}: sweep {sweep.name} plans segment {name} as another than it is")


def _joined_document(store: Store, staged: Store, sweep: str) -> dict[str, Any]:
    """The sweep's plans: the bundle's where they go on from those that are here. Raises BundleError where they part."""
    theirs = read_document(staged.sweep_folder(sweep) / "sweep.json")
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
            f"bundle {other}): import it into another results folder"
        )
    return longer


def _remove_scripted(staged: Store, sweep: str) -> int:
    """Remove pages and drawings, which `report` and `plot` write anew. Returns how many there were."""
    scripted = [path for path in staged.sweep_folder(sweep).rglob("*") if path.is_file() and is_scripted(path)]
    for path in scripted:
        path.unlink()
    return len(scripted)


def _is_here(store: Store, staged: Store, name: str) -> bool:
    """Whether the same segment is published here. Raises BundleError where another result of it is."""
    if not store.is_done(name):
        store.refuse_obstructed(name)
        return False
    published, bundled = store.segment_folder(name), staged.segment_folder(name)
    for part in COMPARED:
        digests = [file_sha256(folder / part) if (folder / part).is_file() else "" for folder in (published, bundled)]
        if digests[0] != digests[1] and (all(digests) or "/" not in part):
            raise BundleError(
                f"segment {name} is here already with another {part} (sha256 here {digests[0] or 'none'}, in the "
                f"bundle {digests[1] or 'none'}): import the bundle into another results folder"
            )
    return True


def _appear(store: Store, staged: Store, name: str) -> None:
    """One rename: a reader sees the whole segment or none. Hints first: readers ask whether the segment is done."""
    target = store.segment_folder(name)
    store.hint(read_spec(staged.published(name).spec), staged.result(name))
    target.parent.mkdir(parents=True, exist_ok=True)
    rename_unless_there(staged.segment_folder(name), target)  # Another import may be first with the same one.


def _appear_sweep(store: Store, staged: Store, sweep: str, document: dict[str, Any]) -> None:
    """Names of texts, tables, fits, forecasts and figures where there are none, then the plans: with them the sweep is
    there."""
    texts = sweep_texts(staged, sweep) | sweep_texts(store, sweep)
    folder, staged_folder = store.sweep_folder(sweep), staged.sweep_folder(sweep)
    for path in sorted(staged_folder.rglob("*")):
        target = folder / path.relative_to(staged_folder)
        if path.is_file() and path.name != "sweep.json" and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    folder.mkdir(parents=True, exist_ok=True)
    if texts:
        write_sweep_texts(store, sweep, texts)
    replace_text(folder / "sweep.json", json.dumps(document))
    replace_text(folder.parent / ".last", sweep)

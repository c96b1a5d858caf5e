"""Results on object storage: a local folder that every verb works in, and the bucket that holds the fact.

    s3://BUCKET/PREFIX/
      mor-sweep.json                                  proves that the server honours conditional creation
      segments/<id>/result.json                       created once and last: the result, and the sha256 of its files
      segments/<id>/files/<sha256>                    its spec, curve and checkpoint
      attempts/<id>/<attempt>/checkpoint-<step>.json  created last: the sha256 of the files of a checkpoint
      attempts/<id>/<attempt>/files/<sha256>
      attempts/<id>/<attempt>/failure.json            why the newest attempt failed, until the segment is tried again
      trunks/<trunk>/<step>  tasks/<weights>/<id>     hints, as on a disk
      sweeps/<name>/revisions/<number>.json           one plan each, created once
      sweeps/<name>/files/...                         tables, fits, figures: derived, the last writer wins

The local folder ("scratch") is laid out like any results folder. Segments are trained there and published to the bucket
first; published segments of others are fetched by their sha256 and kept as a cache, their checkpoints when something
starts from them. Deleting it costs at most one checkpoint interval of what runs.

The locks of the local folder keep two processes of one host from doing work twice. There is none in the bucket:
two hosts may train the same segment, and conditional creation of its result.json decides whose counts.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from mor_core.data.spec import cache_folder
from mor_core.file_hash import file_sha256
from mor_core.plain_names import is_plain_name
from orchestrator.object_store import ObjectStore, RemoteRefused, checked_address
from orchestrator.results_folder import ADDRESS
from orchestrator.store import Store, replace_text, write_json
from orchestrator.sweep_document import SCHEMA as SWEEP_SCHEMA
from orchestrator.sweep_document import read_document, sweep_names

if TYPE_CHECKING:
    from orchestrator.remote_failures import RemoteFailures

SCRATCH_VARIABLE = "MOR_SWEEP_SCRATCH"
SYNCED = "synced.json"
MARKER = "mor-sweep.json"
_OWN = {"sweep.json", "mlflow.db", "mirror.json", "mirror.log", "ui.log"}
"""Of a sweep's folder: what has another form in the bucket, or belongs to one machine."""

_OWN_FOLDERS = {"drivers", "stop", "artifacts"}


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A bucket's results and the local folder that stands for them."""

    store: Store
    """The local folder."""
    objects: ObjectStore
    """The bucket."""

    def pull(self) -> None:
        """Bring the local folder up to date: plans, tables, figures, and every published segment without its
        checkpoint."""
        with FileLock(self.store.root / "sync.lock"):
            self._pull_sweeps()
            self._pull_segments()
            self._failures().fetch()

    def require_conditional_creation(self) -> None:
        """Raises RemoteRefused where the server overwrites an object that `create` must leave alone."""
        told = json.dumps({"schema": "mor-sweep.remote/1"}).encode()
        if self.objects.create(MARKER, told) and self.objects.create(MARKER, told):
            raise RemoteRefused(
                f"{self.objects.url}: the server ignores conditional writes (If-None-Match), so two machines could "
                "overwrite each other's results: use AWS S3, or another server that has them"
            )

    def push(self) -> None:
        """Bring the bucket up to date with what verbs wrote into sweeps/ (tables, fits, figures, reports), and with
        failures that it has not been told."""
        with FileLock(self.store.root / "sync.lock"):
            failures = self._failures()
            failures.upload(failures.begun())
            synced = self._synced()
            sent = {}
            for name, path in self._sweep_files():
                digest = file_sha256(path)
                if synced.get(name, {}).get("sha256") != digest:
                    self.objects.replace(name, path.read_bytes())
                    sent[name] = digest
            if sent:
                etags = self.objects.etags("sweeps")
                self._remember(synced | {name: _state(etags.get(name), digest) for name, digest in sent.items()})

    def push_revision(self, name: str) -> bool:
        """Append a sweep's latest local plan revision to the bucket's. False where another machine has appended one of
        the same number meanwhile: pull, and plan anew."""
        document = read_document(self.store.sweep_folder(name) / "sweep.json")
        assert document is not None
        number = len(document["revisions"])  # Those before it came from the bucket.
        told = json.dumps(document["revisions"][-1], sort_keys=True).encode()
        return self.objects.create(_revision_name(name, number), told) or (
            self.objects.read(_revision_name(name, number)) == told
        )

    def pull_revisions(self, name: str) -> None:
        """The bucket's plan revisions of one sweep, as its local sweep.json."""
        self._write_document(name, self._revision_numbers().get(name, []))

    def _pull_sweeps(self) -> None:
        there, synced = self.objects.etags("sweeps"), self._synced()
        for sweep, numbers in self._revision_numbers(there).items():
            self._write_document(sweep, numbers)
        names = [name for name in there if _sweep_file(name) is not None]
        changed = [name for name in names if synced.get(name, {}).get("etag") != there[name]]
        for name, data in self.objects.read_all(changed).items():
            path = self._local(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f"{path.name}.writing")
            temporary.write_bytes(data)
            temporary.replace(path)
            synced[name] = _state(there[name], hashlib.sha256(data).hexdigest())
        if changed:
            self._remember(synced)

    def _pull_segments(self) -> None:
        from orchestrator.remote_segment import RemoteSegments

        published = {name.split("/")[1] for name in self.objects.etags("segments") if name.endswith("/result.json")}
        RemoteSegments(remote=self).fetch_results(sorted(name for name in published if not self.store.is_done(name)))
        folder = self.store.root / "segments"
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in published:  # Taken out of the bucket, by `retry` on another machine or by hand.
                aside = self.store.root / "stale"
                aside.mkdir(exist_ok=True)
                path.rename(aside / f"{path.name}-{os.getpid()}-{os.urandom(4).hex()}")

    def _failures(self) -> "RemoteFailures":
        from orchestrator.remote_failures import RemoteFailures

        return RemoteFailures(remote=self)

    def _revision_numbers(self, there: Iterable[str] | None = None) -> dict[str, list[int]]:
        """Sweep name -> numbers of its revisions in the bucket, ascending."""
        found: dict[str, list[int]] = {}
        for name in self.objects.etags("sweeps") if there is None else there:
            parts = name.split("/")
            number = parts[-1].removesuffix(".json")
            if len(parts) == 4 and parts[2] == "revisions" and number.isdecimal() and is_plain_name(parts[1]):
                found.setdefault(parts[1], []).append(int(number))
        return {sweep: sorted(numbers) for sweep, numbers in found.items()}

    def _write_document(self, sweep: str, numbers: list[int]) -> None:
        """sweep.json of the bucket's revisions; of those that are here already none is read again."""
        path = self.store.sweep_folder(sweep) / "sweep.json"
        known = read_document(path)
        if known is not None and numbers and len(known["revisions"]) == len(numbers):
            # The local document is the bucket's, with at most one revision of its own that was not uploaded.
            last = self.objects.read(_revision_name(sweep, numbers[-1]))
            if last is not None and json.loads(last) == known["revisions"][-1]:
                return
        told = self.objects.read_all(_revision_name(sweep, number) for number in numbers)
        if told:
            revisions = [json.loads(told[_revision_name(sweep, number)]) for number in numbers]
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, json.dumps({"schema": SWEEP_SCHEMA, "name": sweep, "revisions": revisions}))
            last = path.parent.parent / ".last"
            if not last.exists():
                replace_text(last, sweep)

    def _sweep_files(self) -> list[tuple[str, Path]]:
        """(name in the bucket, local path) of what verbs wrote of every sweep."""
        found = []
        for sweep in sweep_names(self.store):
            folder = self.store.sweep_folder(sweep)
            for path in sorted(folder.rglob("*")):
                inside = path.relative_to(folder)
                if path.is_file() and not path.is_symlink() and _is_shared(inside):
                    found.append((f"sweeps/{sweep}/files/{inside.as_posix()}", path))
        return found

    def _local(self, name: str) -> Path:
        sweep, inside = _sweep_file(name) or ("", Path())
        return self.store.sweep_folder(sweep) / inside

    def _synced(self) -> dict[str, dict[str, Any]]:
        try:
            return json.loads((self.store.root / SYNCED).read_text())
        except (OSError, ValueError):
            return {}

    def _remember(self, synced: dict[str, dict[str, Any]]) -> None:
        replace_text(self.store.root / SYNCED, json.dumps(synced))


@dataclass(frozen=True, kw_only=True)
class RemotePart:
    """One kind of what a bucket holds, from one machine's side."""

    remote: Remote
    """The bucket and the local folder."""

    @property
    def store(self) -> Store:
        """The local folder."""
        return self.remote.store

    @property
    def objects(self) -> ObjectStore:
        """The bucket."""
        return self.remote.objects


def open_remote(url: str) -> Remote:
    """The results at an s3:// address, with a local folder made for them. Asks the server nothing yet.

    Raises RemoteRefused for an address that is none.
    """
    url = checked_address(url)
    folder = local_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ADDRESS).exists():
        write_json(folder / ADDRESS, {"url": url})
    return Remote(store=Store(root=folder), objects=ObjectStore(url=url))


def local_folder(url: str) -> Path:
    """Where the results of an address are worked on: under MOR_SWEEP_SCRATCH, else under the cache folder."""
    chosen = os.environ.get(SCRATCH_VARIABLE)
    parent = Path(chosen).expanduser().absolute() if chosen else cache_folder() / "remote"
    bucket = url.removeprefix("s3://").partition("/")[0]
    return parent / f"{bucket}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"


def remote_of(store: Store) -> Remote | None:
    """The bucket that a results folder stands for; None for a folder that is all there is."""
    try:
        url = json.loads((store.root / ADDRESS).read_text())["url"]
    except FileNotFoundError:
        return None
    return Remote(store=store, objects=ObjectStore(url=checked_address(url)))


def address_of(store: Store) -> str:
    """The s3:// address that a results folder stands for; empty for a folder that is all there is."""
    remote = remote_of(store)
    return remote.objects.url if remote else ""


def push(store: Store) -> None:
    """What verbs wrote goes to the bucket, where there is one."""
    if remote := remote_of(store):
        remote.push()


def _state(etag: str | None, digest: str) -> dict[str, Any]:
    return {"etag": etag, "sha256": digest}


def _revision_name(sweep: str, number: int) -> str:
    return f"sweeps/{sweep}/revisions/{number}.json"


def _is_shared(inside: Path) -> bool:
    own = (
        inside.name in _OWN
        or inside.suffix in (".lock", ".writing", ".log")
        or inside.name.startswith((".", "mlflow.db"))
    )
    return not own and inside.parts[0] not in _OWN_FOLDERS


def _sweep_file(name: str) -> tuple[str, Path] | None:
    """(sweep, path in its folder) that an object of the bucket stands for; None for any other object."""
    parts = name.split("/")
    if len(parts) < 4 or parts[2] != "files" or not all(map(is_plain_name, parts)):
        return None
    inside = Path(*parts[3:])
    return (parts[1], inside) if _is_shared(inside) else None

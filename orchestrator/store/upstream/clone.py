"""The local folder that stands for results in a bucket: where it lies, and the bucket's address in it."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from mor_core.data.spec import cache_folder
from mor_core.files import write_json
from orchestrator.store.folder import ADDRESS
from orchestrator.store.store import Store
from orchestrator.store.upstream.objects import ObjectStore, checked_address

SCRATCH_VARIABLE = "MOR_SWEEP_SCRATCH"


@dataclass(frozen=True, kw_only=True)
class Clone:
    """A bucket's results and the local folder that stands for them."""

    store: Store
    """The local folder, by itself: it is asked and changed here without the bucket's knowledge."""
    objects: ObjectStore
    """The bucket."""

    def waiting(self, seconds: float) -> "Clone":
        """The same, with another patience for a server that does not answer."""
        return replace(self, objects=replace(self.objects, patience=seconds))


def make_clone(url: str) -> Clone:
    """The results at an s3:// address, with a local folder made for them. Asks the server nothing yet.

    Raises BucketRefused for an address that is none.
    """
    url = checked_address(url)
    folder = local_folder(url)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / ADDRESS).exists():
        write_json(folder / ADDRESS, {"url": url})
    return Clone(store=Store(root=folder), objects=ObjectStore(url=url))


def clone_in(folder: Path) -> Clone | None:
    """The bucket that a folder stands for; None for a folder that is all there is."""
    try:
        url = json.loads((folder / ADDRESS).read_text())["url"]
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Clone(store=Store(root=folder), objects=ObjectStore(url=checked_address(url)))


def local_folder(url: str) -> Path:
    """Where the results of an address are worked on: under MOR_SWEEP_SCRATCH, else under the cache folder."""
    chosen = os.environ.get(SCRATCH_VARIABLE)
    parent = Path(chosen).expanduser().absolute() if chosen else cache_folder() / "remote"
    bucket = url.removeprefix("s3://").partition("/")[0]
    return parent / f"{bucket}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"

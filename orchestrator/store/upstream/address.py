"""Which bucket a results folder stands for, and which local folder an address is worked on in."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from mor_core.data.spec import cache_folder
from mor_core.files import write_json
from orchestrator.store.folder import ADDRESS
from orchestrator.store.store import Store
from orchestrator.store.upstream.objects import ObjectStore, checked_address

SCRATCH_VARIABLE = "MOR_SWEEP_SCRATCH"


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A bucket's results and the local folder that stands for them."""

    store: Store
    """The local folder."""
    objects: ObjectStore
    """The bucket."""


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

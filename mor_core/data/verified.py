"""Shards are compared with their sha256 when they are first read on a disk; later their file's metadata is enough.

    <data folder>/verified.json    shard -> size, time of last change of content and of inode, inode, sha256

What was verified is not read again as long as all of these are the same; the time of the inode's last change is the
kernel's own and cannot be set. A copy of the folder, or another machine's disk, is verified anew. Decay of the medium
below an unchanged file is what `TokenReader.verify` is for. Sixty gigabytes take a minute or two, once.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mor_core.data.batches import Shard
from mor_core.data.cache_files import MEND, check_size, write_json
from mor_core.data.spec import DataError
from mor_core.files import file_sha256

VERIFIED = "verified.json"


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """Whether the shards that are being read are still those that were prepared."""

    folder: Path
    """Of the data snapshot."""
    shards: Sequence[Shard]
    """Those of both parts."""

    def check(self) -> None:
        """Raise DataError, which names the shard, where one is missing or is not the one that was prepared.

        Costs a look at each file's metadata, and reading the files that have changed since they were verified.
        """
        if not self._unverified():
            return
        with _alone(self.folder):
            for shard in self._unverified():  # Another process may have verified them meanwhile.
                check_size(shard.path, shard.num_bytes)
                before = _signature(shard)
                if file_sha256(shard.path) != shard.sha256:
                    raise DataError(f"The token shard {shard.path} is not the one that was prepared; {MEND}")
                with suppress(DataError):  # A folder that cannot be written to is verified by every process.
                    write_json(self.folder / VERIFIED, self._verified() | {shard.path.name: before})

    def _unverified(self) -> list[Shard]:
        """The shards that were not verified as they now are."""
        verified = self._verified()
        return [shard for shard in self.shards if verified.get(shard.path.name) != _signature(shard)]

    def _verified(self) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / VERIFIED).read_bytes()))
        except (OSError, ValueError, TypeError):
            return {}


def _signature(shard: Shard) -> list[int | str] | None:
    """What is the same as long as nobody touches the file; None where there is none."""
    try:
        stat = shard.path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, shard.sha256]


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process of a host verifies, the others wait for what it finds; without a lock where none can be made."""
    from filelock import FileLock

    lock = FileLock(folder / f"{VERIFIED}.lock")
    with suppress(OSError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()

"""Prepared data on object storage: published once, fetched to the disk of each machine that trains.

    s3://bucket/prefix/<name of the data folder>/   the files of the folder, the manifest last
    <cache>/tokens/<the same name>/                 a copy, each shard compared with its sha256 as it arrives; the
                                                    manifest comes last, origin.json says where from

Every step of training reads windows of all shards, so all are fetched before the first step, and read from the disk
from then on. Any URL that fsspec knows will do; s3:// needs the extra `s3`.
"""

import hashlib
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mor_core.data.cache_files import PARTIAL, naming_what_cannot_be_written, read_json, write_json
from mor_core.data.snapshot import MANIFEST, SPLITS, TOKENIZER_FILE, read_manifest
from mor_core.data.spec import DataError
from mor_core.errors import first_line
from mor_core.files import file_sha256, is_plain_name

ORIGIN_FILE = "origin.json"
TRANSFERS_AT_ONCE = 8
COPIED_AT_ONCE = 2**22
"""Bytes."""


def publish_folder(folder: Path, url: str, report: Callable[[str], None] | None = None) -> str:
    """Copy a data folder to `url`/<its name>, passing over files of one that was interrupted; returns that URL.

    The manifest goes last: what has none is not there. Raises `DataError` where the storage refuses.
    """
    target = f"{url.rstrip('/')}/{folder.name}"
    manifest = read_manifest(folder)
    with _storage(target) as (system, path):
        if "s3" not in system.protocol:  # which has no folders; s3fs would make a bucket that does not exist
            system.makedirs(path, exist_ok=True)
        remote_bytes = {Path(remote_path).name: size for remote_path, size in _sizes(system, path).items()}
        if MANIFEST in remote_bytes:  # it was complete: this is to mend it, and sizes say little
            remote_bytes = {}

        def put(name: str) -> None:
            if remote_bytes.get(name) != (folder / name).stat().st_size:
                system.put_file(str(folder / name), f"{path}/{name}")

        with ThreadPoolExecutor(TRANSFERS_AT_ONCE) as pool:
            list(pool.map(put, [TOKENIZER_FILE, *_hashes(manifest)]))
        system.put_file(str(folder / MANIFEST), f"{path}/{MANIFEST}")
    if report:
        report(f"{len(_hashes(manifest))} shards are at {target}")
    return target


def local_folder(url: str, cache: Path) -> Path:
    """Where the copy of published data is, or will be. Raises `DataError` for a URL without a name."""
    name = url.rstrip("/").rpartition("/")[2]
    if not is_plain_name(name):
        raise DataError(f"{url} names no data folder; give the URL that `mor-sweep data publish` printed.")
    return cache / "tokens" / name


def origin_of(folder: Path) -> str | None:
    """The URL that a data folder was fetched from, if it was."""
    file = folder / ORIGIN_FILE
    return str(read_json(file)["url"]) if file.is_file() else None


def fetch_folder(url: str, folder: Path, report: Callable[[str], None] | None = None) -> None:
    """Make `folder` a copy of the data at `url`, unless it is one; one process of a machine at a time.

    Raises `DataError` that names what is missing, cut off or changed there, and for a disk that is full.
    """
    from filelock import FileLock

    with naming_what_cannot_be_written(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.fetch.lock")):
            _fetch(url, folder, report)


def _fetch(url: str, folder: Path, report: Callable[[str], None] | None) -> None:
    with _storage(url) as (system, path):
        arriving = folder / f".{MANIFEST}{PARTIAL}"
        _get(system, f"{path}/{MANIFEST}", arriving, url)
        manifest = read_json(arriving)
        expected = _hashes(manifest) | {TOKENIZER_FILE: manifest["tokenizer_fingerprint"]}
        if foreign := [name for name in expected if not is_plain_name(name)]:
            raise DataError(f"{url}/{MANIFEST} names {foreign[0]!r}, expected a file of its own folder")
        files = {name: folder / name for name in expected}
        lacking = [name for name, file in files.items() if not (file.is_file() and file_sha256(file) == expected[name])]
        if report and lacking:
            report(f"Fetching {len(lacking)} of {len(expected)} files from {url}")

        def get(name: str) -> None:
            _get(system, f"{path}/{name}", files[name], url, expected[name])

        with ThreadPoolExecutor(TRANSFERS_AT_ONCE) as pool:
            list(pool.map(get, lacking))
    write_json(folder / ORIGIN_FILE, {"url": url})
    arriving.replace(folder / MANIFEST)


def _get(system: Any, path: str, target: Path, url: str, sha256: str | None = None) -> None:
    """Copy one file, compared with its hash where it has one; it takes its place whole."""
    name = path.rpartition("/")[2]
    arriving = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    digest = hashlib.sha256()
    try:
        with system.open(path, "rb") as source, arriving.open("wb") as file:
            while block := source.read(COPIED_AT_ONCE):
                digest.update(block)
                file.write(block)
        if sha256 is not None and digest.hexdigest() != sha256:
            raise DataError(
                f"{url}/{name} is not the file that was prepared (it was changed or cut off); publish it again with "
                "`mor-sweep data publish`."
            )
        shutil.move(arriving, target)
    except FileNotFoundError as error:
        raise DataError(f"{url}/{name} is missing; publish it again with `mor-sweep data publish`.") from error
    finally:
        arriving.unlink(missing_ok=True)


def _hashes(manifest: dict[str, Any]) -> dict[str, str]:
    return {shard["file"]: shard["sha256"] for side in SPLITS for shard in manifest["splits"][side]["shards"]}


def _sizes(system: Any, path: str) -> dict[str, int]:
    try:
        return {entry["name"]: entry["size"] for entry in system.ls(path, detail=True, refresh=True)}
    except FileNotFoundError:
        return {}


def size_of_url(url: str) -> int:
    """Bytes of what lies at a URL. Raises `DataError`."""
    with _storage(url) as (system, path):
        return int(system.size(path))


@contextmanager
def opened_url(url: str) -> Iterator[IO[bytes]]:
    """The bytes at a URL. Raises `DataError`."""
    with _storage(url) as (system, path), system.open(path, "rb") as stream:
        yield stream


@contextmanager
def _storage(url: str) -> Iterator[tuple[Any, str]]:
    """The file system behind a URL and the path in it; its errors become sentences."""
    try:
        import fsspec

        system, path = fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise DataError(f"{url} cannot be reached ({error}); pip install 'mor-sweep[s3]' for s3://.") from error
    try:
        yield system, path.rstrip("/")
    except _refusals() as error:
        raise DataError(
            f"{url} cannot be used ({first_line(error)}); check the URL, the network and the credentials."
        ) from error


def _refusals() -> tuple[type[Exception], ...]:
    """What object storage raises: s3fs lets some errors of its own library through."""
    try:
        from botocore.exceptions import BotoCoreError
    except ImportError:
        return (PermissionError, ConnectionError, TimeoutError)
    return (PermissionError, ConnectionError, TimeoutError, BotoCoreError)

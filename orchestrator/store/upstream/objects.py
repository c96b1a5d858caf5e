"""The one door to results on object storage: objects under one s3:// address, created once or replaced, listed, read.

An object appears whole or not at all: S3 shows no part of an upload that was cut short. `create` is S3's conditional
write (If-None-Match: *), which of two writers lets one through. No lock exists here, and nothing relies on one.

Credentials, region and endpoint come from AWS's own chain (AWS_PROFILE, AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
~/.aws/config, an instance's role), which fsspec and botocore read themselves; this program neither takes nor shows any.
"""

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mor_core.errors import Fix, Unreachable, UserError, first_line
from orchestrator.store.published import StoreError

Answer = TypeVar("Answer")

CONNECT_SECONDS, READ_SECONDS = 5, 30
PATIENCE_SECONDS = 10.0
"""How long a request is tried again where a server does not answer, or says that the fault is its own."""

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
PART_BYTES = 16 * 2**20
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?P<prefix>(/[^/\s?#]+)*)/?")


class BucketRefused(StoreError, UserError):
    """The object store cannot be used as asked; the message says what to do."""


class BucketUnreachable(StoreError, Unreachable):
    """The object store did not answer, or answered that it is out of order, for as long as was worth the wait."""


class ObjectAbsent(StoreError):
    """An object that should be there is not."""


def checked_address(url: str) -> str:
    """An s3:// address without its last slash. Raises BucketRefused for anything else."""
    match = _ADDRESS.fullmatch(url)
    if match is None or {".", ".."} & set(match["prefix"].split("/")):
        raise BucketRefused(
            "expected a folder, or s3://BUCKET/PREFIX; other stores are used through the S3 interface that they offer "
            "(AWS_ENDPOINT_URL)",
            fix=Fix(setting="results", value=url),
        )
    return f"s3://{match['bucket']}{match['prefix']}"


@dataclass(frozen=True, kw_only=True)
class ObjectStore:
    """The objects under an address. Every method raises BucketRefused and BucketUnreachable."""

    url: str
    """s3://BUCKET/PREFIX, as `checked_address` gives it."""
    patience: float = field(default_factory=lambda: PATIENCE_SECONDS)
    """Seconds for which a request is tried again."""

    def create(self, name: str, data: bytes) -> bool:
        """Make an object unless there is one of that name. False, and nothing is changed, where there is.

        After an answer that was lost on its way, the object that is there may be this call's own.
        """
        return self._try(lambda files: _created(files.pipe_file, self._path(name), data, mode="create"), name)

    def replace(self, name: str, data: bytes) -> None:
        """Make an object, or put another in its place."""
        self._try(lambda files: files.pipe_file(self._path(name), data), name)

    def upload(self, path: Path, name: str) -> bool:
        """`create` with the bytes of a file, in parts where it is large."""
        options = {"mode": "create", "chunksize": PART_BYTES}
        return self._try(lambda files: _created(files.put_file, str(path), self._path(name), **options), name)

    def read(self, name: str) -> bytes | None:
        """An object's bytes; None where there is no such object."""
        try:
            return self._try(lambda files: files.cat_file(self._path(name)), name)
        except ObjectAbsent:
            return None

    def read_all(self, names: Iterable[str]) -> dict[str, bytes]:
        """The bytes of many small objects at a time, without those that are gone."""
        paths = {self._path(name): name for name in names}
        contents: dict[str, bytes] = {}
        if paths:
            answers = self._try(lambda files: files.cat(list(paths), recursive=False, on_error="return"), "")
            for path, answer in answers.items():
                data = self.read(paths[path]) if isinstance(answer, BaseException) else answer
                if data is not None:
                    contents[paths[path]] = data
        return contents

    def download(self, name: str, path: Path) -> None:
        """Write an object to a file. Raises ObjectAbsent where there is no such object, OSError as files do."""
        self._try(lambda files: files.get_file(self._path(name), str(path)), name, path)

    def etags(self, prefix: str) -> dict[str, str]:
        """Name -> what changes when the object's bytes do, of all objects whose name begins with prefix and a slash."""
        top = self.url.removeprefix("s3://")
        try:
            entries = self._try(lambda files: files.find(f"{top}/{prefix}", detail=True), prefix)
        except ObjectAbsent:
            return {}
        return {path.removeprefix(f"{top}/"): str(entry.get("ETag")) for path, entry in entries.items()}

    def remove(self, names: Iterable[str]) -> None:
        """Delete objects; what is gone already stays so."""
        paths = [self._path(name) for name in names]
        if paths:
            self._try(lambda files: files.rm(paths), "")

    def _path(self, name: str) -> str:
        return f"{self.url.removeprefix('s3://')}/{name}"

    def _try(self, ask: Callable[[Any], Answer], name: str, path: Path | None = None) -> Answer:
        """Ask until there is an answer, or a refusal that will not change, or patience is at its end."""
        files, errors = _connected()
        deadline, pause = time.monotonic() + self.patience, FIRST_PAUSE_SECONDS
        while True:
            try:
                return ask(files)
            except errors as error:
                if isinstance(error, OSError) and path is not None and error.errno is not None:
                    raise  # Of the local disk.
                refusal = self._refusal(error, name)
                if refusal is not None:
                    raise refusal from error
                if time.monotonic() + pause > deadline:
                    raise BucketUnreachable(
                        f"{self.url} does not answer as it should ({first_line(error)}): check AWS_ENDPOINT_URL and "
                        "the network; the same command goes on once it does"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _refusal(self, error: Exception, name: str) -> StoreError | None:
        """What will be the same at the next try; None for a fault that may pass."""
        text = first_line(error)
        if isinstance(error, FileNotFoundError):
            if type(error.__cause__).__name__ == "NoSuchBucket":
                bucket = self.url.removeprefix("s3://").partition("/")[0]
                return BucketRefused(f"{self.url}: there is no bucket {bucket!r}: make it, or correct the address")
            return ObjectAbsent(f"{self.url}/{name} is not there")
        if isinstance(error, PermissionError):
            return BucketRefused(
                f"{self.url}: the server refused ({text}): these credentials need s3:ListBucket, s3:GetObject, "
                "s3:PutObject and s3:DeleteObject there"
            )
        if type(error).__name__ in _NO_CREDENTIALS:
            return BucketRefused(
                f"{self.url}: {text[0].lower()}{text[1:]}: set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, as for any AWS tool"
            )
        if isinstance(error, ValueError) or type(error).__name__ in _NO_REQUEST:
            return BucketRefused(f"{self.url}: {text}: correct AWS_ENDPOINT_URL, the region or the address")
        return None


_NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "CredentialRetrievalError")
_NO_REQUEST = (
    "EndpointResolutionError",
    "InvalidEndpointConfigurationError",
    "InvalidRegionError",
    "NoRegionError",
    "ParamValidationError",
)


def _created(write: Callable[..., object], *arguments: object, **options: object) -> bool:
    try:
        write(*arguments, **options)
    except FileExistsError:
        return False
    return True


def _connected() -> tuple[Any, tuple[type[Exception], ...]]:
    """fsspec's S3 files, and what they raise where a request fails. fsspec keeps one connection a process."""
    try:
        import fsspec
        from botocore.exceptions import BotoCoreError, ClientError

        files = fsspec.filesystem(
            "s3",
            use_listings_cache=False,
            config_kwargs={
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": READ_SECONDS,
                "retries": {"max_attempts": 0},
            },
        )
        files.retries = 1  # How often a request is tried is decided in one place: ObjectStore._try.
    except ImportError as error:
        raise BucketRefused(
            "results on object storage need s3fs, which is not installed: pip install 'mor-sweep[s3]'"
        ) from error
    return files, (OSError, ValueError, BotoCoreError, ClientError)

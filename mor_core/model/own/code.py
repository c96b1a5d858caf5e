"""Where the code of a user's own model is, and what its losses can depend on. Imports none of it, and no torch.

A model is named as package.module:object. Its module is looked for as `python -m` would: in the working directory
first. Its fingerprint is the sha256 of the module's file and of the files that its object names, and the versions of
the distributions that the module imports.
"""

import ast
import hashlib
import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path

from mor_core.errors import UserError
from mor_core.files import file_sha256

NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class OwnModelError(UserError):
    """A user's own model that cannot be found, imported, asked or trained; the message says what to change."""


class OwnImportError(OwnModelError):
    """The module of an own model raised while it was imported."""


@dataclass(frozen=True, kw_only=True)
class CodeFingerprint:
    """What the losses of an own model depend on beside its settings."""

    sha256: str
    """Of its module and the files that it names."""
    versions: Mapping[str, str]
    """Distribution -> version, of what the module imports."""

    def to_numerics(self) -> dict[str, str]:
        """As a segment's numerics hold it: plain text."""
        versions = ", ".join(f"{name} {version}" for name, version in sorted(self.versions.items()))
        return {"own_model": self.sha256, "own_model_versions": versions}


def parts_of_name(name: str) -> tuple[str, str]:
    """The module and the object of "package.module:object". Raises OwnModelError."""
    if not NAME.fullmatch(name):
        raise OwnModelError(f"model {name!r:.120}: expected package.module:object, such as my_model:ladder")
    module, _, place = name.partition(":")
    return module, place


_allowed: set[str] = set()


def allow_import(names: Iterable[str]) -> None:
    """The user of this process has named these models himself: in a sweep file of his own, not in one that was
    recorded, which may have come from somebody else."""
    _allowed.update(names)


def may_import(name: str) -> bool:
    """Whether the user has named a model himself, so that the planner may have it imported."""
    return name in _allowed


def import_places() -> list[str]:
    """The folders that a module is looked for in: the working directory, then Python's own."""
    folder = str(Path.cwd())
    return [folder, *(place for place in sys.path if place not in ("", folder))]


def import_from(folder: Path) -> None:
    """Let this process find modules in a folder first."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def module_file(name: str) -> Path:
    """The file of an own model's module, which is not imported. Raises OwnModelError where there is none."""
    module, _ = parts_of_name(name)
    places: Sequence[str] | None = import_places()
    spec = None
    for part in module.split("."):
        spec = PathFinder.find_spec(part, places) if places is not None else None
        if spec is None:
            break
        places = list(spec.submodule_search_locations) if spec.submodule_search_locations is not None else None
    if spec is None or spec.origin is None or not spec.has_location:
        raise OwnModelError(
            f"model {name}: there is no module {module} in {import_places()[0]} or on Python's path: work in the "
            "folder that holds it, or set PYTHONPATH to that"
        )
    return Path(spec.origin)


def fingerprint(file: Path, named: Iterable[Path], distributions: Iterable[str] | None = None) -> CodeFingerprint:
    """Of a module's file and the files that its object names; `distributions` are looked up where they are not given.

    Raises OwnModelError where a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in (file, *sorted(named)):
        try:
            digest.update(file_sha256(path).encode())
        except OSError as error:
            raise OwnModelError(f"{path}: a file of an own model that cannot be read ({error.strerror})") from None
    names = imported_distributions(file) if distributions is None else distributions
    return CodeFingerprint(sha256=digest.hexdigest(), versions={name: _version(name) for name in sorted(names)})


def imported_distributions(file: Path) -> list[str]:
    """What the import statements of a Python file take from installed distributions. Raises OwnModelError."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        raise OwnModelError(f"{file} is no Python that can be read ({error})") from None
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    owners = importlib.metadata.packages_distributions()
    return sorted({owner for root in roots for owner in owners.get(root, ())})


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

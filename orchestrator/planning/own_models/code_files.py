"""The files of a user's own models that other machines need to train them: code and what it names, no data beside it.

Of a model `package.module:object` these are the Python files of its top package, or its one module; the same of what
they import from the folder that the model is imported from; and the files that its object names in `files`. Installed
packages are left out: they have to be installed on every machine, as this program has to be. Nothing is imported.
"""

import ast
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from mor_core.model.own.code import OwnModelError, module_file, parts_of_name
from mor_core.units import bytes_text

MOST_BYTES = 500 * 10**6
"""In all. Ray takes packages of less than 512 MiB, and its head keeps them in memory."""

INSTALLED = ("site-packages", "dist-packages")
"""Names of the folders that packages are installed in."""

OF_THIS_PROGRAM = frozenset({"mor_core", "orchestrator", "analysis", "mor_sweep"})
"""Packages that a checkout has beside a user's module."""


def code_files(named_by_model: Mapping[str, Iterable[Path]]) -> dict[str, Path]:
    """By their paths below a folder that the models can be imported from, "/" between parts: the files of their code.

    `named_by_model` is by "package.module:object" the files that the object names, as absolute paths.

    Raises OwnModelError where a module is not there, a named file is not below the folder that its module is imported
    from, or all of it is more than Ray takes.
    """
    files: dict[str, Path] = {}
    for model, named in named_by_model.items():
        folder, package = _imported_from(model)
        if folder.name in INSTALLED:
            continue
        for root in _with_imports(folder, package):
            files.update((file.relative_to(folder).as_posix(), file) for file in _python_files(folder, root))
        files.update((_below(folder, file, model), file) for file in named)
    _refuse_large(files)
    return files


def _imported_from(model: str) -> tuple[Path, str]:
    """The folder on Python's path that a model's module is found in, and the first part of the module's name."""
    module, _ = parts_of_name(model)
    file = module_file(model)
    parts = module.split(".")
    is_package = file.name == "__init__.py" and file.parent.name == parts[-1]
    return file.parents[len(parts) - (0 if is_package else 1)], parts[0]


def _with_imports(folder: Path, package: str) -> Iterator[str]:
    """A package or module of a folder and those of the same folder that it needs, directly or not."""
    waiting, roots = [package], set()
    while waiting:
        root = waiting.pop()
        files = [] if root in roots else list(_python_files(folder, root))
        if files:
            roots.add(root)
            yield root
            waiting += sorted({name for file in files for name in _imports(file)} - OF_THIS_PROGRAM - roots)


def _python_files(folder: Path, root: str) -> Iterator[Path]:
    """The Python files of a module or a package; none where the folder has neither."""
    if (module := folder / f"{root}.py").is_file():
        yield module
    for place, folders, names in os.walk(folder / root):
        # Nothing below another name can be imported: caches, environments, a repository's own files.
        folders[:] = sorted(name for name in folders if name.isidentifier() and name != "__pycache__")
        yield from (Path(place) / name for name in sorted(names) if name.endswith(".py"))


def _imports(file: Path) -> set[str]:
    """The first parts of what a file's import statements name; none where it is no Python."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return set()  # Where the model needs it, its import fails and says so.
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            roots.add(node.module.partition(".")[0])
    return roots


def _below(folder: Path, file: Path, model: str) -> str:
    try:
        return file.relative_to(folder.resolve()).as_posix()
    except ValueError:
        raise OwnModelError(
            f"model {model}: {file}, which its object names in files, is not below {folder}, of which Ray's workers "
            "get a copy: move it there, or choose the executor in-process"
        ) from None


def _refuse_large(files: Mapping[str, Path]) -> None:
    sizes = {name: file.stat().st_size for name, file in files.items()}
    total = sum(sizes.values())
    if total > MOST_BYTES:
        largest = max(sizes, key=sizes.__getitem__)
        raise OwnModelError(
            f"the code of your own models and the files that it names are {bytes_text(total)}, {largest} alone "
            f"{bytes_text(sizes[largest])}: Ray ships at most {bytes_text(MOST_BYTES)}, so name smaller files"
        )

"""What the packages import is what an installation of them brings."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata

import pytest

from tests.helpers.paths import ROOT

PACKAGES = ("mor_core", "analysis", "orchestrator", "sweeps")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def normalised(name: str) -> str:
    """A distribution's name as the package index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, without versions and extras."""
    names = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {normalised(name[0]) for name in names if name}


ALWAYS = declared(PROJECT["dependencies"])
EXTRAS = {normalised(extra): declared(names) for extra, names in PROJECT["optional-dependencies"].items()}


def imports_of(node: ast.AST, at_once: bool = True) -> Iterator[tuple[str, bool]]:
    """(top-level module, whether it is imported with the file and not first within a function) of a file or statement.

    Expressions import nothing: they are not looked into, which takes seconds.
    """
    match node:
        case ast.Import():
            yield from ((alias.name.partition(".")[0], at_once) for alias in node.names)
        case ast.ImportFrom(level=0):
            yield (node.module or "").partition(".")[0], at_once
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):  # For readers and type checkers: nothing is imported.
            for inner in node.orelse:
                yield from imports_of(inner, at_once)
        case _:
            late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            for inner in ast.iter_child_nodes(node):
                if not isinstance(inner, ast.expr):
                    yield from imports_of(inner, at_once and not late)


def third_party() -> dict[str, dict[str, bool]]:
    """Module -> file that imports it -> whether it does so as soon as the file is imported."""
    modules: dict[str, dict[str, bool]] = {}
    for path in sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for module, at_once in imports_of(ast.parse(path.read_text())):
            if module not in sys.stdlib_module_names and module not in PACKAGES:
                files = modules.setdefault(module, {})
                name = str(path.relative_to(ROOT))
                files[name] = files.get(name, False) or at_once
    return modules


THIRD_PARTY = third_party()
DISTRIBUTIONS = metadata.packages_distributions()


def test_the_packages_import_what_this_test_looks_for() -> None:
    """The reader of imports sees those of a whole file and those within a function."""
    assert THIRD_PARTY["numpy"]["mor_core/data/batches.py"] or any(THIRD_PARTY["numpy"].values())
    assert any(not at_once for at_once in THIRD_PARTY["ray"].values())


@pytest.mark.parametrize("module", sorted(THIRD_PARTY))
def test_every_third_party_import_is_of_a_declared_dependency(module: str) -> None:
    distributions = {normalised(name) for name in DISTRIBUTIONS.get(module, ())}
    assert distributions, f"{module} is imported by {', '.join(THIRD_PARTY[module])}, and no distribution here has it"
    if distributions & ALWAYS:
        return
    extras = [extra for extra, names in EXTRAS.items() if distributions & names]
    assert extras, (
        f"{', '.join(THIRD_PARTY[module])} imports {module}, which "
        f"{' or '.join(sorted(distributions))} brings: declare it "
        "under [project.dependencies], or under an extra where only a function imports it"
    )
    at_once = [path for path, with_file in THIRD_PARTY[module].items() if with_file]
    assert not at_once, f"{module} comes with the extra {extras[0]} only, but {', '.join(at_once)} imports it at once"

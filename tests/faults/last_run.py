"""last.json: of every fault test, when it was last run, what it measured, where and at which commit.

`make test-faults` writes it. A run of some tests replaces their outcomes and leaves the others, so that one case can be
measured anew; a test that is no longer there leaves the file with the next run.
"""

import ast
import dataclasses
import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers.paths import ROOT

LAST = ROOT / "tests" / "faults" / "last.json"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one test of one case gave."""

    case: str
    """Such as "F1"."""
    test: str
    """Pytest's name of it: file, function, parameters."""
    passed: bool
    """Whether the promise was kept."""
    figure: str
    """What it measured, in words; empty where it measures nothing."""
    machine: str
    """What it ran on."""
    commit: str
    """The revision that was tested."""

    @property
    def function(self) -> str:
        """The test without its parameters."""
        return self.test.partition("[")[0]


def outcomes(path: Path = LAST) -> list[Outcome]:
    """All that are on file."""
    return [Outcome(**row) for row in json.loads(path.read_text())] if path.exists() else []


def keep(latest: Iterable[Outcome], path: Path = LAST) -> None:
    """Put them in the place of earlier ones of the same tests."""
    kept = {
        (outcome.case, outcome.test): outcome for outcome in [*outcomes(path), *latest] if is_there(outcome.function)
    }
    rows = [dataclasses.asdict(kept[key]) for key in sorted(kept, key=lambda key: (int(key[0][1:]), key[1]))]
    path.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def is_there(function: str) -> bool:
    """Whether the checkout has that test."""
    file, _, name = function.partition("::")
    return (ROOT / file).exists() and f"def {name}(" in (ROOT / file).read_text()


def functions_by_case(elsewhere: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> dict[str, list[str]]:
    """By case, the tests that check it, found without running them: those marked, and those that a table names."""
    tests: dict[str, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for case in (*_marked(node), *elsewhere.get(node.name, ((), ()))[0]):
                    tests.setdefault(case, []).append(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return tests


def _marked(test: ast.FunctionDef) -> list[str]:
    """The cases in its mark."""
    marks = [mark for mark in test.decorator_list if isinstance(mark, ast.Call)]
    return [
        str(case.value)
        for mark in marks
        if ast.unparse(mark.func) == "pytest.mark.faults"
        for case in mark.args
        if isinstance(case, ast.Constant)
    ]


def machine_text() -> str:
    """Such as "2 cores of AMD EPYC 9B14, 16 GB, Linux"."""
    gigabytes = psutil.virtual_memory().total / 1e9
    return f"{len(os.sched_getaffinity(0))} cores of {_processor()}, {gigabytes:.0f} GB, {platform.system()}"


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in path.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def revision() -> str:
    """The commit, with "+" where the checkout differs from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--exclude=*"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "no commit"

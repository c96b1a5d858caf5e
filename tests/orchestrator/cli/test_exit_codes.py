"""An error's class says how it ends a command, and what of it a worker records; its fix is told as a flag."""

import ast
import re
import signal
from pathlib import Path

import pytest

import analysis
import mor_core
import orchestrator
from mor_core.errors import Fix, MorSweepError, Refused, Unreachable, UserError
from mor_core.interop.llama_config import PretrainedError
from orchestrator.cli.fits.study import FIT_REFUSED
from orchestrator.cli.inference.evaluate import FAILED_SEGMENTS
from orchestrator.cli.main import EXIT_CODES, EXIT_MEANINGS, UNEXPECTED, exit_code_of
from orchestrator.cli.options import FLAGS, fix_in_flags
from orchestrator.cli.results.checks import FOUND_PROBLEMS
from orchestrator.cli.results.status import INTERRUPTED
from orchestrator.cli.train.search import NOTHING_FOUND
from orchestrator.planning.canonical import OtherVersion
from orchestrator.planning.costs.machine import Infeasible
from orchestrator.planning.plan import PlanError
from orchestrator.planning.spec.sweep_file import SpecError
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.run import EXIT_FAILED_CELLS
from orchestrator.running.segment.worker import failure_of
from orchestrator.store.published import StoreError
from orchestrator.store.upstream.objects import BucketRefused, BucketUnreachable
from tests.helpers.paths import ROOT
from tests.helpers.verbs import VERBS


class LibraryError(Exception):
    """Of a library that has exit codes of its own, as Click's have."""

    exit_code = 2


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (SpecError, 2),
        (PretrainedError, 2),
        (BucketRefused, 2),
        (PlanError, 4),
        (Infeasible, 4),
        (BucketUnreachable, 6),
        (StoreError, 1),
        (OtherVersion, 1),
        (LibraryError, None),
        (KeyError, None),
    ],
)
def test_an_error_ends_a_command_with_the_code_of_its_class(kind: type[Exception], code: int | None):
    assert exit_code_of(kind("a sentence")) == code


@pytest.mark.parametrize(
    ("kind", "failure"),
    [
        (PretrainedError, FailureClass.user),
        (BucketRefused, FailureClass.store),
        (OtherVersion, FailureClass.store),
        (LibraryError, FailureClass.error),
        (KeyError, FailureClass.error),
    ],
)
def test_a_worker_calls_a_failure_the_users_by_its_class_alone(
    kind: type[Exception], failure: FailureClass, tmp_path: Path
):
    assert failure_of(kind("a sentence"), tmp_path).kind is failure


def test_the_table_has_every_class_of_errors_and_no_class_has_a_code_of_its_own():
    assert set(EXIT_CODES) == {MorSweepError, UserError, Refused, Unreachable}
    with_code = [
        f"{path.name}: {node.name}"
        for package in (analysis, mor_core, orchestrator)
        for path in Path(package.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef) and any("exit_code" in ast.unparse(line) for line in node.body)
    ]
    assert with_code == []


def test_every_code_that_a_verb_ends_with_is_in_the_table():
    verbs = {UNEXPECTED, FOUND_PROBLEMS, FAILED_SEGMENTS, EXIT_FAILED_CELLS, FIT_REFUSED, NOTHING_FOUND, INTERRUPTED}
    assert verbs | set(EXIT_CODES.values()) | {0, 128 + signal.SIGTERM} == EXIT_MEANINGS.keys()


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_page_that_lists_exit_codes_lists_those_of_the_table(page: str):
    text = " ".join((ROOT / page).read_text().split())
    for listed in re.findall(r"(?:Exit codes\.\*\*|All codes:) ([^.]+)\.", text):
        assert {int(code) for code in re.findall(r"\b\d+\b", listed)} | {0} == EXIT_MEANINGS.keys()


@pytest.mark.parametrize(
    ("fix", "typed"),
    [
        (Fix(setting="preset"), "--preset"),
        (Fix(setting="max_hours", value="2"), "--max-gpu-hours 2"),
        (Fix(setting="execution.micro_batch", value="4"), "execution.micro_batch = 4"),
        (Fix(verb="fsck"), "`mor-sweep fsck`"),
        (Fix(verb="isoflop", setting="preset", value="cpu"), "`mor-sweep isoflop --preset cpu`"),
    ],
)
def test_the_command_line_says_a_fix_as_it_is_typed(fix: Fix, typed: str):
    assert fix_in_flags(fix) == typed


def test_every_setting_in_the_table_has_a_flag_of_some_verb_and_every_fix_a_place():
    """A setting that no flag stands for is one of the sweep file, whose sections it names with a dot."""
    flags = {flag for command in VERBS.values() for option in command.params for flag in option.opts}
    assert set(FLAGS.values()) <= flags
    settings = {
        str(keyword.value.value)
        for package in (analysis, mor_core, orchestrator)
        for path in Path(package.__path__[0]).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Fix"
        for keyword in node.keywords
        if keyword.arg == "setting" and isinstance(keyword.value, ast.Constant)
    }
    assert {setting for setting in settings if "." not in setting} <= FLAGS.keys()
    assert FLAGS.keys() <= settings


PACKAGES = {package.__name__: Path(package.__path__[0]) for package in (analysis, mor_core, orchestrator)}
LIBRARIES = sorted(
    str(path.relative_to(package.parent))
    for package in PACKAGES.values()
    for path in package.iterdir()
    if (path.is_dir() or path.suffix == ".py") and path.name not in ("__pycache__", "__init__.py")
)
"""The rooms of the packages, from above them; of orchestrator also `cli`, which alone knows flags."""

NO_MESSAGES = {
    # Options of other programs, which they are called with or the user is told to call them with.
    "mor_core/data/text/pinned_python.py": {
        "--platform", "--implementation", "--abi", "--python-version", "--quiet", "--no-input", "--no-deps",
        "--only-binary", "--require-hashes", "--hash",
    },
    "mor_core/interop/tasks.py": {"--no-deps", "--target"},
    "orchestrator/maintenance/doctor.py": {"--shm-size", "--preset"},  # The last in the verb to go on with.
    "orchestrator/planning/costs/machine.py": {"--query-gpu", "--format"},
    "orchestrator/running/ray/connection.py": {"--head"},
    "orchestrator/tracking/server.py": {"--host", "--port", "--workers", "--artifacts-destination"},
    # The follower is a program of its own: what it takes, what it is started with, and how it is known again.
    "orchestrator/tracking/follower.py": {"--results", "--sweep", "--driver"},
    "orchestrator/tracking/process.py": {"--results", "--sweep", "--driver"},
    "orchestrator/maintenance/findings.py": {"--results"},
    # Whole commands that are printed, or written into a file, to be run as they stand.
    "orchestrator/records/terminal.py": {"--results"},
    "orchestrator/records/display/figures.py": {"--budget"},
    "orchestrator/search/candidates.py": {"--preset", "--dry-run"},
    "orchestrator/search/spec_of_sweep.py": {
        "--preset", "--arms", "--recursions", "--only", "--sizes", "--budgets", "--seeds", "--results",
    },
    "orchestrator/search/tuning/tune.py": {"--recipe"},
}  # fmt: skip
"""By module, flags in strings that are no messages about this program's own."""


@pytest.mark.parametrize("room", [room for room in LIBRARIES if room != "orchestrator/cli"])
def test_no_message_of_a_room_spells_a_flag(room: str):
    exempt = {path: flags for path, flags in NO_MESSAGES.items() if room in (path, *map(str, Path(path).parents))}
    assert flags_spelled(PACKAGES[room.partition("/")[0]].parent / room) == exempt


def flags_spelled(room: Path) -> dict[str, set[str]]:
    """By module of a room, the flags in strings that are no docstrings."""
    spelled: dict[str, set[str]] = {}
    for path in [room] if room.is_file() else room.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        flags = {
            flag
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
            for flag in re.findall(r"--[a-z][a-z-]*", node.value)
        }
        if flags:
            spelled[str(path.relative_to(Path(orchestrator.__path__[0]).parent))] = flags
    return spelled

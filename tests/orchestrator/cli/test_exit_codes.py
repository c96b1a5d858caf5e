"""An error's class says how it ends a command, and what of it a worker records; its fix is told as a flag."""

import ast
import re
from pathlib import Path

import pytest

import analysis
import mor_core
import orchestrator
from mor_core.errors import Fix, MorSweepError, Refused, Unreachable, UserError
from mor_core.interop.llama_config import PretrainedError
from orchestrator.cli.main import EXIT_CODES, exit_code_of
from orchestrator.cli.options import FLAGS, fix_in_flags
from orchestrator.planning.canonical import OtherVersion
from orchestrator.planning.costs.machine import Infeasible
from orchestrator.planning.plan import PlanError
from orchestrator.planning.spec.sweep_file import SpecError
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.worker import failure_of
from orchestrator.store.published import StoreError
from orchestrator.store.upstream.objects import BucketRefused, BucketUnreachable
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


@pytest.mark.parametrize("room", ["planning", "store"])
def test_no_message_of_a_room_spells_a_flag(room: str):
    assert flags_spelled(Path(orchestrator.__path__[0]) / room) == []


def flags_spelled(room: Path) -> list[str]:
    """Flags in the strings of a room's modules that are no docstrings, but for the options of other programs."""
    found = []
    for path in room.rglob("*.py"):
        tree = ast.parse(path.read_text())
        docs = {
            id(node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
                found += [f"{path.name}: {flag}" for flag in re.findall(r"--[a-z][a-z-]*", node.value)]
    return [each for each in found if each not in OF_OTHER_PROGRAMS]


OF_OTHER_PROGRAMS = {"machine.py: --query-gpu", "machine.py: --format"}
"""By module."""

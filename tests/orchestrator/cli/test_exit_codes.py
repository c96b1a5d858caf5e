"""An error's class says how it ends a command, and what of it a worker records."""

import ast
from pathlib import Path

import pytest

import analysis
import mor_core
import orchestrator
from mor_core.errors import MorSweepError, Refused, Unreachable, UserError
from mor_core.interop.llama_config import PretrainedError
from orchestrator.cli.main import EXIT_CODES, exit_code_of
from orchestrator.planning.canonical import OtherVersion
from orchestrator.planning.costs.machine import Infeasible
from orchestrator.planning.plan import PlanError
from orchestrator.planning.spec.sweep_file import SpecError
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.worker import failure_of
from orchestrator.store.published import StoreError
from orchestrator.store.upstream.objects import RemoteRefused, RemoteUnreachable


class LibraryError(Exception):
    """Of a library that has exit codes of its own, as Click's have."""

    exit_code = 2


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (SpecError, 2),
        (PretrainedError, 2),
        (RemoteRefused, 2),
        (PlanError, 4),
        (Infeasible, 4),
        (RemoteUnreachable, 6),
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
        (RemoteRefused, FailureClass.store),
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

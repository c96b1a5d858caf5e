"""The command line within this process, for what starts nothing: a start takes longer than such a verb."""

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.main import main


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """What the command prints and its exit code."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["mor-sweep", *arguments])
        code = 0
        try:
            main()
        except SystemExit as left:
            code = int(left.code or 0)
    return subprocess.CompletedProcess(arguments, code, stdout=stdout.getvalue(), stderr=stderr.getvalue())


def run_in(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The same in a folder, with its own cache of data and 120 columns."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run(*map(str, arguments), MOR_SWEEP_CACHE=str(folder / "cache"), COLUMNS="120")

"""Lines to copy are what a shell takes, whatever the folder is called."""

import shlex
from pathlib import Path

import pytest

from orchestrator.cli.options import say_next
from orchestrator.records.terminal import command_line


def test_arguments_are_quoted_and_the_usual_folder_is_left_out():
    assert command_line("fit", "toy") == "mor-sweep fit toy"
    assert command_line("fit", "toy", results=Path("results").absolute()) == "mor-sweep fit toy"
    line = command_line("logs", "a b/10k", results=Path("/my results/it's $HOME"))
    assert shlex.split(line) == ["mor-sweep", "logs", "a b/10k", "--results", "/my results/it's $HOME"]


def test_what_comes_next_is_quoted(capsys: pytest.CaptureFixture[str]):
    say_next(["fit", "a;b"], ["plot", "frontier"], results=Path("x y"))
    assert (
        capsys.readouterr().err
        == "next: mor-sweep fit 'a;b' --results 'x y', mor-sweep plot frontier --results 'x y'\n"
    )

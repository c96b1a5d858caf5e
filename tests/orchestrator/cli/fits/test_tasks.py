"""`fit`, `predict`, `plot` and `report` with --task as a user runs them on a table."""

import json

import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app
from tests.helpers.command_line import run
from tests.helpers.paths import ROOT

TABLE = ROOT / "results/published/task_laws/planted.csv"
TASK = ("--task", "quiz", "--chance", "0.25")
COLUMNS = ("--table", str(TABLE), "--columns", "loss=quiz_bits,score=quiz_score")


def ask(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_model_is_told_what_it_would_score():
    done = ask("predict", *COLUMNS, *TASK, "--params", 6e9, "--tokens", 6e11, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.task-predict/1"
    (answer,) = document["data"]["answers"]
    run = answer["two_steps"]["run"]
    assert 0.25 < run["low"] < run["value"] < run["high"] < 1
    assert not answer["refused"]


@pytest.mark.slow
def test_the_laws_are_printed_drawn_and_put_into_the_page(tmp_path):
    printed = ask("fit", *COLUMNS, *TASK)
    assert printed.exit_code == 0, printed.output
    assert "bits/byte = " in printed.stdout
    assert json.loads(ask("fit", *COLUMNS, *TASK, "--json").stdout)["schema"] == "mor-sweep.task-fit/1"
    drawn = ask("plot", "task", *COLUMNS, *TASK, "--params", 6e9, "--tokens", 6e11, "--out", tmp_path)
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "task-quiz.png").stat().st_size > 10_000
    page = tmp_path / "page.html"
    ask("report", *COLUMNS, *TASK, "--out", page)
    assert "Scores on tasks" in page.read_text()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (TASK, "name a model by --params N and --tokens D, or FLOPs by --budget C"),
        ((*TASK, "--params", "6e9"), "name a model by --params N and --tokens D, or FLOPs by --budget C"),
        ((), "say FLOPs by --budget C, or ask for a score"),
        ((*TASK[:2], "--params", "6e9", "--tokens", "6e11"), "say it with --chance SHARE"),
        ((*TASK[:2], "--chance", "25", "--params", "6e9", "--tokens", "6e11"), "expected one share from 0 to below 1"),
    ],
)
def test_a_wrong_call_is_one_sentence(flags, sentence):
    done = run("predict", *COLUMNS, *flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr

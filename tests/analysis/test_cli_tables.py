"""`fit --table`, `table`, `predict`, `lifetime` and `compare` as a user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

COMMAND = [str(Path(sys.executable).with_name("mor-sweep"))]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two arms of someone else's study, on four budgets of seven sizes."""
    rng = np.random.default_rng(0)
    rows = []
    for arm, worth in (("dense", 1.0), ("looped", 1.5)):
        for budget in (1e18, 3e18, 1e19, 3e19):
            for step in range(7):
                params = 1e8 * (budget / 1e18) ** 0.5 * 1.6 ** (step - 3)
                tokens = budget / 6 / params
                loss = 1.8 + 480 / (worth * params) ** 0.35 + 2100 / tokens**0.37 + rng.normal(0, 0.002)
                rows.append({"N": params, "D": tokens, "C": budget, "L": loss, "model": arm})
    path = tmp_path_factory.mktemp("tables") / "runs.csv"
    pl.DataFrame(rows).write_csv(path)
    return path


def run(folder, *arguments):
    environment = os.environ | {"MOR_SWEEP_CACHE": str(folder / "cache"), "COLUMNS": "120"}
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def columns(extra=",arm=model"):
    return ("--columns", f"params=N,tokens=D,loss=L,flops=C{extra}")


def test_an_outside_table_is_fitted_from_the_command_line(tmp_path, runs):
    done = run(tmp_path, "fit", "--table", runs, *columns(), "--out", tmp_path / "fits.json")
    assert done.returncode == 0, done.stderr
    assert "## dense (parabola)" in done.stdout
    assert "## looped (surface)" in done.stdout
    assert "one of its parameters is worth" in done.stdout
    document = json.loads((tmp_path / "fits.json").read_text())
    surface = next(each["surface"] for each in document["frontiers"] if each["approach"] == "surface")
    assert surface["share_reached"] == 1.0
    assert "4 budgets found" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("fit",), 2, "--columns"),
        (("fit", "--columns", "params=N,tokens=D,loss=Q"), 2, "no column 'Q'"),
        (("fit", "--columns", "params=N,tokens=D*1e-9,loss=L,flops=C"), 2, "tokens=COLUMN*1e9"),
        (("predict", "--budget", "1e23", *columns()), 5, "times the largest budget"),
        (("predict", "--budget", "lots", *columns()), 2, "--budget: 'lots' is not a number"),
        (("lifetime", "--target-loss", "1.0", "--served-tokens", "1e12", *columns()), 5, "not reached"),
        (("table", "--format", "word", *columns()), 2, "expected markdown, latex, csv, json"),
    ],
)
def test_what_cannot_be_answered_ends_with_its_code_and_a_sentence(tmp_path, runs, arguments, code, words):
    verb, *rest = arguments
    done = run(tmp_path, verb, "--table", runs, *rest)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_budget_is_predicted_and_arms_are_compared(tmp_path, runs):
    predicted = run(tmp_path, "predict", "--budget", "1e20", "--table", runs, *columns())
    assert predicted.returncode == 0, predicted.stderr
    assert "dense (surface): N* " in predicted.stdout
    compared = run(tmp_path, "compare", "--table", runs, *columns())
    assert compared.returncode == 0, compared.stderr
    assert "looped is better" in compared.stdout
    assert "compute multiplier of dense: 0." in compared.stdout

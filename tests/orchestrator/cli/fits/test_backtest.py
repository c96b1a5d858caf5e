"""`backtest`, `plot backtest` and the line of `fit` as a user runs them on a table."""

import json

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from orchestrator.cli.main import app

COLUMNS = "params=N,tokens=D,loss=L,flops=C,arm=model"


def write_runs(path, budgets, arm="dense"):
    rng = np.random.default_rng(0)
    rows = []
    for budget in budgets:
        for step in range(9):
            params = 1e8 * (budget / 1e18) ** 0.5 * 1.5 ** (step - 4)
            tokens = budget / 6 / params
            loss = 1.8 + 480 / params**0.35 + 2100 / tokens**0.37 + rng.normal(0, 0.002)
            rows.append({"N": params, "D": tokens, "C": budget, "L": loss, "model": arm})
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_runs(tmp_path_factory.mktemp("tables") / "runs.csv", (1e18, 3e18, 1e19, 3e19))


def ask(*arguments):
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_a_table_is_told_how_it_would_have_predicted_itself(runs):
    done = ask("backtest", "--table", runs, "--columns", COLUMNS, "--json")
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["schema"] == "mor-sweep.backtest/1"
    backtests = document["data"]["backtests"]
    assert {test["budget"] for test in backtests} == {"10000000000000000000", "30000000000000000000"}
    assert all(abs(test["error"]) < 0.05 for test in backtests if test["quantity"] == "loss")
    assert {"arm", "law", "fitted", "reach", "predicted", "measured", "ahead", "covered"} <= backtests[0].keys()


def test_two_budgets_end_with_code_5_and_say_what_is_missing(tmp_path):
    table = write_runs(tmp_path / "two.csv", (1e18, 3e18))
    for verb in (("backtest",), ("backtest", "--json"), ("plot", "backtest", "--out", tmp_path)):
        done = ask(*verb, "--table", table, "--columns", COLUMNS)
        assert done.exit_code == 5, done.output
        sentence = "refused: dense: 2 budgets with a minimum (1e18, 3e18), and a back-test needs 3"
        assert sentence in done.stderr
    assert (tmp_path / "backtest.png").exists()


def test_an_asymptote_that_is_no_loss_is_a_mistake_in_one_sentence(runs):
    done = ask("backtest", "--table", runs, "--columns", COLUMNS, "--asymptote", "-1")
    assert done.exit_code == 2
    assert "expected a number above 0" in done.stderr


def test_a_fit_says_in_a_line_how_well_it_would_have_predicted_itself(runs):
    done = ask("fit", "--table", runs, "--columns", COLUMNS, "--approach", "parabola")
    assert "- dense: rolled over its own budgets, L* of the next was off by 0." in done.stdout
    assert "of 2 inside the interval) by combined laws through the minima" in done.stdout


def test_the_tables_of_a_backtest_name_the_worst_case_of_each_law(runs):
    done = ask("backtest", "--table", runs, "--columns", COLUMNS)
    assert done.exit_code == 0, done.output
    for law in ("surface", "minima-free", "minima-pinned", "minima-power", "combined"):
        assert f"\n- worst of {law}: " in done.stdout
    assert "## L* of dense" in done.stdout
    assert "## N* of dense" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("next: mor-sweep plot backtest --table")

"""Experiments that others logged, as tables to fit."""

import math

import polars as pl
import pytest
from mlflow import MlflowClient

from tests.helpers.command_line import run_in


@pytest.fixture(scope="module")
def elsewhere(planned_store, tmp_path_factory) -> str:
    """A store in which someone logged an IsoFLOP study of their own in 21 runs."""
    path = tmp_path_factory.mktemp("elsewhere") / "mlflow.db"
    path.write_bytes(planned_store.database.read_bytes())
    client = MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.create_experiment("their study")
    for budget in (1e18, 3e18, 9e18):
        for step in range(7):
            params = 1e8 * (budget / 1e18) ** 0.5 * 1.6 ** (step - 3)
            tokens = budget / 6 / params
            run = client.create_run(experiment).info.run_id
            for key, value in (("N", params), ("D", tokens), ("C", f"{budget:.0f}"), ("optimiser", "adamw")):
                client.log_param(run, key, value)
            client.log_metric(run, "val_loss", 9.9, step=0)
            client.log_metric(run, "val_loss", 1.8 + 480 / params**0.35 + 2100 / tokens**0.37, step=1)
            client.set_terminated(run)
    return f"sqlite:///{path}"


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_experiment_of_others_becomes_a_table_that_fits_take(elsewhere, tmp_path, suffix):
    out = tmp_path / f"runs.{suffix}"
    done = run_in(tmp_path, "mlflow", "export", "their study", "--uri", elsewhere, "--out", out)
    assert done.returncode == 0, done.stderr
    runs = pl.read_csv(out) if suffix == "csv" else pl.read_parquet(out)
    assert len(runs) == 21
    assert runs["status"].unique().to_list() == ["FINISHED"]
    assert runs["params.optimiser"].unique().to_list() == ["adamw"]
    for row in runs.iter_rows(named=True):
        assert math.isclose(6 * row["params.N"] * row["params.D"], row["params.C"], rel_tol=1e-9)
        assert row["metrics.val_loss"] < 9
    names = "params=params.N,tokens=params.D,loss=metrics.val_loss,flops=params.C"
    fitted = run_in(tmp_path, "fit", "--table", out, "--columns", names, "--approach", "parabola")
    assert fitted.returncode == 0, fitted.stderr
    assert "N*: " in fitted.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("their studie", "--out", "runs.csv"), "did you mean their study?"),
        (("their study", "--out", "runs.xlsx"), "ends with .csv or .parquet"),
        (("their study", "--out", "taken.csv"), "there is such a file already"),
        (("Default", "--out", "runs.csv"), "holds no run"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(elsewhere, tmp_path, arguments, words):
    (tmp_path / "taken.csv").write_text("mine")
    done = run_in(tmp_path, "mlflow", "export", *arguments, "--uri", elsewhere)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert words in done.stderr
    assert (tmp_path / "taken.csv").read_text() == "mine"


def test_a_store_that_is_not_there_is_not_made(tmp_path):
    done = run_in(tmp_path, "mlflow", "export", "x", "--uri", f"sqlite:///{tmp_path}/none.db", "--out", "runs.csv")
    assert done.returncode == 2
    assert not (tmp_path / "none.db").exists()

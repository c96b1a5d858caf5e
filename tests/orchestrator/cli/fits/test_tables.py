"""`fit --table`, `table`, `predict`, `lifetime` and `compare` as a user runs them."""

import json
import shlex

import numpy as np
import polars as pl
import pytest

from tests.helpers.command_line import run_in
from tests.helpers.paths import ROOT


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


def columns(extra=",arm=model"):
    return ("--columns", f"params=N,tokens=D,loss=L,flops=C{extra}")


def test_an_outside_table_is_fitted_from_the_command_line(tmp_path, runs):
    done = run_in(tmp_path, "fit", "--table", runs, *columns(), "--out", tmp_path / "fits.json")
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
        (("fit", "--columns", "loss="), 2, "--columns loss=COLUMN"),
        (("report", "--budgets", "many"), 2, "--budgets"),
        (("fit", "--columns", "params=N,tokens=D,loss=Q"), 2, "no column 'Q'"),
        (("fit", "--columns", "params=N,tokens=D*1e-9,loss=L,flops=C"), 2, "tokens=COLUMN*1e9"),
        (("predict", "--budget", "1e23", *columns()), 5, "times the largest budget"),
        (("predict", "--budget", "lots", *columns()), 2, "--budget: 'lots' is not a number"),
        (("lifetime", "--target-loss", "1.0", "--served-tokens", "1e12", *columns()), 5, "not reached"),
        (("plot", "isoflop", *columns(",budget=C"), "--out", "drawn"), 0, "isoflop.png"),
        (("table", "--format", "word", *columns()), 2, "expected markdown, latex, csv, json"),
    ],
)
def test_what_cannot_be_answered_ends_with_its_code_and_a_sentence(tmp_path, runs, arguments, code, words):
    done = run_in(tmp_path, *arguments, "--table", runs)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_columns_need_no_words_where_their_names_say_what_they_mean(tmp_path, runs):
    alone, stated = (
        run_in(tmp_path, "fit", "--table", runs, *options, "--json")
        for options in ((), ("--columns", "arm=model,params=N,tokens=D,loss=L,flops=C"))
    )
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout == stated.stdout
    assert "columns: params=N,tokens=D,loss=L,flops=C,arm=model\n" in alone.stderr


@pytest.mark.parametrize("verb", ["fit", "report", "table", "compare", "predict --budget 1e20", "plot frontier"])
def test_a_file_is_opened_before_anything_is_asked_of_it(tmp_path, verb):
    done = run_in(tmp_path, *verb.split(), "--table", "nosuch.csv")
    assert (done.returncode, done.stderr) == (2, "error: --table: there is no file nosuch.csv.\n")


@pytest.fixture(scope="module")
def chinchilla(tmp_path_factory):
    """Runs on no budget, in a file and under names with spaces, without tokens."""
    rng = np.random.default_rng(1)
    params = 10 ** rng.uniform(7.5, 9.5, 60)
    tokens = params * 10 ** rng.uniform(0.6, 2.2, 60)
    loss = (1.8 + 480 / params**0.35 + 2100 / tokens**0.37) * np.exp(rng.normal(0, 0.002, 60))
    path = tmp_path_factory.mktemp("with space") / "my runs.csv"
    pl.DataFrame({"Model Size": params, "Training FLOP": 6 * params * tokens, "val": loss}).write_csv(path)
    return path


def test_a_table_without_tokens_is_read_by_the_convention_and_every_output_says_so(tmp_path, chinchilla):
    where = ("--table", chinchilla, "--columns", "loss=val")
    refused = run_in(tmp_path, "fit", *where)
    assert refused.returncode == 2
    assert "where C = 6 N D, --convention 6nd takes D = C / (6 N)" in refused.stderr
    where = (*where, "--convention", "6nd")
    done = run_in(tmp_path, "fit", *where, "--out", "fits.json")
    assert done.returncode == 0, done.stderr
    assumed = "table has no tokens: D = C / (6 N)"
    assert assumed in done.stdout
    assert f"note: the {assumed}" in done.stderr
    assert "N: column `Model Size`, as given. D: C / (6 N)." in done.stdout
    assert "non-embedding" not in done.stdout
    written = (tmp_path / "fits.json").read_text()
    asked = [("fit", "--json"), ("table", "--format", "json"), ("predict", "--budget", "1e21", "--json")]
    for content in (written, *(run_in(tmp_path, *verb, *where).stdout for verb in asked)):
        document = json.loads(content)
        table = document.get("data", document)["table"]
        assert table["columns"]["params"] == "Model Size"
        assert assumed in table["assumed"][0]
    for verb in (("report", "--out", "page.html"), ("plot", "surface", "--out", ".")):
        assert run_in(tmp_path, *verb, *where).returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert assumed in page
    assert "non-embedding" not in page
    drawn = " ".join((tmp_path / "surface.svg").read_text().split())
    assert assumed in drawn
    assert "column Model Size, as given" in drawn
    assert assumed in (tmp_path / "surface.json").read_text()


def test_runs_on_no_common_budget_are_a_fact_with_what_is_done_and_a_flag(tmp_path, chinchilla):
    done = run_in(tmp_path, "fit", "--table", chinchilla, "--columns", "loss=val", "--convention", "6nd")
    (note,) = [line for line in done.stderr.splitlines() if "budget" in line]
    assert note.startswith("note: most runs lie on no common budget of FLOPs")
    assert "a surface L(N, D) is fitted instead, asked at budgets from " in note
    assert "--budgets" in note


def test_the_next_command_can_be_pasted_and_names_the_table_once(tmp_path, chinchilla):
    where = ["--table", str(chinchilla), "--columns", "params=Model Size,loss=val", "--convention", "6nd"]
    done = run_in(tmp_path, "fit", *where)
    (line,) = [line.removeprefix("next: ") for line in done.stderr.splitlines() if line.startswith("next: ")]
    command, _, others = line.partition("; ")
    assert shlex.split(command) == ["mor-sweep", "report", *where]
    assert others == "or plot surface in place of report"
    assert run_in(tmp_path, *shlex.split(command)[1:]).returncode == 0


def test_the_published_run_table_of_a_sweep_needs_no_columns(tmp_path):
    tables = [ROOT / "results/published/cpu_demo" / name for name in ("runs.csv", "runs.parquet")]
    asked = ("fit", "--approach", "parabola", "--json", "--table")
    csv, parquet = (run_in(tmp_path, *asked, path) for path in tables)
    assert csv.returncode == 0, csv.stderr
    assert csv.stdout == parquet.stdout
    published = json.loads((tables[0].parent / "fits.json").read_text())
    assert json.loads(csv.stdout)["data"]["inputs_sha256"] == published["inputs_sha256"]


@pytest.mark.parametrize("figure", ["isoflop", "frontier"])
def test_a_figure_without_any_number_is_drawn_with_its_reason_and_ends_with_5(tmp_path, figure):
    bent = [{"N": 1e5 * 2**step, "D": 1e13 / 6e5 / 2**step, "L": 3.0 - 0.1 * (step - 3) ** 2} for step in range(7)]
    pl.DataFrame(bent).write_csv(tmp_path / "bent.csv")
    done = run_in(
        tmp_path, "plot", figure, "--table", "bent.csv", "--columns", "params=N,tokens=D,loss=L", "--out", "."
    )
    assert done.returncode == 5, done.stderr
    assert "refused: all runs: the parabola through the points opens downwards" in done.stderr
    assert (tmp_path / f"{figure}.png").stat().st_size > 10_000
    drawn = " ".join((tmp_path / f"{figure}.svg").read_text().split())
    assert "opens downwards" in drawn


def test_a_budget_is_predicted_and_arms_are_compared(tmp_path, runs):
    predicted = run_in(tmp_path, "predict", "--budget", "1e20", "--table", runs, *columns())
    assert predicted.returncode == 0, predicted.stderr
    assert "dense (surface): N* " in predicted.stdout
    compared = run_in(tmp_path, "compare", "--table", runs, *columns())
    assert compared.returncode == 0, compared.stderr
    assert "looped is better" in compared.stdout
    assert "compute multiplier of dense: 0." in compared.stdout


def test_the_losses_of_a_table_are_what_the_flag_says_they_are(runs, tmp_path):
    path = tmp_path / "bytes.csv"
    pl.read_csv(runs).select("N", "D", "C", pl.col("L").alias("bpb") / 4).write_csv(path)
    asked = ["fit", "--table", str(path), "--columns", "loss=bpb"]
    said = run_in(tmp_path, *asked, "--loss", "bits_per_byte")
    assert said.returncode == 0, said.stderr
    assert "(bits/byte)" in said.stdout
    assert "nats" not in said.stdout + said.stderr
    assert "look like bits or losses per byte" in " ".join(run_in(tmp_path, *asked).stderr.split())

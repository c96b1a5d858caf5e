"""Sweeps that differ in their corpus, as one table: exported, fitted and compared, with the sweep files of the study of
repeated text and planted losses."""

import json
from dataclasses import dataclass, replace

import polars as pl
import pytest
from typer.testing import CliRunner

from analysis.runs.column_names import own_runs
from analysis.runs.points import read_points
from analysis.runs.table_file import read_table
from mor_core.flops import unique_params
from orchestrator.cli.main import app, exit_code_of
from orchestrator.store.store import Store
from tests.helpers.paths import ROOT
from tests.helpers.runs.planted_sweep import SNAPSHOT, Law, PlantedSweep, overrides

CORPORA = {"fresh": "", "four": "_4", "eight": "_8", "sixteen": "_16", "thirty-two": "_32"}
KAPPAS = {"vanilla": 0.05, "recursive-2": 0.05, "mor-2": 0.02}
DATA = replace(SNAPSHOT, train_tokens=20_000_000)


@dataclass(frozen=True, kw_only=True)
class RepeatLaw(Law):
    """The same, and what repetition costs each arm: κ R^(1/3) (N / U)^(2/3)."""

    def loss(self, segment):
        """Of a model after its cooldown."""
        trunk = segment.trunk
        tokens = segment.stop_step * trunk.train.batch_size * trunk.model.context_length
        unique = trunk.unique_tokens or tokens
        arm = "mor-2" if trunk.model.routing else "recursive-2" if trunk.model.recursion.count > 1 else "vanilla"
        cost = max(tokens / unique - 1, 0) ** (1 / 3) * (unique_params(trunk.model) / unique) ** (2 / 3)
        return super().loss(segment) + KAPPAS[arm] * cost


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The five sweeps of the plan, and one on another text."""
    store = Store(root=tmp_path_factory.mktemp("results"))
    for name, suffix in CORPORA.items():
        sweep = PlantedSweep(store=store, name=name, law=RepeatLaw())
        preset = str(ROOT / "sweeps" / f"study_repeated{suffix}.toml")
        sweep.publish(sweep.plan(DATA, overrides(seeds=[0, 1]), preset=preset))
    other = PlantedSweep(store=store, name="other-text")
    small = {"names": ["13k", "23k"]}
    other.publish(other.plan(replace(DATA, fingerprint="f" * 64), overrides(budgets=["8e10"], sizes=small)))
    return store


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def export(store, target, *names):
    first, *others = names
    flags = [word for name in others for word in ("--with", name)]
    return run("export", first, target, *flags, "--results", store.root)


@pytest.fixture(scope="module")
def joined(store, tmp_path_factory):
    """The five sweeps as one table."""
    path = tmp_path_factory.mktemp("joined") / "runs.parquet"
    done = export(store, path, *CORPORA)
    assert done.exit_code == 0, done.output
    assert "90 cells of fresh, four, eight, sixteen, thirty-two" in done.stderr
    return path


def test_the_sweeps_of_the_plan_make_one_table_with_every_cell_once(joined, store):
    runs = pl.read_parquet(joined)
    assert runs.height == runs["cell_id"].n_unique() == 90
    assert set(runs["sweep"]) == set(CORPORA)
    passes = runs.filter(arm="vanilla", size="38k-6L", seed=0).sort("epochs")["epochs"].to_list()
    assert passes[0] < 1
    assert passes[1:] == pytest.approx([4, 8, 16, 32], rel=0.01)


def test_one_fit_of_all_passes_says_what_repetition_costs_each_arm(joined):
    done = run("fit", "--table", joined, "--json")
    assert done.exit_code == 0, done.output
    excess = json.loads(done.stdout)["data"]["excess"]
    assert excess.keys() == KAPPAS.keys()
    for arm, kappa in KAPPAS.items():
        assert excess[arm]["kappa"]["low"] < kappa < excess[arm]["kappa"]["high"]
        assert len(excess[arm]["pairs"]) == 24


def test_arms_are_compared_by_what_repetition_costs_them(joined):
    done = run("compare", "--table", joined)
    assert done.exit_code == 0, done.output
    exist = "κ of the excess over fresh text, N the parameters that exist"
    assert f"repetition costs mor-2 less than vanilla; difference in {exist}: -0.0" in done.stdout
    assert f"what repetition costs recursive-2 and vanilla cannot be told apart; difference in {exist}: " in done.stdout
    assert "mean excess over fresh text (12 sizes and corpora)" in done.stdout


def test_the_figure_of_the_table_shows_the_cost_of_every_arm(joined, tmp_path):
    done = run("plot", "repeated", "--table", joined, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    drawn = json.loads((tmp_path / "repeated.json").read_text())["data"]
    assert [arm["arm"] for arm in drawn] == sorted(KAPPAS)
    assert all(len(arm["tracks"]) == 3 and arm["optima"]["refusal"] == "not-identified" for arm in drawn)


def test_a_csv_holds_the_same_runs(store, joined, tmp_path):
    done = export(store, tmp_path / "runs.csv", *CORPORA)
    assert done.exit_code == 0, done.output
    points = [read_points(own_runs(read_table(path))) for path in (joined, tmp_path / "runs.csv")]
    assert points[0].exclusions == ()
    assert points[0].inputs_sha256 == points[1].inputs_sha256


@pytest.mark.parametrize(
    ("names", "target", "words"),
    [
        (("fresh", "fresh"), "runs.csv", "fresh is named twice"),
        (("fresh", "four", "four"), "runs.csv", "four is named twice"),
        (("fresh", "other-text"), "runs.csv", "their validation data differs"),
        (("fresh", "none"), "runs.csv", "no sweep named 'none'"),
        (("fresh",), "missing/runs.csv", "missing is not a folder"),
        (("fresh", "four"), "runs.tar", "--with is for a table of runs"),
    ],
)
def test_a_mistake_is_one_sentence(store, tmp_path, names, target, words):
    done = export(store, tmp_path / target, *names)
    error = done.exception
    assert done.exit_code != 0
    assert words in f"{error} {done.output}"
    assert not (tmp_path / target).exists()


def test_what_is_there_is_not_written_over(store, joined):
    done = export(store, joined, "fresh")
    assert exit_code_of(done.exception) == 2
    assert "exists already" in str(done.exception)

"""Whole sweep against sweep: at equal FLOPs, and refused where losses or budgets do not mean the same."""

import json
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from analysis.runs.points import TableError
from orchestrator.cli.main import app, exit_code_of
from orchestrator.records.fits.sweep_pair import fit_pair, pair_sweeps
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, Law, PlantedSweep, overrides
from tests.helpers.runs.planted_texts import plant_text

GAP = 0.05
SIZES = {"names": ["13k", "23k", "35k", "51k", "70k", "115k"]}


def make(store, name, *, data=SNAPSHOT, law=None, **changes):
    wanted = {"budgets": ["8e10", "1.6e11", "3.2e11"], "sizes": SIZES, "arms__architectures": ["vanilla"]} | changes
    sweep = PlantedSweep(store=store, name=name, law=law or Law())
    sweep.publish(sweep.plan(data, overrides(**wanted)))
    return sweep


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Sweeps that differ in one thing each."""
    store = Store(root=tmp_path_factory.mktemp("results"))
    make(store, "base")
    better = Law(bottom=1.6 - GAP)
    make(store, "better", law=better, seeds=[1])
    make(store, "between", law=better, seeds=[2], budgets=["1.1e11", "1.3e11", "2.3e11"])
    make(store, "beyond", seeds=[3], budgets=["1e12", "2e12", "4e12"])
    make(store, "paper", seeds=[4], budget_convention="paper", budgets=["3e10", "6e10", "1.2e11"])
    make(store, "other-text", data=replace(SNAPSHOT, fingerprint="f" * 64), seeds=[5])
    make(store, "other-tokens", data=replace(SNAPSHOT, tokenizer_fingerprint="e" * 64), seeds=[6])
    make(store, "routed", arms__architectures=["mor"], arms__recursions=[2], seeds=[7])
    return store


def run(store, *words):
    return CliRunner().invoke(app, ["compare", *words, "--results", str(store.root)])


@pytest.mark.slow
def test_a_better_sweep_is_better_at_every_budget_by_the_planted_gap(store):
    pair = pair_sweeps(store, "base", "better", "loss")
    study = fit_pair(pair)
    assert {(each.arm, each.other) for each in study.comparisons} == {("vanilla (base)", "vanilla (better)")}
    assert len(study.comparisons) == 3
    for each in study.comparisons:
        assert each.gap.low < GAP < each.gap.high
        assert each.gap.low > 0
    shown = run(store, "base", "--with", "better", "--json")
    assert shown.exit_code == 0
    document = json.loads(shown.stdout)
    assert (document.keys(), document["schema"]) == ({"schema", "data"}, "mor-sweep.compare/1")
    gaps = [pair["gap"]["value"] for pair in document["data"]["losses"]["loss"]["comparisons"]]
    assert gaps == [each.gap.value for each in study.comparisons]


@pytest.mark.slow
def test_a_better_sweep_is_said_to_be_better_once_a_budget_and_once_over_all_where_nothing_is_routed(store):
    shown = run(store, "base", "--with", "better")
    assert shown.exit_code == 0
    assert shown.stdout.count("vanilla (better) is better; gap") == 3
    assert shown.stdout.count("over 3 budgets: vanilla (better) is better; mean gap") == 1
    assert "compute multiplier of vanilla (base)" in shown.stdout


@pytest.mark.slow
def test_two_sweeps_are_drawn_against_each_other_with_both_names_on_the_figure(store):
    drawn = CliRunner().invoke(app, ["plot", "compare", "base", "--with", "better", "--results", str(store.root)])
    assert drawn.exit_code == 0, drawn.output
    folder = store.sweep_folder("base") / "figures"
    document = json.loads((folder / "compare-with-better.json").read_text())
    assert {(pair["arm"], pair["other"]) for pair in document["data"]["loss"]} == {
        ("vanilla (base)", "vanilla (better)")
    }
    assert document["provenance"]["source"] == "base with better"
    assert (folder / "compare-with-better.png").stat().st_size > 10_000
    told = json.loads(run(store, "base", "--with", "better", "--json").stdout)
    assert told["schema"] == "mor-sweep.compare/1"
    gaps = [pair["gap"]["value"] for pair in told["data"]["losses"]["loss"]["comparisons"]]
    assert gaps == [pair["gap"]["value"] for pair in document["data"]["loss"]]


def test_sweeps_without_a_budget_in_common_meet_on_their_surfaces(store):
    study = fit_pair(pair_sweeps(store, "base", "between", "loss"))
    assert [each.budget for each in study.comparisons] == [
        "110000000000",
        "130000000000",
        "160000000000",
        "230000000000",
    ]
    # Twice the interval: the planted noise follows from the ids of segments, and one draw in twenty lies outside it.
    assert all(abs(each.gap.value - GAP) < each.gap.high - each.gap.low for each in study.comparisons)


def test_sweeps_without_an_arm_in_common_are_compared_arm_by_arm(store):
    assert pair_sweeps(store, "base", "routed", "loss").pairs == (("vanilla (base)", "mor-2 (routed)"),)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ("other-text", "not comparable: their validation data"),
        ("other-tokens", "not comparable: their"),
        ("paper", "budgets counted differently"),
        ("beyond", "do not overlap"),
        ("base", "a sweep against itself"),
    ],
)
def test_sweeps_that_cannot_be_compared_are_a_usage_error_that_says_why(store, other, said):
    with pytest.raises(TableError, match=said) as caught:
        fit_pair(pair_sweeps(store, "base", other, "loss"))
    assert exit_code_of(caught.value) == 2
    shown = run(store, "base", "--with", other)
    assert isinstance(shown.exception, TableError)


def test_by_a_text_sweeps_of_different_data_are_compared_where_it_is_one_text_and_refused_where_it_is_not(store):
    for name, sha256 in (("base", "a"), ("other-text", "a"), ("better", "c")):
        plant_text(store, name, "books", sha256 * 64, Law().loss)
    pair = pair_sweeps(store, "base", "other-text", "text:books")
    assert pair.runs["text:books"].null_count() == 0
    with pytest.raises(TableError, match="text:books of base and of better are not comparable: their tokens differ"):
        pair_sweeps(store, "base", "better", "text:books")
    shown = run(store, "base", "--with", "between", "--loss", "text:books")
    assert exit_code_of(shown.exception) == 2
    assert "no cell of sweep between has text:books" in str(shown.exception)


def test_a_table_is_not_compared_with_a_sweep(store, tmp_path):
    shown = run(store, "base", "--with", "better", "--table", str(tmp_path / "runs.csv"), "--columns", "params=N")
    assert isinstance(shown.exception, TableError)
    assert "--with" in str(shown.exception)

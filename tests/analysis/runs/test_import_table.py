import numpy as np
import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.runs.column_map import parse_columns
from analysis.runs.import_table import import_table
from analysis.runs.points import TableError, read_points
from analysis.runs.table_file import read_table

COLUMNS = "params=N,tokens=D,loss=L,flops=C"


def outside_table(**changes):
    """Four budgets of seven sizes as someone else might write them down."""
    rows = []
    for budget in (1e18, 3e18, 1e19, 3e19):
        for step in range(7):
            params = 1e8 * (budget / 1e18) ** 0.5 * 1.5 ** (step - 3)
            tokens = budget / 6 / params
            loss = 1.8 + 480 / params**0.35 + 2100 / tokens**0.37
            rows.append({"N": params, "D": tokens, "C": budget, "L": loss})
    table = pl.DataFrame(rows)
    return table.with_columns(**{name: pl.Series(values) for name, values in changes.items()})


def imported(table, columns=COLUMNS, **options):
    return import_table(table, parse_columns(columns), **options)


def reasons(table, columns=COLUMNS, **options):
    points = read_points(imported(table, columns, **options).frame)
    return {each.cell_id: each.reason for each in points.exclusions}


def changed(name, row, value):
    values = outside_table()[name].to_list()
    values[row] = value
    return outside_table(**{name: values})


def test_an_outside_table_gives_a_frontier_by_both_approaches():
    found = imported(outside_table())
    assert found.on_budgets
    assert found.suspicions == ()
    parabola, surface = fit_study(found.frame, FitSettings(approaches=("parabola", "surface"))).frontiers
    assert parabola.params_law.law.exponent == pytest.approx(0.37 / 0.72, abs=0.01)
    assert surface.params_law.law.exponent == pytest.approx(0.37 / 0.72, abs=1e-4)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_csv_and_parquet_hold_the_same_runs(tmp_path, suffix):
    path = tmp_path / f"runs{suffix}"
    table = outside_table()
    table.write_csv(path) if suffix == ".csv" else table.write_parquet(path)
    assert np.allclose(read_table(path).to_numpy(), table.to_numpy(), rtol=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("parms=N,tokens=D,loss=L", "Did you mean params"),
        ("params=N,tokens=D,loss", "MEANING=COLUMN"),
        ("params=N,params=D,loss=L", "given twice"),
        ("params=N,tokens=D*x,loss=L", "not a positive number"),
    ],
)
def test_a_column_map_that_means_nothing_is_named(text, words):
    with pytest.raises(TableError, match=words):
        parse_columns(text)


def test_a_column_that_is_not_there_is_named_with_the_nearest():
    with pytest.raises(TableError, match="no column 'Loss'"):
        imported(outside_table(), "params=N,tokens=D,loss=Loss")


def test_text_where_a_number_is_meant_is_named():
    with pytest.raises(TableError, match=r"^Row 1, column 'L' .* found 'high', expected a number \(27 more like it\)"):
        imported(outside_table(L=["high"] * 28))


def test_the_first_row_that_holds_no_number_is_counted_from_the_header():
    losses = ["3.5"] * 9 + ["n/a"] + ["3.5"] * 18
    with pytest.raises(TableError, match=r"^Row 10, column 'L' .* found 'n/a', expected a number: correct it"):
        imported(outside_table(L=losses))


def test_a_file_that_is_no_table_is_refused(tmp_path):
    path = tmp_path / "runs.parquet"
    path.write_text("not parquet")
    with pytest.raises(TableError, match="cannot be read"):
        read_table(path)
    (tmp_path / "runs.xlsx").write_text("no table")
    with pytest.raises(TableError, match=r"\.csv or \.parquet"):
        read_table(tmp_path / "runs.xlsx")


@pytest.mark.parametrize(("value", "word"), [(float("nan"), "diverged"), (float("inf"), "diverged"), (9.0, "diverged")])
def test_a_diverged_run_is_left_out(value, word):
    # Row 10: the fourth size at the second budget.
    table = pl.concat(
        [
            changed("L", 10, value),
            outside_table().select(pl.all().slice(10, 1)).with_columns(D=pl.col("D") / 2, L=pl.col("L") + 0.02),
        ]
    )
    assert word in reasons(table)["row 11"]


def test_a_run_without_parameters_is_left_out():
    assert "params is 0.0" in reasons(changed("N", 5, 0.0))["row 6"]


def test_a_run_that_is_in_the_table_twice_counts_once():
    table = pl.concat([outside_table(), outside_table().head(1)])
    assert reasons(table) == {"row 29": "left out: duplicate: the same arm, N, D and loss as row 1"}


def test_repeated_data_and_long_warmup_are_left_out():
    epochs, warmup = [1.0] * 28, [100] * 28
    epochs[3], warmup[4] = 6.0, 400
    table = outside_table(epochs=epochs, warmup=warmup, steps=[1000] * 28)
    found = reasons(table, COLUMNS + ",epochs=epochs,steps=steps,warmup_steps=warmup")
    assert "repeated data: 6 passes" in found["row 4"]
    assert "under-warmed: 40%" in found["row 5"]
    assert len(found) == 2


def test_a_run_off_its_stated_budget_is_left_out():
    table = changed("C", 2, 1.2e18)
    assert "off-budget" in reasons(table, budgets=(10**18, 3 * 10**18, 10**19, 3 * 10**19))["row 3"]


def test_mixed_flop_conventions_are_refused():
    table = outside_table(how=["6ND"] * 14 + ["exact"] * 14)
    with pytest.raises(TableError, match="6ND, exact"):
        imported(table, COLUMNS + ",convention=how")


def test_tokens_in_billions_contradict_the_flops_and_are_refused_with_the_remedy():
    table = outside_table(D=(outside_table()["D"] / 1e9).to_list())
    with pytest.raises(TableError, match=r"tokens=COLUMN\*1e9"):
        imported(table)
    assert imported(table, "params=N,tokens=D*1e9,loss=L,flops=C").on_budgets


def test_losses_in_bits_are_suspected():
    table = outside_table(bits=(outside_table()["L"] / np.log(2)).to_list())
    (suspicion,) = imported(table, "params=N,tokens=D,loss=bits,flops=C").suspicions
    assert "0.693147" in suspicion.sentence


def test_flops_of_the_forward_pass_alone_are_suspected():
    (suspicion,) = imported(outside_table(C=(outside_table()["C"] / 3).to_list())).suspicions
    assert "forward pass" in suspicion.sentence


def test_a_table_without_flops_is_six_n_d_and_says_so():
    found = imported(outside_table(), "params=N,tokens=D,loss=L")
    assert set(found.frame["budget_convention"]) == {"6nd"}
    assert any("6 N D" in note for note in found.notes)


def test_runs_on_no_budget_are_asked_over_their_range():
    rng = np.random.default_rng(0)
    table = outside_table(C=(outside_table()["C"].to_numpy() * rng.uniform(0.5, 2, 28)).tolist())
    table = table.with_columns(D=pl.col("C") / 6 / pl.col("N"), L=pl.col("L") + rng.normal(0, 0.005, 28))
    found = imported(table)
    assert not found.on_budgets
    assert all(0.4e18 < int(budget) < 7e19 for budget in found.optima_at)
    (frontier,) = fit_study(found.frame, FitSettings(approaches=("surface",), optima_at=found.optima_at)).frontiers
    assert [optimum.budget for optimum in frontier.optima] == list(found.optima_at)


def test_seeds_are_numbered_where_the_table_has_none():
    noisy = outside_table().with_columns(L=pl.col("L") + 0.001)
    found = imported(pl.concat([outside_table(), noisy]))
    assert sorted(set(found.frame["seed"])) == [0, 1]
    assert read_points(found.frame).exclusions == ()

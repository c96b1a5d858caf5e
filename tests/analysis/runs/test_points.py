import math

import polars as pl
import pytest

from analysis.runs.points import REQUIRED_COLUMNS, TableError, read_points
from mor_core.units import budget_label


def reasons(points):
    return {exclusion.cell_id: exclusion.reason for exclusion in points.exclusions}


@pytest.mark.parametrize("name", [*REQUIRED_COLUMNS, "loss"])
def test_a_missing_column_is_named(planted, name):
    with pytest.raises(TableError, match=f"no column '{name}'"):
        read_points(planted().drop(name))


def test_a_loss_that_the_table_has_no_column_for_is_named(planted):
    with pytest.raises(TableError, match="no column 'bits_per_byte'"):
        read_points(planted(), loss_column="bits_per_byte")


def test_mixed_budget_conventions_are_refused(planted):
    table = pl.concat([planted(), planted(arms=("mor-2",)).with_columns(budget_convention=pl.lit("paper"))])
    with pytest.raises(TableError, match="exact, paper"):
        read_points(table)


@pytest.mark.parametrize("budget", ["2e+19", "-5", "0", "1.5", "", None])
def test_a_budget_that_is_not_an_exact_integer_is_refused(planted, budget):
    with pytest.raises(TableError, match="decimal integer"):
        read_points(planted().with_columns(budget=pl.lit(budget, dtype=pl.Utf8)))


def test_a_seed_with_a_fraction_is_refused_and_not_cut(planted):
    table = planted(seeds=2).with_columns(pl.col("seed") + 0.5)
    with pytest.raises(TableError, match=r"has the seed 0\.5, expected a whole number"):
        read_points(table)
    whole = planted(seeds=2)
    assert read_points(whole.with_columns(pl.col("seed").cast(pl.Float64))).frame.equals(read_points(whole).frame)


def test_a_cell_with_two_rows_is_refused(planted):
    table = planted()
    with pytest.raises(TableError, match="more than one row"):
        read_points(pl.concat([table, table.head(1)]))


def test_budgets_that_agree_as_floats_stay_apart(planted):
    close = ("16500000000000000000", "16500000000000000001")
    assert float(close[0]) == float(close[1])
    points = read_points(planted(budgets=close))
    assert points.budgets_of("vanilla") == close


def test_unfinished_and_unusable_cells_are_left_out_with_their_reason(planted):
    table = planted().with_row_index("row")
    table = table.with_columns(
        status=pl.when(pl.col("row") == 0).then(pl.lit("failed")).otherwise("status"),
        reason=pl.when(pl.col("row") == 0).then(pl.lit("diverged at step 40")).otherwise("reason"),
        loss=pl.when(pl.col("row") == 1).then(math.nan).when(pl.col("row") == 2).then(None).otherwise("loss"),
        flags=pl.when(pl.col("row") == 3).then(pl.lit("few-steps;repeated-data")).otherwise(pl.lit("few-steps")),
    )
    cells = table["cell_id"].to_list()
    points = read_points(table.drop("row"), leave_out_flags=("repeated-data",), leave_out_cells=(cells[4],))
    found = reasons(points)
    assert found[cells[0]] == "failed: diverged at step 40"
    assert "loss is nan" in found[cells[1]]
    assert "loss is None" in found[cells[2]]
    assert found[cells[3]] == "flagged repeated-data"
    assert found[cells[4]] == "left out by request"
    assert points.frame.height == table.height - 5


def test_the_same_run_twice_counts_once(planted):
    table = planted()
    points = read_points(pl.concat([table, table.head(1).with_columns(cell_id=pl.lit("zzz"))]))
    assert points.frame.height == table.height
    assert "the same run" in reasons(points)["zzz"]


def test_two_results_that_disagree_are_both_left_out(planted):
    table = planted()
    again = table.head(1).with_columns(cell_id=pl.lit("zzz"), loss=pl.col("loss") + 0.01)
    points = read_points(pl.concat([table, again]))
    assert set(reasons(points)) == {"zzz", table["cell_id"][0]}


def test_seeds_are_separate_points(planted):
    assert read_points(planted(seeds=3)).frame.height == 3 * planted().height


def test_the_chosen_loss_column_is_used(planted):
    table = planted()
    causal, topk = (read_points(table, loss_column=name).frame["loss"] for name in ("loss", "loss_topk"))
    assert (causal - topk).to_list() == pytest.approx([0.1] * table.height)


def test_trunks_of_two_arms_with_one_size_and_seed_share_a_key(planted):
    frame = read_points(planted(arms=("mor-2", "vanilla"), seeds=2)).frame
    keys = frame.group_by("arm").agg(pl.col("trunk_key").unique().sort())["trunk_key"].to_list()
    assert keys[0] == keys[1]
    assert frame["trunk_key"].n_unique() * 2 == frame["trunk_id"].n_unique()


def test_the_hash_ignores_the_order_of_rows_and_sees_every_loss(planted):
    table = planted()
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=5)
    changed = table.with_columns(loss=pl.col("loss") * (1 + 1e-12))
    assert read_points(shuffled).inputs_sha256 == read_points(table).inputs_sha256
    assert read_points(changed).inputs_sha256 != read_points(table).inputs_sha256


def test_an_empty_table_has_no_arms(planted):
    assert read_points(planted().clear()).arms == ()


@pytest.mark.parametrize(
    ("budget", "label"),
    [("16500000000000000000", "1.65e19"), ("1000000000000", "1e12"), ("123", "1.23e2"), ("7", "7e0")],
)
def test_a_budget_label_is_exact(budget, label):
    assert budget_label(budget) == label


def test_cells_that_differ_in_their_corpus_alone_are_all_kept_and_paired_between_arms_by_it(planted):
    fresh = planted(arms=("mor-2", "vanilla")).with_columns(epochs=pl.lit(0.5))
    small = fresh.with_columns(cell_id=pl.col("cell_id") + " small", trunk_id=pl.col("trunk_id") + " small", epochs=3.0)
    points = read_points(pl.concat([fresh, small.filter(pl.col("arm") == "vanilla"), small.filter(arm="mor-2")]))
    assert points.exclusions == ()
    assert points.frame.height == 2 * fresh.height
    keys = {arm: set(points.of_arm(arm)["trunk_key"]) for arm in points.arms}
    assert keys["mor-2"] == keys["vanilla"]
    alone = read_points(fresh)
    assert set(alone.frame["trunk_key"]) & keys["vanilla"] == set(), "a table of one corpus keeps its names"
    assert read_points(fresh.drop("epochs")).frame["trunk_key"].equals(alone.frame["trunk_key"])


def test_one_cell_on_one_corpus_is_still_a_contradiction_where_its_losses_differ(planted):
    table = planted().with_columns(epochs=pl.lit(0.5))
    other = table.head(1).with_columns(cell_id=pl.lit("again"), loss=pl.col("loss") + 0.1)
    found = reasons(read_points(pl.concat([table, other])))
    assert len(found) == 2
    assert all("disagree" in reason for reason in found.values())

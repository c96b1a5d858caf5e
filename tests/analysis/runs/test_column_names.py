"""Tables under the names that people give their columns."""

import numpy as np
import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.runs.column_map import columns_text, parse_columns
from analysis.runs.column_names import complete_columns, is_own, own_runs
from analysis.runs.import_table import import_table
from analysis.runs.points import TableError, read_points
from analysis.statistics.bootstrap import Resampling
from tests.helpers.runs.published_tables import published

ALPHA, BETA = 0.35, 0.37
SETTINGS = FitSettings(approaches=("surface",), resampling=Resampling(draws=100))


def runs(names=("N", "D", "loss", "C"), *, scales=(1.0, 1.0)):
    """Four budgets of seven sizes under a planted law; quantities without a name are left out."""
    rows = []
    for budget in (1e18, 3e18, 1e19, 3e19):
        for step in range(7):
            params = 1e8 * (budget / 1e18) ** 0.5 * 1.5 ** (step - 3)
            tokens = budget / 6 / params
            loss = 1.8 + 480 / params**ALPHA + 2100 / tokens**BETA
            rows.append((params / scales[0], tokens / scales[1], loss, budget))
    columns = zip(names, zip(*rows, strict=True), strict=True)
    return pl.DataFrame({name: values for name, values in columns if name})


def read(table, stated="", convention=None):
    """The column map as text."""
    return columns_text(complete_columns(table, parse_columns(stated), convention))


def exponent(table, stated="", convention=None):
    columns = complete_columns(table, parse_columns(stated), convention)
    imported = import_table(table, columns, convention=convention)
    (frontier,) = fit_study(imported.frame, SETTINGS).frontiers
    return frontier.params_law.law.exponent


@pytest.mark.parametrize(
    "names",
    [
        ("N", "D", "loss", "flops"),
        ("n", "d", "L", "c"),
        ("num_params", "num_tokens", "val_loss", "training_flops"),
        ("Model Size", "Training Tokens", "Validation Loss", "Training FLOP"),
        ("non_embedding_params", "train_tokens", "eval_loss", "compute"),
        ("n_params", "tokens", "c4_loss", "total flops [EFLOP]"),
        ("params.nonEmbeddingParameters", "params.tokensSeen", "metrics.final-loss", "C (FLOPs)"),
        ("PARAMETERS", "n_tokens", "loss (nats)", "Budget"),
    ],
)
def test_usual_names_are_recognised_and_the_planted_law_is_recovered(names):
    table = runs(names)
    columns = complete_columns(table, {})
    assert [column.name for column in columns.values()] == list(names)
    assert exponent(table) == pytest.approx(BETA / (ALPHA + BETA), abs=1e-4)


def test_the_map_that_is_printed_gives_the_same_points_as_none():
    table = runs(("Model Size (M)", "tokens [B]", "val loss", "C"), scales=(1e6, 1e9)).with_columns(
        arm=pl.lit("dense"), seed=pl.lit(3)
    )
    text = read(table)
    assert "params=Model Size (M)*1e+06,tokens=tokens [B]*1e+09" in text
    one, other = (
        read_points(import_table(table, complete_columns(table, parse_columns(stated))).frame) for stated in ("", text)
    )
    assert one.inputs_sha256 == other.inputs_sha256
    assert set(one.frame["seed"]) == {3}
    assert exponent(table) == pytest.approx(exponent(table, text), abs=1e-12)


def test_stated_columns_are_added_and_override_names():
    table = runs(("N", "D", "loss", "C")).with_columns(worse=pl.col("loss") + 1, who=pl.lit("dense"))
    assert read(table, "loss=worse,arm=who") == "params=N,tokens=D,loss=worse,flops=C,arm=who"
    assert read(table, "flops=") == "params=N,tokens=D,loss=loss"


@pytest.mark.parametrize(
    ("more", "words", "remedy"),
    [
        ("N_no_embed", r"params \(N, parameters\) may be N or N_no_embed", "params=N"),
        ("total_params", "may be N or total_params", "params=N"),
        ("loss_c4_val", "may be loss or loss_c4_val", "loss=loss"),
        ("train_loss", "may be loss or train_loss", "loss=loss"),
        ("trained tokens", "may be D or trained tokens", "tokens=D"),
        ("compute", "may be C or compute", "flops=C"),
    ],
)
def test_of_two_columns_that_fit_none_is_chosen(more, words, remedy):
    table = runs(("N", "D", "loss", "C"))
    table = table.with_columns(pl.lit(2e9).alias(more))
    with pytest.raises(TableError, match=words) as caught:
        complete_columns(table, {})
    sentence = str(caught.value)
    assert f"the table has N, D, loss, C, {more}; say it as in" in sentence
    assert remedy in sentence
    assert more not in read(table, remedy)


def test_how_well_a_loss_is_known_is_no_second_loss():
    table = runs(("N", "D", "loss", "C")).with_columns(loss_std=0.1, loss_lower=1.0, loss_spikes=0)
    assert read(table) == "params=N,tokens=D,loss=loss,flops=C"


def test_only_what_is_missing_is_asked_for_and_the_header_is_listed():
    table = runs(("width of it", "D", "nll", "C"))
    with pytest.raises(TableError) as caught:
        complete_columns(table, {})
    sentence = str(caught.value)
    assert "no column has a usual name for params (N, parameters), loss" in sentence
    assert "the table has width of it, D, nll, C" in sentence
    assert "params=COLUMN,loss=COLUMN" in sentence
    assert "tokens=" not in sentence


def test_words_where_numbers_are_meant_are_not_recognised():
    table = runs().with_columns(pl.lit("124M").alias("model_size"), pl.lit("run 1").alias("seed"))
    assert read(table) == "params=N,tokens=D,loss=loss,flops=C"


def test_a_model_that_has_one_size_is_the_name_of_the_size():
    table = runs().with_columns(("s" + pl.col("N").rank("dense").cast(pl.Utf8)).alias("model"))
    assert read(table).endswith("size=model")
    halves = table.with_columns(model=pl.when(pl.col("C") > 5e18).then(pl.lit("one")).otherwise(pl.lit("two")))
    assert read(halves).endswith("arm=model")
    assert read(table, "arm=model").endswith("arm=model")
    assert "model" not in read(halves, "arm=")


@pytest.mark.parametrize("value", ["first", 0.5, float("nan")])
def test_a_seed_that_is_no_whole_number_is_named(value):
    table = runs().with_columns(which=pl.lit(value))
    with pytest.raises(TableError, match=rf"Row 1, column 'which' .* found {value!r}, expected a whole number"):
        import_table(table, complete_columns(table, parse_columns("seed=which")))


def test_tokens_follow_from_flops_where_the_convention_says_so():
    table = runs(("Model Size", "", "loss", "Training FLOP"))
    columns = complete_columns(table, {}, "6ND")
    imported = import_table(table, columns, convention="6ND")
    assert np.allclose(imported.frame["tokens"], runs()["D"], rtol=1e-12)
    assert set(imported.frame["budget_convention"]) == {"6nd"}
    assert any("D = C / (6 N)" in note for note in imported.notes)
    assert imported.suspicions == ()
    assert exponent(table, convention="6nd") == pytest.approx(BETA / (ALPHA + BETA), abs=1e-4)


@pytest.mark.parametrize("empty", [False, True], ids=["no column", "an empty column"])
def test_without_the_convention_no_tokens_are_assumed(empty):
    table = runs(("Model Size", "", "loss", "Training FLOP"))
    table = table.with_columns(tokens=pl.lit(None, pl.Float64)) if empty else table
    with pytest.raises(TableError, match=r"'Model Size'.*'Training FLOP'.*no tokens") as caught:
        complete_columns(table, parse_columns("tokens=tokens") if empty else {}, "exact")
    assert "D = C / (6 N)" in str(caught.value)
    assert len(complete_columns(table, {}, "6nd")) == 3


def test_tokens_that_some_runs_lack_are_not_worked_out():
    table = runs().with_columns(D=pl.when(pl.col("N") > 1e8).then(pl.col("D")))
    imported = import_table(table, complete_columns(table, {}, "6nd"), convention="6nd")
    assert imported.reading.assumptions == {}
    without = table["D"].null_count()
    assert 0 < without == sum("its tokens is None" in (reason or "") for reason in imported.frame["reason"])


def test_flops_in_another_unit_give_no_tokens():
    table = runs(("N", "", "loss", "C")).with_columns(pl.col("C") / 1e18)
    with pytest.raises(TableError, match=r"flops=COLUMN\*1e18"):
        import_table(table, complete_columns(table, {}, "6nd"), convention="6nd")


def test_the_run_table_of_a_sweep_is_fitted_as_the_sweep_is_from_csv_too(planted, tmp_path):
    table = planted(arms=("mor-2", "vanilla"), cell_noise=0.004)
    if "loss_topk" not in table.columns:
        table = table.with_columns(loss_topk=pl.col("loss"))
    table = table.with_columns(depth_mean=pl.lit(None, pl.Float64))
    table.write_csv(tmp_path / "runs.csv")
    again = pl.read_csv(tmp_path / "runs.csv")
    assert is_own(again)
    assert read_points(own_runs(again)).inputs_sha256 == read_points(table).inputs_sha256
    assert own_runs(again)["depth_mean"].dtype == pl.Float64
    assert read(again).startswith("params=unique_params,tokens=tokens,loss=loss")


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("porian_refinedweb/isoflop_points.csv", "params=n,tokens=tokens,loss=loss,flops=flops"),
        ("olmo_ladder/runs.csv", "params=params,tokens=tokens,loss=c4_loss"),
        ("datablations/runs.csv", "params=params,tokens=tokens,loss=loss,epochs=epochs,unique_tokens=unique_tokens"),
    ],
)
def test_published_tables_are_read_by_their_names(name, columns):
    assert read(published(name)) == columns


def test_published_tables_that_leave_a_choice_are_asked_about():
    with pytest.raises(TableError, match=r"N or N_no_embed.*loss_openlm, loss_c4_val, .* or loss_val_de-en_100"):
        complete_columns(published("gadre_overtraining/runs.csv"), {})
    chinchilla = published("epoch_chinchilla/svg_extracted_data.csv")
    with pytest.raises(TableError, match="no tokens"):
        complete_columns(chinchilla, {})
    assert read(chinchilla, convention="6nd") == "params=Model Size,loss=loss,flops=Training FLOP"

"""Any measured loss can be the fitted one: by its name, in its unit, and never another one by mistake."""

import json
import math

import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.report.provenance import provenance_of
from analysis.report.tables import Format, tabulate
from analysis.report.text import study_as_markdown
from analysis.runs.losses import LossError, parse_loss
from analysis.runs.points import read_points
from tests.helpers.paths import FIRST_STUDY


def with_tasks(table, rates, fingerprints=("a" * 64,)):
    """The table with scores on one task, whose error rates are given; None where a cell was not scored."""
    scores = [
        None
        if rate is None
        else json.dumps({"piqa": {"score": 1 - rate, "fingerprint": fingerprints[row % len(fingerprints)]}})
        for row, rate in enumerate(rates)
    ]
    return table.with_columns(tasks=pl.Series(scores, dtype=pl.Utf8))


@pytest.mark.parametrize(
    ("words", "name", "unit"),
    [
        ("loss", "loss", "nats/token"),
        ("loss_topk", "loss_topk", "nats/token"),
        ("loss_half", "loss_half", "nats/token"),
        ("bits_per_byte", "bits_per_byte", "bits/byte"),
        ("text:wiki-1.a", "text:wiki-1.a", "nats/token"),
        ("task:arc_easy", "task:arc_easy", "error rate"),
        ("own:late-1.a", "own:late-1.a", "nats/token"),
        ("causal", "loss", "nats/token"),
        ("topk", "loss_topk", "nats/token"),
    ],
)
def test_a_loss_has_the_name_of_its_column_and_a_unit(words, name, unit):
    loss = parse_loss(words)
    assert (loss.name, loss.unit) == (name, unit)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("bits_per_bite", "did you mean bits_per_byte?"),
        ("loss_top_k", "did you mean loss_topk?"),
        ("perplexity", "expected one of loss, loss_topk, loss_half, bits_per_byte, text:NAME, task:NAME"),
        ("text:", "expected a name of up to 100 letters"),
        ("text:../up", "expected a name"),
        ("text:two words", "expected a name"),
        ("task:", "expected a plain name"),
        ("task:a/b", "expected a plain name"),
        ("own:", "is unknown"),
        ("own:a/b", "is unknown"),
        ("", "is unknown"),
    ],
)
def test_another_name_is_one_sentence(words, said):
    with pytest.raises(LossError) as caught:
        parse_loss(words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "scale"), [("text:wiki", 1.3), ("own:late", 1.1), ("bits_per_byte", 0.4), ("task:piqa", 0.2)]
)
def test_the_optimum_of_the_chosen_loss_is_found_in_its_unit(planted, truths, name, scale):
    bowl = truths["bowl"]
    losses = scale * planted(bowl)["loss"]
    # Where the cells' own loss lies lowest says nothing: it has its optimum elsewhere.
    table = planted(bowl).with_columns(loss=5.0 + 0.1 * pl.col("unique_params").cast(pl.Float64).log10())
    table = with_tasks(table, losses) if name == "task:piqa" else table.with_columns(losses.alias(name))
    study = fit_study(table, FitSettings(loss_column=name))
    (frontier,) = study.frontiers
    for optimum in frontier.optima:
        assert optimum.params.value == pytest.approx(bowl.best_params(float(optimum.budget)), rel=1e-4)
        assert optimum.loss.value == pytest.approx(scale * bowl.best_loss(float(optimum.budget)), abs=1e-6)
    unit = parse_loss(name).unit
    text = study_as_markdown(study)
    assert f"Loss: `{name}` ({unit})" in text
    assert f"L* ({unit})" in text
    assert f"| L* ({unit}) |" in tabulate(study, Format.markdown)
    assert f"{name} in {unit}" in provenance_of(study, source="s", data="", version="1").lines()[0]


def test_gaps_between_arms_are_told_in_the_unit_of_the_loss(planted):
    table = planted(arms=("mor-2", "vanilla"), arm_gap=0.05).with_columns(bits_per_byte=0.4 * pl.col("loss"))
    study = fit_study(table, FitSettings(loss_column="bits_per_byte"))
    assert study.comparisons
    assert all("bits/byte" in each.sentence and "nats" not in each.sentence for each in study.comparisons)


def test_cells_that_were_not_measured_and_what_is_no_number_are_left_out_with_the_reason(planted):
    table = planted().with_columns((1.1 * pl.col("loss")).alias("text:wiki")).with_row_index("row")
    wrong = pl.when(pl.col("row") == 1).then(math.nan).when(pl.col("row") == 2).then(0.0).otherwise(pl.col("text:wiki"))
    wrong = pl.when(pl.col("row") == 0).then(None).otherwise(wrong)
    points = read_points(table.with_columns(wrong.alias("text:wiki")).drop("row"), loss_column="text:wiki")
    reasons = sorted(exclusion.reason for exclusion in points.exclusions)
    assert reasons == [
        "its loss is 0.0, not a positive finite number",
        "its loss is nan, not a positive finite number",
        "text:wiki was not measured",
    ]
    assert points.frame.height == table.height - 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text:wiki", "no cell has text:wiki; measure it with eval with text = wiki=FILE"),
        ("text:books2", "no cell has text:books2 (did you mean text:books?)"),
        ("task:lambada", "no cell has task:lambada; score it with eval with tasks = lambada"),
        ("task:piqua", "no cell has task:piqua (did you mean task:piqa?)"),
        ("own:lat", "no cell has own:lat (did you mean own:late?)"),
        ("own:x", "no cell has own:x: it is one that a model of your own gives in named_losses"),
        ("loss_half", "no cell has loss_half: choose one of loss, loss_topk, text:books, own:late, task:piqa"),
    ],
)
def test_a_loss_that_no_cell_has_is_one_sentence_with_what_to_do(planted, name, said):
    others = {"text:books": 2.0, "own:late": 2.0, "loss_half": None}
    table = planted().with_columns(pl.lit(value, dtype=pl.Float64).alias(column) for column, value in others.items())
    with pytest.raises(LossError) as caught:
        read_points(with_tasks(table, [0.5] * table.height), loss_column=name)
    assert said in str(caught.value)


def test_scores_on_different_items_are_never_one_loss(planted):
    table = with_tasks(planted(), [0.4] * planted().height, fingerprints=("a" * 64, "b" * 64))
    with pytest.raises(LossError, match="different items of piqa"):
        read_points(table, loss_column="task:piqa")


def test_a_perfect_score_is_no_loss_to_fit_and_says_so(planted):
    table = planted()
    points = read_points(with_tasks(table, [0.0, *[0.3] * (table.height - 1)]), loss_column="task:piqa")
    assert [exclusion.reason for exclusion in points.exclusions] == ["its loss is 0.0, not a positive finite number"]


@pytest.mark.parametrize(("name", "digest"), [("loss", "c0ebeb81c02b8f97"), ("loss_topk", "74eb19e7b83afa49")])
def test_what_fits_were_made_from_before_is_still_known_by_the_same_hash(name, digest):
    table = pl.read_parquet(FIRST_STUDY / "results/sweeps/first/runs.parquet")
    assert read_points(table, loss_column=name).inputs_sha256.startswith(digest)

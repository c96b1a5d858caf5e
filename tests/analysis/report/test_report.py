import json

import polars as pl
import pytest

from analysis.frontier.study import FitSettings, fit_study
from analysis.report.text import CAVEAT, SCHEMA, SMALL_CORPUS_CAVEAT, count_text, study_as_json, study_as_markdown
from analysis.statistics.answers import Estimate
from mor_core.units import short_count

BOTH_SIDES = ("20000000000000000", "50000000000000000", "200000000000000000")
LARGE = ("2000000000000000000", "5000000000000000000", "16500000000000000000")


def test_the_json_is_plain_and_holds_every_number_refusal_and_setting(planted):
    table = planted(arms=("mor-2", "vanilla"), cell_noise=0.004)
    study = fit_study(table, FitSettings(leave_out_cells=(table["cell_id"][0],)))
    plain = json.loads(json.dumps(study_as_json(study), allow_nan=False))
    assert plain["schema"] == SCHEMA
    assert plain["inputs_sha256"] == study.points.inputs_sha256
    assert plain["settings"]["resampling"]["random_seed"] == study.settings.resampling.random_seed
    assert plain["exclusions"][0]["reason"] == "left out by request"
    last = plain["frontiers"][1]["optima"][-1]
    assert last["params"]["low"] <= last["params"]["value"] <= last["params"]["high"]
    assert plain["frontiers"][0]["params_law"]["exponent"]["level"] == 0.95
    assert plain["comparisons"][0]["smallest_visible_gap"] > 0


def test_a_refusal_keeps_its_reason_in_json_and_in_words(planted):
    study = fit_study(planted(shift=8))
    plain = study_as_json(study)
    assert plain["refused"]
    answer = plain["frontiers"][0]["optima"][0]["params"]
    assert answer["refusal"] == "minimum-at-edge"
    text = study_as_markdown(study)
    assert answer["sentence"] in text
    assert "No number is supported" in text


def test_the_caveat_stands_where_every_budget_is_below_1e17_flops(planted):
    assert CAVEAT in study_as_markdown(fit_study(planted()))
    for budgets in (LARGE, BOTH_SIDES):
        study = fit_study(planted(budgets=budgets))
        assert "1e17" not in study_as_markdown(study)
        assert study_as_json(study)["caveat"] is None


def test_a_caveat_speaks_of_the_tool_and_its_corpus_only_where_the_runs_are_its_own(planted):
    foreign, own = fit_study(planted()), fit_study(planted(), on_small_corpus=True)
    assert study_as_json(own)["caveat"] == SMALL_CORPUS_CAVEAT
    for words in ("this tool", "corpus"):
        assert words in study_as_markdown(own)
        assert words not in study_as_markdown(foreign)


def test_every_optimum_is_printed_with_its_interval(planted):
    study = fit_study(planted(cell_noise=0.003))
    text = study_as_markdown(study)
    for optimum in study.frontiers[0].optima:
        assert count_text(optimum.params) in text
        assert f"[{optimum.loss.low:.4f}, {optimum.loss.high:.4f}]" in text
    assert "a + b:" in text
    assert "local slope" in text


def test_rows_left_out_are_listed(planted):
    table = planted().with_columns(status=pl.lit("failed"), reason=pl.lit("diverged"))
    text = study_as_markdown(fit_study(table))
    assert text.count("failed: diverged") == table.height


def test_equal_tables_give_equal_reports(planted):
    table = planted(arms=("mor-2", "vanilla"), cell_noise=0.004)
    shuffled = table.sample(fraction=1.0, shuffle=True, seed=3)
    assert study_as_json(fit_study(table)) == study_as_json(fit_study(shuffled))


@pytest.mark.parametrize(
    ("count", "text"),
    [(69_123, "69.12k"), (999_960, "1.000M"), (1.5e9, "1.500B"), (16.5e12, "16.50T"), (12, "12"), (999.4, "999.4")],
)
def test_counts_keep_four_digits(count, text):
    assert short_count(count) == text


def test_an_open_interval_is_shown_as_a_bound():
    answer = Estimate(value=2e6, low=1e6, high=4e6, level=0.95, high_open=True)
    assert count_text(answer) == "2.000M [1.000M, ≥ 4.000M]"

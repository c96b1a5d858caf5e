"""The paper's 36 cells: as printed, what they support, and drawn beside a sweep."""

import json

import polars as pl
import pytest
from typer.testing import CliRunner

from analysis.frontier.paper import TABLE, paper_runs, paper_study
from analysis.runs.points import TableError
from analysis.statistics.answers import Estimate, RefusalKind
from orchestrator.cli.main import app, exit_code_of
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.paths import ROOT


def test_the_table_is_the_plan_of_the_papers_preset_and_the_published_copy():
    planned = plan(load_spec("paper"), None).cells
    expected = {(cell.arm, cell.size, str(cell.budget)): cell for cell in planned}
    rows = paper_runs().to_dicts()
    assert len(rows) == 36
    for row in rows:
        cell = expected[row["arm"], row["size"], row["budget"]]
        assert (row["unique_params"], row["unrolled_params"]) == (cell.unique_params, cell.unrolled_params)
        assert (row["steps"], row["tokens"]) == (cell.steps, cell.tokens)
    copy = ROOT / "results" / "published" / "paper" / "runs.csv"
    assert copy.read_bytes() == (ROOT / "analysis" / "frontier" / "reference" / TABLE).read_bytes()


def test_four_sizes_a_budget_support_parabolas_of_the_routed_arm_alone():
    by_arm = {frontier.arm: frontier.optima for frontier in paper_study("paper").frontiers}
    assert all(isinstance(each.params, Estimate) for each in by_arm["mor-3"])
    for arm in ("vanilla", "recursive-3"):
        kinds = [each.params.kind for each in by_arm[arm]]
        assert kinds == [RefusalKind.MINIMUM_AT_EDGE, RefusalKind.MINIMUM_AT_EDGE, RefusalKind.NOISE_UNKNOWN]


@pytest.mark.slow
def test_the_surface_and_the_parabolas_of_the_routed_arm_agree():
    study = paper_study("paper", ("parabola", "surface"))
    parabola, surface = (frontier.optima for frontier in study.frontiers if frontier.arm == "mor-3")
    for one, other in zip(parabola, surface, strict=True):
        assert max(one.params.low, other.params.low) < min(one.params.high, other.params.high)


def test_other_conventions_are_never_drawn_beside_it():
    with pytest.raises(TableError, match=r"count exact FLOPs and the paper's count paper FLOPs"):
        paper_study("exact")


@pytest.mark.parametrize("figure", ["isoflop", pytest.param("frontier", marks=pytest.mark.slow)])
def test_a_table_of_paper_flops_is_drawn_with_the_papers_study(tmp_path, figure):
    runs = paper_runs().filter(pl.col("arm") != "recursive-3").with_columns(loss=pl.col("loss") * 0.99)
    runs.select("arm", "unique_params", "tokens", "loss", "budget").write_csv(tmp_path / "runs.csv")
    columns = "params=unique_params,tokens=tokens,loss=loss,flops=budget,arm=arm"
    asked = ["plot", figure, "--table", str(tmp_path / "runs.csv"), "--columns", columns, "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*asked, "--convention", "paper", "--paper"])
    assert done.exit_code == 0, done.output
    assert "Bae et al. 2025" in (tmp_path / f"{figure}.svg").read_text()
    refused = CliRunner().invoke(app, [*asked, "--convention", "exact", "--paper"])
    assert exit_code_of(refused.exception) == 2
    without = CliRunner().invoke(app, [*asked, "--convention", "paper"])
    assert without.exit_code == 0
    assert "Bae et al. 2025" not in (tmp_path / f"{figure}.svg").read_text()
    assert json.loads((tmp_path / f"{figure}.json").read_text())["provenance"]["budget_convention"] == "paper"

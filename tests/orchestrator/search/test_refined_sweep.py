"""Sweeps that earlier versions refined: `isoflop --refine` recorded the cells of each round as one more revision of the
sweep's own settings. They stay in the sweep, its table and its fit, and the sweep goes on."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from analysis.frontier.study import FitSettings, fit_study
from orchestrator.cli.main import app
from orchestrator.planning.plan import plan, plan_of_cells
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.revisions import Sweep, cells_leaving, load_sweep, record_revision
from orchestrator.records.table import table
from orchestrator.search.candidates import wide_plan
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

GRID = overrides(
    name="planted",
    seeds=[0],
    budgets=["8e10", "1.6e11"],
    sizes={"names": ["23k", "35k", "51k"]},
    arms__architectures=["vanilla"],
)


@pytest.fixture
def refined(tmp_path: Path) -> PlantedSweep:
    """A grid, and a round after it: a size that the file does not name, and a second seed of one that it does."""
    sweep = PlantedSweep(store=Store(root=tmp_path / "results"))
    sweep.publish(sweep.plan(SNAPSHOT, GRID))
    spec = load_spec("cpu", GRID)
    wide = wide_plan(load_sweep(sweep.store, sweep.name), spec, SNAPSHOT)
    chosen = [cell for cell in wide.cells if (cell.size, cell.seed) in (("70k", 0), ("35k", 1))]
    assert len(chosen) == 4, "two budgets of each"
    round_of_cells = plan_of_cells(spec, SNAPSHOT, chosen)
    record_revision(sweep.store, round_of_cells, SNAPSHOT)
    sweep.publish(round_of_cells)
    return sweep


def added(sweep: Sweep) -> set[tuple[str, int]]:
    return {(cell.size, cell.seed) for cell in sweep.cells} - {("23k", 0), ("35k", 0), ("51k", 0)}


def test_the_cells_of_rounds_are_in_the_table_and_in_the_fit(refined: PlantedSweep):
    recorded = load_sweep(refined.store, refined.name)
    assert added(recorded) == {("70k", 0), ("35k", 1)}
    runs = table(refined.store, recorded)
    assert len(runs) == 10
    assert set(runs["status"]) == {"finished"}
    study = fit_study(runs, FitSettings(approaches=("parabola",)))
    assert {("70k", 0), ("35k", 1)} <= set(study.points.frame.select("size", "seed").iter_rows())


def test_the_same_command_goes_on_and_keeps_them(refined: PlantedSweep):
    again = plan(load_spec("cpu", GRID), SNAPSHOT)
    assert not cells_leaving(refined.store, again)
    before = load_sweep(refined.store, refined.name)
    record_revision(refined.store, again, SNAPSHOT)
    after = load_sweep(refined.store, refined.name)
    assert {cell.cell_id for cell in after.cells} == {cell.cell_id for cell in before.cells}


def test_status_counts_them(refined: PlantedSweep):
    status = CliRunner().invoke(app, ["status", "--json", "--results", str(refined.store.root)])
    assert status.exit_code == 0, status.output
    cells = json.loads(status.stdout)["data"]["runs"]
    assert {(cell["size"], cell["seed"]) for cell in cells} >= {("70k", 0), ("35k", 1)}
    assert len(cells) == 10

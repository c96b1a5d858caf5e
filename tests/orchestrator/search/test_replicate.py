"""`isoflop --replicate-near-optimum`: its plan on a planted law, and the verb on real small models, in one process."""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.isoflop.approach import curve_of
from analysis.statistics.answers import Estimate
from analysis.statistics.quadratic import Axis, least_squares, pool_noise
from mor_core.data.prepare import prepare
from mor_core.data.snapshot import DataSnapshot
from orchestrator.cli.main import app
from orchestrator.planning.plan import Plan
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec
from orchestrator.records.revisions import load_sweep, record_revision
from orchestrator.records.table import table
from orchestrator.search.replicate import replicate_plan
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import PlantedSweep, overrides
from tests.helpers.toy_sweep import ToySweep

SMALL = ("--only", "vanilla", "--budgets", "6e8", "--replicate-near-optimum", "2")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A sweep of one seed whose training is a planted law."""

    sweep: PlantedSweep
    spec: SweepSpec
    data: DataSnapshot

    @property
    def runs(self) -> pl.DataFrame:
        return table(self.sweep.store, load_sweep(self.sweep.store, self.sweep.name))

    @property
    def study(self) -> Study:
        return fit_study(self.runs, FitSettings(approaches=("parabola",)))

    def noise_dof(self) -> float:
        """Degrees of freedom of the pooled noise of vanilla's parabolas."""
        frame = self.study.points.frame.filter(pl.col("arm") == "vanilla")
        curves = [curve_of(frame.filter(pl.col("budget") == budget), Axis.PARAMS) for budget in set(frame["budget"])]
        return pool_noise([least_squares(curve) for curve in curves]).dof

    def train(self, planned: Plan) -> None:
        record_revision(self.sweep.store, planned, self.data)
        self.sweep.publish(planned)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """With words enough for the validation sequences of the CPU preset."""
    monkeypatch.setenv("MOR_SWEEP_CACHE", str(tmp_path / "cache"))
    generator = random.Random(0)
    documents = [
        " ".join(f"{generator.choice('abcdefgh')}{generator.randrange(10**5)}" for _ in range(250)) for _ in range(1800)
    ]
    text = tmp_path / "words.jsonl"
    text.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    sweep = PlantedSweep(store=Store(root=tmp_path / "results"))
    grid = overrides(
        budgets=["8e10", "1.6e11", "3.2e11"],
        sizes={"names": ["13k", "23k", "35k", "51k", "70k"]},
        data__corpus=str(text),
        seeds=[0],
        name=sweep.name,
    )
    spec = load_spec("cpu", grid)
    data = prepare(spec.data_spec)
    sweep.publish(sweep.plan(data, grid))
    return Planted(sweep=sweep, spec=spec, data=data)


@pytest.mark.slow
def test_replicates_are_more_seeds_of_the_sizes_nearest_each_minimum_and_the_same_when_asked_again(planted: Planted):
    before = load_sweep(planted.sweep.store, "planted")
    more = replicate_plan(planted.spec, planted.data, planted.runs, 2)
    assert more is not None
    assert {cell.seed for cell in more.cells} == {1, 2}
    for frontier in planted.study.frontiers:
        for optimum in frontier.optima:
            tried = {cell.size: cell.unique_params for cell in before.cells if cell.arm == frontier.arm}
            again = {cell.size for cell in more.cells if (cell.arm, str(cell.budget)) == (frontier.arm, optimum.budget)}
            assert len(again) == 3
            if isinstance(optimum.params, Estimate):
                best = optimum.params.value
                nearest = sorted(tried, key=lambda size: abs(math.log(tried[size] / best)))
                assert again == set(nearest[:3])
    dof_before = planted.noise_dof()
    planted.train(more)
    after = load_sweep(planted.sweep.store, "planted")
    assert len(after.cells) == len(before.cells) + len(more.cells)
    assert replicate_plan(planted.spec, planted.data, planted.runs, 2) == more
    assert planted.noise_dof() >= dof_before + len(more.cells) / 2, "seed noise is pooled over the budgets of an arm"


def test_replicates_and_a_limit_of_cells_are_refused_together(tmp_path: Path):
    command = ["isoflop", "--preset", "cpu", "--results", str(tmp_path), "--replicate-near-optimum", "1"]
    asked = CliRunner().invoke(app, [*command, "--max-cells", "3"])
    assert asked.exit_code == 2
    assert "--max-cells" in asked.output
    assert not (tmp_path / "sweeps").exists()


@pytest.mark.slow
def test_replicates_join_the_sweep_after_its_planned_cells_and_are_trained_once(toy: ToySweep):
    done = toy.run(*SMALL)
    assert done.returncode == 0, done.stderr
    assert "replicates: 4 cells" in done.stderr
    runs = toy.science()
    assert runs.select("size", "seed").sort("size", "seed").rows() == [
        (size, seed) for size in ("13k", "23k") for seed in range(3)
    ]
    assert set(runs["status"]) == {"finished"}
    before = toy.published()
    assert toy.run(*SMALL).returncode == 0
    assert toy.published() == before

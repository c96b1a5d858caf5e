"""Rounds of a sweep that refines itself, on a planted law: it ends where it should, and spends less than a grid."""

import json
import math
import random
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize_scalar
from typer.testing import CliRunner

from analysis.frontier.study import FitSettings, fit_study
from analysis.isoflop.approach import curve_of
from analysis.statistics.answers import Estimate
from analysis.statistics.quadratic import Axis, least_squares, pool_noise
from mor_core.data.prepare import prepare
from mor_core.data.snapshot import DataSnapshot
from orchestrator.cli.main import app
from orchestrator.planning.plan import Plan, flops_by_segment
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec
from orchestrator.records.revisions import load_sweep, record_revision
from orchestrator.records.table import table
from orchestrator.search.refine import Goal, Machine, Refined, refine, unsettled
from orchestrator.search.replicate import replicate_plan
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import PlantedSweep, overrides

SIZES = ["13k", "23k", "35k", "51k", "70k"]
BUDGETS = ["8e10", "1.6e11", "3.2e11"]
MACHINE = Machine(workers=2, devices_per_segment=1.0, hours_unit="core-hours")
TARGET = 1.2


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough words for the validation sequences of the CPU preset."""
    generator = random.Random(0)
    documents = [
        " ".join(f"{generator.choice('abcdefgh')}{generator.randrange(10**5)}" for _ in range(250)) for _ in range(1800)
    ]
    path = tmp_path_factory.mktemp("text") / "words.jsonl"
    path.write_text("\n".join(json.dumps({"text": document}) for document in documents))
    return path


class Planted:
    """A sweep whose training is a planted law."""

    def __init__(self, folder: Path, text: Path) -> None:
        self.text = text
        self.sweep = PlantedSweep(store=Store(root=folder))
        self.flops = 0.0

    def grid(self, **changes: object) -> DataSnapshot:
        asked = overrides(budgets=BUDGETS, sizes={"names": SIZES}, data__corpus=str(self.text)) + overrides(**changes)
        data = prepare(load_spec("cpu", asked).data_spec)
        self.publish(self.sweep.plan(data, asked))
        return data

    @property
    def spec(self) -> SweepSpec:
        asked = overrides(budgets=BUDGETS, sizes={"names": SIZES}, data__corpus=str(self.text), name=self.sweep.name)
        asked += overrides(seeds=[0])
        return load_spec("cpu", asked)

    def publish(self, planned: Plan) -> None:
        costs = flops_by_segment(planned.segments)
        self.flops += sum(costs[each.id] for each in planned.segments if not self.sweep.store.is_done(each.id))
        self.sweep.publish(planned)

    def refine(self, data: DataSnapshot, hours: float) -> Refined:
        def train(planned: Plan) -> int:
            record_revision(self.sweep.store, planned, data)
            self.publish(planned)
            return 0

        return refine(
            self.sweep.store,
            self.spec,
            data,
            Goal(target=TARGET, max_hours=hours),
            MACHINE,
            before=0.0,
            train=train,
            report=lambda line: None,
        )

    @property
    def study(self):
        runs = table(self.sweep.store, load_sweep(self.sweep.store, self.sweep.name))
        return fit_study(runs, FitSettings(approaches=("parabola",)))

    @property
    def widths(self) -> list[float]:
        """ln of the factor either way of every N*; where there is none, as wide as the sizes of the whole ladder."""
        return [
            math.log(each.params.high / each.params.low) / 2 if isinstance(each.params, Estimate) else math.log(50)
            for frontier in self.study.frontiers
            for each in frontier.optima
        ]


@pytest.fixture
def planted(tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory) -> Planted:
    monkeypatch.setenv("MOR_SWEEP_CACHE", str(text.parent / "cache"))
    return Planted(tmp_path / "results", text)


@pytest.mark.slow
def test_rounds_go_on_until_every_minimum_is_known_as_well_as_asked(planted: Planted):
    data = planted.grid()
    assert unsettled(planted.study, TARGET), "a grid that settles everything leaves nothing to refine"
    found = planted.refine(data, hours=1e6)
    assert found.unsettled == ()
    assert found.rounds >= 1
    assert unsettled(planted.study, TARGET) == []
    again = planted.refine(data, hours=1e6)
    assert (again.rounds, again.cells) == (0, 0)


@pytest.mark.slow
def test_it_knows_more_than_a_grid_of_equal_cost(planted: Planted, text: Path, tmp_path: Path):
    data = planted.grid()
    planted.refine(data, hours=1e6)
    # The grid spends as much or more on the same sizes again, seed by seed.
    grid = Planted(tmp_path / "grid", text)
    seeds = [0]
    grid.grid(seeds=seeds)
    while grid.flops < planted.flops:
        seeds.append(len(seeds))
        grid.grid(seeds=seeds)
    assert np.mean(planted.widths) < np.mean(grid.widths)
    assert max(planted.widths) <= math.log(TARGET) + 1e-9 < max(grid.widths)


def test_it_stops_where_the_hours_are_spent_and_says_what_is_open(planted: Planted):
    data = planted.grid()
    found = planted.refine(data, hours=0.0)
    assert (found.rounds, found.cells) == (0, 0)
    assert "core-hours" in found.reason
    assert {each.arm for each in found.unsettled} <= {"vanilla", "mor-2"}
    assert all(each.why for each in found.unsettled)


@pytest.mark.slow
def test_a_round_that_fails_ends_it_with_its_code(planted: Planted):
    data = planted.grid()
    found = refine(
        planted.sweep.store,
        planted.spec,
        data,
        Goal(target=TARGET, max_hours=1e6),
        MACHINE,
        before=0.0,
        train=lambda _: 3,
        report=lambda line: None,
    )
    assert (found.code, found.rounds) == (3, 1)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--refine"], "--max-gpu-hours"),
        (["--refine", "--max-gpu-hours", "1", "--target-ci", "1.0"], "a factor above 1"),
    ],
)
def test_flags_that_cannot_mean_anything_are_refused(flags: list[str], said: str, tmp_path: Path):
    asked = CliRunner().invoke(app, ["isoflop", "--preset", "cpu", "--results", str(tmp_path), *flags])
    assert asked.exit_code == 2
    assert said in asked.output


def test_the_planted_optimum_lies_where_the_refined_sweep_says(planted: Planted):
    data = planted.grid()
    planted.refine(data, hours=1e6)
    law = planted.sweep.law
    frontier = next(each for each in planted.study.frontiers if each.arm == "vanilla")
    runs = table(planted.sweep.store, load_sweep(planted.sweep.store, planted.sweep.name)).to_dicts()
    held = 0
    for optimum in frontier.optima:
        own = [row for row in runs if row["arm"] == "vanilla" and row["budget"] == optimum.budget]
        # Tokens of a budget against N are a smooth line through those of the cells.
        log_n = np.log([row["unique_params"] for row in own])
        line = np.polyfit(log_n, np.log([row["tokens"] for row in own]), 2)

        def loss(at: float, line=line) -> float:
            params, tokens = math.exp(at), math.exp(np.polyval(line, at))
            return law.params_scale / params**law.power + law.tokens_scale / tokens**law.power

        best = math.exp(minimize_scalar(loss, bounds=(log_n.min(), log_n.max()), method="bounded").x)
        assert isinstance(optimum.params, Estimate)
        held += optimum.params.low <= best * 1.05 and best / 1.05 <= optimum.params.high
    assert held >= 2


@pytest.mark.slow
def test_replicates_are_more_seeds_of_the_sizes_nearest_each_minimum_and_the_same_when_asked_again(planted: Planted):
    data = planted.grid()
    before = load_sweep(planted.sweep.store, "planted")
    more = replicate_plan(planted.spec, data, table(planted.sweep.store, before), 2)
    assert more is not None
    assert {cell.seed for cell in more.cells} == {1, 2}
    for frontier in planted.study.frontiers:
        for optimum in frontier.optima:
            tried = {cell.size: cell.unique_params for cell in before.cells if cell.arm == frontier.arm}
            again = {cell.size for cell in more.cells if (cell.arm, str(cell.budget)) == (frontier.arm, optimum.budget)}
            assert len(again) == 3
            if isinstance(optimum.params, Estimate):
                nearest = sorted(tried, key=lambda size: abs(math.log(tried[size] / optimum.params.value)))
                assert again == set(nearest[:3])
    dof = [noise_dof(planted)]
    record_revision(planted.sweep.store, more, data)
    planted.publish(more)
    after = load_sweep(planted.sweep.store, "planted")
    assert len(after.cells) == len(before.cells) + len(more.cells)
    assert replicate_plan(planted.spec, data, table(planted.sweep.store, after), 2) == more
    dof.append(noise_dof(planted))
    assert dof[1] >= dof[0] + len(more.cells) / 2, "the variance of seeds is pooled over the budgets of an arm"


def noise_dof(planted: Planted) -> float:
    """Degrees of freedom of the pooled noise of vanilla's parabolas."""
    frame = planted.study.points.frame.filter(pl.col("arm") == "vanilla")
    curves = [curve_of(frame.filter(pl.col("budget") == budget), Axis.PARAMS) for budget in frame["budget"].unique()]
    return pool_noise([least_squares(curve) for curve in curves]).dof


def test_replicates_and_a_limit_of_cells_are_refused_together(tmp_path: Path):
    command = ["isoflop", "--preset", "cpu", "--results", str(tmp_path), "--replicate-near-optimum", "1"]
    asked = CliRunner().invoke(app, [*command, "--max-cells", "3"])
    assert asked.exit_code == 2
    assert "--max-cells" in asked.output
    assert not (tmp_path / "sweeps").exists()

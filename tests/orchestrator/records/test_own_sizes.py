"""Sweeps of a user's own model whose sizes change from plan to plan, and the size that is named for a predicted N*."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from examples.ngram_mlp import ngram
from mor_core.flops import unique_params
from orchestrator.cli.main import app
from orchestrator.planning.own_models.questions import remembered_ladder
from orchestrator.planning.plan import Plan
from orchestrator.records.fits.fitted import fit_of_sweep
from orchestrator.records.revisions import cells_leaving, load_sweep, recorded_settings_id
from orchestrator.records.table import write_tables
from orchestrator.store.store import Store
from tests.helpers.own_answers import asked_here, forget
from tests.helpers.paths import ROOT
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

MODEL = "examples.ngram_mlp:ngram"
SWEEP = f"""
base = "{ROOT / "tests/fixtures/eight.toml"}"
budgets = ["4e9", "8e9", "1.6e10"]
model.vocab_size = 512
arms.architectures = []

[arms.ngram]
model = "{MODEL}"
"""
TRIED = ["w8", "w12", "w16", "w24"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A results folder with a sweep of the n-gram, whose losses are planted."""

    sweep_file: Path
    """Names the model and no size."""
    sweep: PlantedSweep
    """Trained by nobody."""
    patch: pytest.MonkeyPatch
    """Under which answers of the model's object are remembered in a cache of its own."""

    def train(self, sizes: list[str]) -> Plan:
        """Record a plan of some sizes, and publish what it lacks."""
        planned = self.sweep.plan(SNAPSHOT, overrides(arms__ngram__sizes=sizes), str(self.sweep_file))
        self.sweep.publish(planned)
        return planned

    def call(self, *words: str, exit_code: int = 0) -> str:
        """What a command prints to stdout."""
        done = CliRunner().invoke(app, [*words, "--results", str(self.sweep.store.root)])
        assert done.exit_code == exit_code, done.output
        return done.stdout

    def data(self, *words: str) -> dict[str, Any]:
        """What a command says as JSON."""
        return json.loads(self.call(*words, "--json"))["data"]


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Study]:
    (tmp_path / "sweep.toml").write_text(SWEEP)
    with asked_here(tmp_path / "cache") as patch:
        sweep = PlantedSweep(store=Store(root=tmp_path / "results"))
        yield Study(sweep_file=tmp_path / "sweep.toml", sweep=sweep, patch=patch)


def sizes_of(rows: Any) -> set[str]:
    return {row["size"] for row in rows}


def check_nothing_left(study: Study, second: Plan) -> None:
    """Cells of both plans are in everything that reads the sweep."""
    store, both = study.sweep.store, {*TRIED, "w6", "w32"}
    assert cells_leaving(store, second) == ()
    sweep = load_sweep(store, "planted")
    assert {cell.size for cell in sweep.cells} == both
    assert (sweep.left_out, sweep.revisions) == (0, 2)
    status = study.data("status")
    assert sizes_of(status["runs"]) == both
    assert {row["status"] for row in status["runs"]} == {"finished"}
    assert status["num_under_other_settings"] == 0
    assert set(write_tables(store, "planted")["size"]) == both
    fitted = fit_of_sweep(store, "planted", "loss").study.points.of_arm("ngram")
    assert fitted.height == len(both) * 3, "the points of three budgets"


def test_cells_of_earlier_sizes_stay_in_status_table_and_fit(study: Study) -> None:
    study.train(TRIED)
    second = study.train(["w6", "w24", "w32"])
    check_nothing_left(study, second)


def test_a_sweep_whose_id_counted_its_sizes_keeps_that_id_and_its_cells(study: Study) -> None:
    first = study.train(TRIED)
    path = study.sweep.store.sweep_folder("planted") / "sweep.json"
    document = json.loads(path.read_text())
    former = first.settings_id_with({"ngram": TRIED})
    document["revisions"][0]["settings_id"] = former
    path.write_text(json.dumps(document))
    assert cells_leaving(study.sweep.store, first) == ()
    second = study.train(["w6", "w24", "w32"])
    check_nothing_left(study, second)
    assert load_sweep(study.sweep.store, "planted").settings_id == former
    assert recorded_settings_id(study.sweep.store, "planted", second) == former
    assert study.train(["w6", "w24", "w32"]).settings_id == second.settings_id
    assert load_sweep(study.sweep.store, "planted").revisions == 2, "the same plan is no other revision"


def test_predict_names_the_nearest_size_of_the_whole_ladder_and_runs_no_code(study: Study) -> None:
    study.train(TRIED)
    ladder = remembered_ladder(MODEL, 512, 32)
    assert ladder is not None
    assert {model.size for model in ladder.models} == set(ngram.sizes)
    forget(study.patch)
    named = set()
    for budget in ("4e9", "6.4e10"):
        answers = [answer for answer in study.data("predict", "--budget", budget)["answers"] if not answer["refused"]]
        assert answers
        for answer in answers:
            shape, optimum = answer["nearest_shape"], answer["params"]["value"]
            nearest = min(ladder.models, key=lambda model: abs(math.log(unique_params(model) / optimum)))
            assert (shape["size"], shape["unique_params"]) == (nearest.size, nearest.unique_params)
            assert shape["of_optimum"] == pytest.approx(nearest.unique_params / optimum)
            flops = nearest.training_flops / nearest.context_length * shape["tokens"]
            assert flops == pytest.approx(float(budget)), "the budget buys that many tokens"
            assert (shape["num_layers"], shape["d_model"]) == (None, None)
            assert bool(shape["note"]) == (optimum > unique_params(ladder.models[-1])), "a note where the ladder ends"
            named.add(shape["size"])
    assert len(named) > 1
    assert "w32" in named, "no cell of it is trained, and the ladder has it"
    assert re.search(
        r"  nearest size: w32 \(N \d\.\d\d of N\*\), which the budget trains on [\d.]+k tokens\n",
        study.call("predict", "--budget", "6.4e10"),
    )


def test_predict_says_where_the_ladder_ends(study: Study) -> None:
    study.train(TRIED)
    said = study.call("predict", "--budget", "3.2e11")
    assert "nearest size: w32 (N 0." in said
    assert f"; the largest of {MODEL}: add larger ones to its sizes" in said


def test_where_no_ladder_is_remembered_the_nearest_of_the_sizes_tried_is_named(study: Study, tmp_path: Path) -> None:
    study.train(TRIED)
    forget(study.patch)
    study.patch.setenv("MOR_SWEEP_CACHE", str(tmp_path / "another machine"))
    for answer in study.data("predict", "--budget", "3.2e10")["answers"]:
        assert answer["nearest_shape"]["size"] == "w24", "the largest tried"
        assert (
            "of the sizes tried: the whole ladder of examples.ngram_mlp:ngram is not known here"
            in (answer["nearest_shape"]["note"])
        )


def test_a_forecast_of_an_own_model_has_a_size_and_is_read_again(study: Study) -> None:
    study.train(TRIED)
    frozen = study.data("forecast", "--budget", "3.2e10")
    shapes = [forecast["shape"] for forecast in frozen["forecasts"] if forecast["shape"]]
    assert shapes
    assert sizes_of(shapes) <= set(ngram.sizes)
    assert {(shape["num_layers"], shape["d_model"]) for shape in shapes} == {(None, None)}
    assert "--only ngram --sizes w" in frozen["commands"]["ngram"]
    assert len(study.data("forecast", "--score")["forecasts"]) == len(frozen["forecasts"])

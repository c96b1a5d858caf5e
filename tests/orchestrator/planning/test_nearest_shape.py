import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from mor_core.config.sizes import PAPER_SIZES, SHALLOW_LADDER, model_config
from mor_core.flops import unique_params
from orchestrator.cli.main import app
from orchestrator.planning.cells import Cell
from orchestrator.planning.ladder import ladder_of, nearest_shape
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides

BUDGETS = ["8e10", "1.6e11", "3.2e11"]


@pytest.fixture(scope="module")
def cells() -> list[Cell]:
    return list(plan(load_spec("cpu", []), SNAPSHOT).cells)


def test_a_trained_size_is_the_nearest_to_its_own_parameters_and_trains_on_its_own_tokens(cells: list[Cell]) -> None:
    for cell in cells:
        found = nearest_shape(cell.size, cell.model, cell.budget_convention, cell.unique_params, cell.budget)
        assert (found.size, found.unique_params, found.of_optimum) == (cell.size, cell.unique_params, 1)
        assert found.tokens == pytest.approx(cell.tokens, abs=cell.tokens_per_step)


@given(exponent=st.floats(2, 12), place=st.integers(0, 35))
def test_no_other_shape_is_nearer(cells: list[Cell], exponent: float, place: int) -> None:
    cell, params = cells[place], 10**exponent
    model = cell.model
    shapes = [
        model_config(size, vocab_size=512, context_length=64, recursion=model.recursion, routing=model.routing)
        for size in (*SHALLOW_LADDER, *PAPER_SIZES)
    ]
    distance = abs(math.log(nearest_shape(cell.size, model, cell.budget_convention, params, 10**15).of_optimum))
    assert distance == pytest.approx(min(abs(math.log(unique_params(shape) / params)) for shape in shapes), abs=1e-9)


def test_a_ladder_is_known_by_all_of_its_sizes_together() -> None:
    assert ladder_of(["457k", "281k-4L"]) == "shallow"
    assert ladder_of(["457k", "275k"]) == "small"
    assert ladder_of(["135M"]) == "paper"
    assert ladder_of(["275k", "281k-4L"]) is None


def test_predict_names_a_shape_of_each_arm_that_can_be_trained(tmp_path) -> None:
    sweep = PlantedSweep(store=Store(root=tmp_path))
    sizes = ["13k", "23k", "35k", "51k", "70k", "115k", "170k"]
    sweep.publish(sweep.plan(SNAPSHOT, overrides(budgets=BUDGETS, sizes={"names": sizes})))
    asked = ["predict", "--budget", "1e12", "--results", str(tmp_path)]
    said = CliRunner().invoke(app, asked)
    assert said.exit_code == 0, said.output
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert (document.keys(), document["schema"]) == ({"schema", "data"}, "mor-sweep.predict/1")
    answers = document["data"]["answers"]
    shapes = [answer["nearest_shape"] for answer in answers if answer["nearest_shape"]]
    assert len(shapes) == sum("value" in answer["params"] for answer in answers) > 1
    for shape in shapes:
        assert 0.5 < shape["of_optimum"] < 2
        assert f"nearest shape: {shape['size']} " in said.stdout
        assert load_spec("cpu", overrides(sizes={"names": [shape["size"]]}))
    assert "distance from the data: 3.12 times the largest budget fitted" in said.stdout

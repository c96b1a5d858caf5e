"""Verbs that need our family say so of a user's own model, and import none of its code."""

from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.inference.evaluations import paired
from orchestrator.inference.throughput import arms_to_measure
from orchestrator.inference.trained_cell import (
    NotTrained,
    cells_of_family,
    export_cell,
    family_model,
    load_trained_cell,
    own_arms,
)
from orchestrator.planning.cells import Cell
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.revisions import Sweep, load_sweep
from orchestrator.store.store import Store
from tests.helpers.own_models import planned_own_model
from tests.helpers.paths import TOY_PRESET
from tests.helpers.runs.planted_sweep import SNAPSHOT, PlantedSweep, overrides


def test_a_verb_for_our_family_names_the_model_and_what_it_is_for(tmp_path: Path) -> None:
    ours = plan(load_spec(str(TOY_PRESET)), None).cells[0]
    own = planned_own_model("no_such_module:ladder", version="1")
    theirs = replace(ours, arm="mine", architecture="own", model=own)
    assert family_model(ours) is ours.model
    for asked in (
        lambda: load_trained_cell(None, None, theirs),  # pyright: ignore[reportArgumentType]
        lambda: export_cell(None, None, theirs, tmp_path),  # pyright: ignore[reportArgumentType]
    ):
        with pytest.raises(NotTrained, match=r"a model of your own \(no_such_module:ladder\): text, tasks"):
            asked()


@pytest.fixture
def mixed(tmp_path: Path) -> tuple[Store, Sweep]:
    """A finished sweep of vanilla, MoR and a user's own model."""
    planted = PlantedSweep(store=Store(root=tmp_path / "results"))
    planted.publish(planted.plan(SNAPSHOT, overrides(), preset="cpu"))
    sweep = load_sweep(planted.store, planted.name)
    return planted.store, replace(sweep, cells=(*map(as_own, sweep.cells[:2]), *sweep.cells))


def as_own(cell: Cell) -> Cell:
    model = planned_own_model("no_such_module:ladder", version="1")
    return replace(cell, arm="mine", architecture="own", size="small", model=model)


def test_speed_is_measured_of_the_arms_of_our_family(mixed: tuple[Store, Sweep]) -> None:
    store, sweep = mixed
    assert own_arms(sweep) == ["mine"]
    assert {cell.arm for cell in cells_of_family(sweep)} == {"vanilla", "mor-2"}
    assert [cell.arm for cell in arms_to_measure(store, sweep, None)] == ["vanilla", "mor-2"]


def test_of_a_sweep_of_own_models_alone_the_sentence_is_that_of_its_cells(mixed: tuple[Store, Sweep]) -> None:
    store, sweep = mixed
    alone = replace(sweep, cells=tuple(cell for cell in sweep.cells if cell.architecture == "own"))
    for asked in (lambda: arms_to_measure(store, alone, None), lambda: paired(store, alone, (), lambda _: {})):
        with pytest.raises(NotTrained, match="speed, depth, routing and export are for vanilla, recursive and mor"):
            asked()

"""A sweep.json that leads nowhere, or in a circle, is one sentence that names the file, whoever reads it."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mor_core.data.snapshot import load_snapshot
from orchestrator.maintenance.gc import find_garbage
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import Override, SpecError
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.revisions import load_sweep, record_revision
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import data_folder, read_document
from tests.helpers.made_up_data import MADE_UP_DATA
from tests.helpers.paths import FIRST_STUDY, SMALL_PRESET
from tests.helpers.toy_sweep import run_here


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """The plans of a study, and nothing that was trained."""
    folder = tmp_path / "results"
    shutil.copytree(FIRST_STUDY / "results/sweeps", folder / "sweeps")
    return folder


Damage = Callable[[dict], object]
DAMAGE: dict[str, Damage] = {}
"""What a test is called -> what it does to a document, changing it or giving another."""


def _damage(function: Damage) -> Damage:
    DAMAGE[function.__name__.strip("_").replace("_", " ")] = function
    return function


def _segments(document: dict) -> list[dict]:
    return document["revisions"][0]["segments"]


def _cells(document: dict) -> list[dict]:
    return document["revisions"][0]["cells"]


for name, value in {"a string": "none", "null": None, "whole numbers": [1, 2], "empty": [], "an object": {}}.items():
    DAMAGE[f"revisions that are {name}"] = lambda document, value=value: document.update(revisions=value)


@_damage
def _no_cells_in_a_revision(document: dict) -> None:
    del document["revisions"][1]["cells"]


@_damage
def _a_segment_that_needs_itself(document: dict) -> None:
    _segments(document)[0]["needs"] = [_segments(document)[0]["id"]]


@_damage
def _segments_that_need_one_another(document: dict) -> None:
    first, second = _segments(document)[:2]
    first["needs"], second["needs"] = [second["id"]], [first["id"]]


@_damage
def _a_need_that_is_not_planned(document: dict) -> None:
    _segments(document)[-1]["needs"] = ["0" * 64]


@_damage
def _a_need_that_leads_out(document: dict) -> None:
    _segments(document)[-1]["needs"] = ["../../../../../etc"]


@_damage
def _needs_that_branch(document: dict) -> None:
    first, second, third = _segments(document)[:3]
    third["needs"] = [second["id"], first["id"]]


@_damage
def _a_segment_id_that_leads_out(document: dict) -> None:
    _segments(document)[0]["id"] = "../../../../../etc"


@_damage
def _a_segment_under_another_id(document: dict) -> None:
    _segments(document)[0]["id"] = "0" * 64


@_damage
def _a_cell_that_nothing_evaluates(document: dict) -> None:
    _cells(document)[0]["evaluate_segment"] = "0" * 64


@_damage
def _a_cell_that_leads_out(document: dict) -> None:
    _cells(document)[0]["evaluate_segment"] = "../../../../../etc"


@_damage
def _a_cell_that_no_evaluation_ends(document: dict) -> None:
    _cells(document)[0]["evaluate_segment"] = _segments(document)[0]["id"]


@_damage
def _a_sweep_file_that_is_no_table(document: dict) -> None:
    document["revisions"][0]["spec"] = ["name"]


@_damage
def _an_arm_that_is_a_list(document: dict) -> None:
    _cells(document)[0]["arm"] = ["mor-4"]


@pytest.mark.parametrize("what", DAMAGE)
def test_plans_that_lead_nowhere_are_one_sentence_for_every_reader(what: str, results: Path) -> None:
    path = results / "sweeps/first/sweep.json"
    document = json.loads(path.read_text())
    DAMAGE[what](document)
    path.write_text(json.dumps(document))
    store = Store(root=results)
    for reader in (load_sweep, data_folder):
        with pytest.raises(StoreError, match=r"sweep\.json.*trained segments are kept") as refused:
            reader(store, "first")
        assert len(str(refused.value).splitlines()) == 1
        assert len(str(refused.value)) < 1000
    with pytest.raises(StoreError):
        find_garbage(store)


@pytest.mark.parametrize(
    "what", ["revisions that are a string", "segments that need one another", "a cell that leads out"]
)
def test_every_verb_ends_with_the_sentence(what: str, results: Path) -> None:
    path = results / "sweeps/first/sweep.json"
    document = json.loads(path.read_text())
    DAMAGE[what](document)
    path.write_text(json.dumps(document))
    for verb in ("status", "fit", "report"):
        done = run_here([verb, "first", "--results", str(results)], dict(os.environ))
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    checked = run_here(["fsck", "--no-mlflow", "--results", str(results)], dict(os.environ))
    assert checked.returncode == 1
    assert f"problem: {path}" in checked.stdout


@pytest.mark.parametrize("revisions", ["none", None, [1, 2]], ids=["a string", "null", "whole numbers"])
def test_a_sweep_that_goes_on_says_so_too_and_leaves_the_file_as_it_is(revisions: object, results: Path) -> None:
    path = results / "sweeps/first/sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revisions": revisions}))
    before = path.read_bytes()
    spec = load_spec(str(SMALL_PRESET), [Override(flag="--name", path=("name",), value="first")])
    with pytest.raises(StoreError, match=r"sweep\.json is damaged \(revision"):
        record_revision(Store(root=results), plan(spec, MADE_UP_DATA), MADE_UP_DATA)
    assert path.read_bytes() == before


def test_a_plan_is_recorded_with_its_sweep_file_and_other_ways_to_execute_it_are_no_new_plan(results: Path) -> None:
    def recorded(**changes: object) -> list[dict]:
        flags = [Override(flag=key, path=tuple(key.split("__")), value=value) for key, value in changes.items()]
        record_revision(Store(root=results), plan(load_spec(str(SMALL_PRESET), flags), MADE_UP_DATA), MADE_UP_DATA)
        (path,) = set(results.glob("sweeps/*/sweep.json")) - {results / "sweeps/first/sweep.json"}
        revisions = json.loads(path.read_text())["revisions"]
        assert load_spec(str(path)).train == load_spec(str(SMALL_PRESET), flags).train
        return revisions

    first = recorded()
    assert first[0]["spec"] == load_spec(str(SMALL_PRESET)).document()
    assert recorded(execution__checkpoint_every_steps=7) == first
    assert len(recorded(seeds=[0, 1])) == 2


def test_a_plan_from_before_sweep_files_were_recorded_is_recorded_once_more(results: Path) -> None:
    store = Store(root=results)
    assert load_sweep(store, "first").spec is None
    spec = load_spec(str(FIRST_STUDY / "sweep.toml"))
    (folder,) = FIRST_STUDY.glob("cache/tokens/*")
    data = load_snapshot(folder)
    before = load_sweep(store, "first")
    after = record_revision(store, plan(spec, data), data)
    assert after.spec == spec.document()
    assert after.settings_id == before.settings_id
    assert {cell.cell_id for cell in before.cells} <= {cell.cell_id for cell in after.cells}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{}", "cannot be read"),
        ('{"revisions": []}', "cannot be read"),
        ('{"revisions": [{"settings_id": "a"}]}', "holds no sweep file"),
        ('{"revisions": [{"settings_id": "a", "spec": "b"}]}', "holds no sweep file"),
        ("[", "cannot be read"),
    ],
)
def test_a_file_that_is_no_recorded_sweep_is_one_sentence(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "sweep.json"
    path.write_text(content)
    with pytest.raises(SpecError, match=words) as refused:
        load_spec(str(path))
    assert len(str(refused.value).splitlines()) == 1


MODELS = {"num_layers": 10**9, "d_model": 10**12, "context_length": 10**12, "vocab_size": 10**12, "num_heads": 10**9}


@pytest.mark.parametrize("field", MODELS)
def test_a_model_beyond_all_bounds_is_refused_with_the_value_and_the_bound(field: str, results: Path) -> None:
    path = results / "sweeps/first/sweep.json"
    document = json.loads(path.read_text())
    _cells(document)[0]["model"][field] = MODELS[field]
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=rf"sweep\.json.*{field} {MODELS[field]}: expected a whole number from 1 to"):
        load_sweep(Store(root=results), "first")


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", 10**30), ("tokens", -1), ("seed", 2**63), ("architecture", "lstm"), ("flops", {"exact": "x"})],
)
def test_a_cell_that_no_table_can_hold_is_refused(field: str, value: object, results: Path) -> None:
    path = results / "sweeps/first/sweep.json"
    document = json.loads(path.read_text())
    _cells(document)[0][field] = value
    path.write_text(json.dumps(document))
    with pytest.raises(StoreError, match=r"sweep\.json is damaged"):
        load_sweep(Store(root=results), "first")


def test_a_document_that_is_nested_too_deeply_is_one_sentence(results: Path) -> None:
    path = results / "sweeps/first/sweep.json"
    path.write_text("[" * 200_000)
    with pytest.raises(StoreError, match=r"sweep\.json cannot be read \(its JSON is nested too deeply\)"):
        read_document(path)

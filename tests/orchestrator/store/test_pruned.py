"""What is planned after gc and needs a state that gc removed: it takes the steps again, says so, and ends the same."""

import json
import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mor_core.config.sizes import SIZES
from mor_core.data.snapshot import DataSnapshot
from orchestrator.cli.main import app, exit_code_of
from orchestrator.maintenance.fsck import check_results
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.published import read_spec
from orchestrator.store.store import Store
from tests.helpers.single_segment import job_for
from tests.helpers.toy_sweep import ToySweep

GRID = ("--sizes", "13k", "--arms", "mor")
FOUR_BUDGETS = ("--budgets", "6e8,1.2e9,1.8e9,2.4e9")


def copy_of(reference: ToySweep, folder: Path) -> ToySweep:
    """The undisturbed toy sweep, in a folder of its own."""
    shutil.copytree(reference.results, folder)
    return ToySweep(results=folder, text=reference.text, cache=reference.cache)


def lose_a_cooldown(toy: ToySweep) -> str:
    """Remove a finished cooldown from a middle budget of the grid's trunk, and its evaluation; its id."""
    specs = {path.parent: json.loads(path.read_text()) for path in toy.results.glob("segments/*/spec.json")}
    decays = [
        (spec["stop_step"], folder)
        for folder, spec in specs.items()
        if spec["kind"] == "decay"
        and spec["trunk"]["model"]["routing"]
        and spec["trunk"]["model"]["d_model"] == SIZES["13k"].d_model
    ]
    assert len(decays) == 3
    decay = sorted(decays)[1][1]
    for folder in [decay, *(folder for folder, spec in specs.items() if spec["needs"] == [decay.name])]:
        shutil.rmtree(folder)
    return decay.name


@pytest.mark.slow
def test_what_branches_from_a_pruned_state_takes_its_trunk_again_and_ends_with_the_same_bits(
    reference: ToySweep, tmp_path: Path
):
    """A budget between those planned, and a cooldown that was lost, after gc and without it."""
    whole, pruned = copy_of(reference, tmp_path / "whole"), copy_of(reference, tmp_path / "pruned")
    assert CliRunner().invoke(app, ["gc", "--yes", "--results", str(pruned.results)]).exit_code == 0
    lost = {lose_a_cooldown(toy) for toy in (whole, pruned)}.pop()
    store = Store(root=pruned.results)
    report = check_results(store, ask_mlflow=False)
    assert [line for line in (each.line() for each in report.findings) if "was pruned, and a planned decay" in line]
    told = {toy.results.name: toy.run(*GRID, *FOUR_BUDGETS) for toy in (whole, pruned)}
    assert [done.returncode for done in told.values()] == [0, 0], told
    assert "gc pruned" not in told["whole"].stderr
    said = re.search(
        r"note: 2 of them start from states that gc pruned, and take at most (\d+) steps", told["pruned"].stderr
    )
    assert said
    assert pruned.science().equals(whole.science())
    weights = whole.weights()
    assert pruned.weights() == {name: weights[name] for name in pruned.weights()}
    again, once = (Store(root=toy.results).result(lost) for toy in (pruned, whole))
    assert again
    assert once
    taken = again.steps_executed - once.steps_executed
    assert taken > 0, "the stretch of the trunk that leads to it"
    assert any(f"{taken} steps after step" in line and "gc had pruned" in line for line in again.notes)
    assert once.notes == ()
    assert int(said[1]) >= taken
    assert check_results(store, ask_mlflow=False).problems == ()


def test_weights_that_gc_was_asked_to_remove_are_named_when_they_are_to_be_measured(
    reference: ToySweep, tmp_path: Path, data: DataSnapshot
):
    toy = copy_of(reference, tmp_path / "results")
    store = Store(root=toy.results)
    assert CliRunner().invoke(app, ["gc", "--weights", "--yes", "--results", str(toy.results)]).exit_code == 0
    specs = [read_spec(path) for path in toy.results.glob("segments/*/spec.json")]
    evaluation = next(each for each in specs if each.kind == "evaluate")
    shutil.rmtree(store.segment_folder(evaluation.id))
    outcome = run_segment(evaluation, job_for(store.root, data))
    assert outcome.failure is FailureClass.store
    assert "gc removed the weights that are to be measured" in outcome.reason
    assert f"move {store.segment_folder(evaluation.needs[0])} away" in outcome.reason


@pytest.mark.parametrize("verb", ["fsck", "gc"])
def test_a_folder_that_does_not_exist_is_said_in_a_sentence(tmp_path: Path, verb: str):
    done = CliRunner().invoke(app, [verb, "--results", str(tmp_path / "nowhere")])
    assert str(done.exception) == (
        f"results: there is no folder {tmp_path / 'nowhere'}: name the folder that a sweep was run in"
    )
    assert exit_code_of(done.exception) == 2
    assert not (tmp_path / "nowhere").exists()

"""F19, F20 and F28: a trunk that fails, settings and data that change, a fit of half a sweep."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mor_core.training.rehearsal import VARIABLE
from orchestrator.cli.main import app
from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import ToySweep

ONE_TRUNK = ("--sizes", "13k", "--arms", "vanilla")


def copy_of(reference: ToySweep, folder: Path) -> ToySweep:
    """The undisturbed toy sweep, in a folder of its own."""
    shutil.copytree(reference.results, folder)
    return replace(reference, results=folder, variables={})


@pytest.mark.slow
@pytest.mark.faults("F19", invariants=("I1", "I4"))
def test_where_a_trunk_fails_its_branches_wait_and_the_same_command_runs_them_and_counts_it_once(
    toy: ToySweep, reference: ToySweep, figures
):
    stretches = stable_stretches(reference)
    middle = sorted(stretches)[1]
    toy.variables[VARIABLE] = f"raise segment={stretches[middle]}"
    done = toy.run(*ONE_TRUNK)
    assert done.returncode == 3
    assert "1 of 3 cells finished" in done.stderr
    assert done.stderr.count("blocked, parent failed: error: RuntimeError: a defect was rehearsed") == 2
    assert len(toy.published()) == 3, "the first stretch, its cooldown and evaluation"
    del toy.variables[VARIABLE]
    assert toy.run(*ONE_TRUNK).returncode == 0
    weights = reference.weights()
    assert toy.weights() == {name: weights[name] for name in toy.weights()}
    results = [json.loads(toy.published()[name]) for name in stretches.values()]
    assert sum(result["steps_executed"] for result in results) == max(stretches)
    figures("F19", f"2 of 3 branches blocked, then run; {max(stretches)} steps of the trunk taken once")


def stable_stretches(reference: ToySweep) -> dict[int, str]:
    """Last step -> id of the stable segments of the vanilla 13k trunk."""
    sweep = load_sweep(Store(root=reference.results), "toy")
    cells = [cell for cell in sweep.cells if (cell.arm, cell.size) == ("vanilla", "13k")]
    chains = [segment for cell in cells for segment in sweep.chain(cell)]
    return {segment.stop_step: segment.id for segment in chains if segment.kind == "stable"}


@pytest.mark.faults("F20", invariants=("I2",))
@pytest.mark.parametrize(
    "change", ["seed", *(pytest.param(change, marks=pytest.mark.slow) for change in ("data file", "tokenizer"))]
)
def test_what_was_changed_is_new_work_and_what_was_there_stays(
    reference: ToySweep, tmp_path: Path, figures, change: str
):
    """Another learning rate is a test of its own."""
    other = copy_of(reference, tmp_path / "results")
    flags = [*ONE_TRUNK, "--budgets", "6e8"]
    if change == "seed":
        flags += ["--seeds", "7"]
    elif change == "data file":
        other = replace(other, text=tmp_path / "toy.jsonl")
        other.text.write_text("".join(reference.text.read_text().splitlines(keepends=True)[:-1]))
    else:
        smaller = tmp_path / "smaller.toml"
        smaller.write_text(TOY_PRESET.read_text().replace("vocab_size = 300", "vocab_size = 290"))
        flags += ["--preset", str(smaller)]
    before, tables = other.published(), reference.science()
    done = other.run(*flags)
    assert done.returncode == 0, done.stderr
    after = other.published()
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3
    new = other.science().filter(~other.science()["cell_id"].is_in(tables["cell_id"].to_list()))
    assert new.height == 1
    if change == "seed":
        assert other.science().height == tables.height + 1, "a seed more is a cell more"
    else:
        assert other.science().height == 1, "nothing is mixed"
        assert "12 cells that sweep toy had under other settings are left out" in done.stderr
    if change == "data file":
        assert f"the data of {other.text}" in done.stderr
    figures("F20", f"another {change}: 3 new segments, the {len(before)} there unchanged")


@pytest.mark.faults("F28", invariants=("I9",))
def test_a_fit_of_five_of_twelve_cells_exits_5_and_prints_no_number(reference: ToySweep, tmp_path: Path, figures):
    half = copy_of(reference, tmp_path / "results")
    sweep = load_sweep(Store(root=half.results), "toy")
    for cell in sweep.cells[5:]:
        shutil.rmtree(half.results / "segments" / str(cell.evaluate_segment))
    done = CliRunner().invoke(app, ["fit", "--results", str(half.results)])
    assert done.exit_code == 5, done.output
    assert "**No number is supported by these runs.**" in done.output
    rows = [
        line.split("|")[2:5] for line in done.output.splitlines() if line.startswith(("| 6e8", "| 1.2e9", "| 2.4e9"))
    ]
    assert len(rows) == 12, "3 budgets, 2 arms, 2 fits"
    assert all("refused" in value for row in rows for value in row)
    assert "5 points, 7 rows left out" in done.output
    assert done.output.count("seed 0: pending") == 7
    figures("F28", "5 of 12 cells: exit code 5, every number refused, 7 rows left out by name")

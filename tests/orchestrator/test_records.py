"""The run table: explained, typed, and made from the store alone."""

import dataclasses
import re
import shutil
from pathlib import Path

import polars as pl
from toy_sweep import SCIENCE, ToySweep

from orchestrator.records import RunRecord, SegmentRecord, curve, segment_table, table
from orchestrator.revisions import load_sweep
from orchestrator.store import Store

EXPLANATION = Path(__file__).parents[2] / "results" / "README.md"


def test_every_column_is_explained_in_the_results_readme_and_no_other():
    text = EXPLANATION.read_text()
    rows = re.findall(r"^\| (`[^|]*`) \| (?:yes)? *\|", text.partition("## The run table")[2], re.MULTILINE)
    explained = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert explained == [field.name for field in dataclasses.fields(RunRecord)]
    for field in dataclasses.fields(SegmentRecord):
        assert f"`{field.name}`" in text.partition("## What each segment took")[2]


def test_the_columns_that_the_tests_compare_are_those_marked_science():
    text = EXPLANATION.read_text()
    marked = re.findall(r"^\| (`[^|]*`) \| yes", text, re.MULTILINE)
    science = {name for row in marked for name in re.findall(r"`(\w+)`", row)}
    assert science == set(SCIENCE)


def test_a_curve_holds_every_logged_step_once_from_the_first_to_the_last(reference: ToySweep):
    store = Store(root=reference.results)
    sweep = load_sweep(store, "toy")
    for cell in sweep.cells:
        rows = curve(store, sweep, cell)
        steps = [row["step"] for row in rows]
        assert steps == sorted(set(steps))
        assert steps[0] == 1
        assert steps[-1] == cell.steps
        assert set(range(10, cell.steps, 10)) <= set(steps)
        assert rows[0]["loss"] > rows[-1]["loss"]
        assert rows[-1]["tokens"] == cell.tokens


def test_each_shared_segment_is_counted_once(reference: ToySweep):
    store = Store(root=reference.results)
    sweep = load_sweep(store, "toy")
    segments = segment_table(store, sweep)
    assert segments["segment_id"].n_unique() == segments.height == 4 * 3 * 3
    trained = segments["steps_executed"].sum()
    longest = {cell.trunk_id: 0 for cell in sweep.cells}
    for cell in sweep.cells:
        longest[cell.trunk_id] = max(longest[cell.trunk_id], cell.decay_start)
    assert trained == sum(longest.values()) + sum(cell.decay_steps for cell in sweep.cells)


def test_a_sweep_without_results_has_the_same_columns_and_every_cell_pending(reference: ToySweep, tmp_path: Path):
    shutil.copytree(reference.results / "sweeps", tmp_path / "sweeps")
    store = Store(root=tmp_path)
    empty = table(store, load_sweep(store, "toy"))
    full = pl.read_parquet(reference.results / "sweeps/toy/runs.parquet")
    assert empty.schema == full.schema
    assert empty["status"].unique().to_list() == ["pending"]

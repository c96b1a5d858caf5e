"""The run table: explained, typed, and made from the store alone."""

import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from mor_core.flops import training_cost
from orchestrator.planning.canonical import OtherVersion
from orchestrator.records.curves import curve
from orchestrator.records.revisions import Sweep, load_sweep
from orchestrator.records.table import RunRecord, SegmentRecord, segment_table, table, write_tables
from orchestrator.running.run import write_own_tables
from orchestrator.store.published import StoreError
from orchestrator.store.store import Store
from tests.helpers.paths import ROOT, TOY_PRESET
from tests.helpers.toy_sweep import SCIENCE, ToySweep, rewrite_result, run_here

EXPLANATION = ROOT / "results" / "README.md"


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


def test_a_routed_cell_says_how_it_routed_and_how_deep_its_tokens_went(reference: ToySweep):
    runs = pl.read_parquet(reference.results / "sweeps/toy/runs.parquet")
    for row in runs.iter_rows(named=True):
        routed = row["architecture"] == "mor"
        assert row["routing"] == ("expert linear sigmoid" if routed else "")
        assert (row["sharing"], row["kv"]) == (("middle-cycle", "recursion-wise") if routed else ("", ""))
        assert (row["loss_half"] is not None) == (row["realised_capacity_half"] is not None) == routed
        shares, capacity = json.loads(row["depth_histogram"]), json.loads(row["realised_capacity"])
        assert len(shares) == len(capacity) == row["recursions"]
        assert sum(shares) == pytest.approx(1)
        assert sum(share * depth for depth, share in enumerate(shares, start=1)) == pytest.approx(row["depth_mean"])
        assert capacity[-1] == row["last_capacity"] == pytest.approx(shares[-1])


HEAD = """
name = "cosines"
tokens = ["12800"]
budget_convention = "exact"
[sizes]
names = ["13k"]
[schedule]
kind = "cosine"
warmup_fraction = 0.1
"""
VARIANTS = """
[variants.plain]
architecture = "vanilla"
[variants.token]
architecture = "mor"
recursions = 2
kv = "shared"
routing = { choice = "token" }
[variants.warmed]
architecture = "mor"
recursions = 2
routing = { capacity_warmup_steps = 40 }
"""


@pytest.fixture(scope="module")
def cosines(reference: ToySweep, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three named arms, trained for the same tokens under a cosine; the results folder."""
    folder = tmp_path_factory.mktemp("cosines")
    toy = TOY_PRESET.read_text()
    kept = toy[toy.index("[model]") :]
    (folder / "cosines.toml").write_text(HEAD + kept + VARIANTS)
    where = ["--preset", str(folder / "cosines.toml"), "--data", str(reference.text), "--results", str(folder)]
    done = run_here(["isoflop", *where, "--executor", "in-process", "--no-mlflow", "--yes"], reference.environment)
    assert done.returncode == 0, done.stderr
    return Store(root=folder)


def test_a_cosine_cell_has_one_stretch_a_whole_curve_and_a_row(cosines: Store):
    sweep = load_sweep(cosines, "cosines")
    assert sorted(segment.kind for segment in sweep.segments.values()) == ["evaluate"] * 3 + ["stable"] * 3
    runs = table(cosines, sweep)
    assert runs["schedule"].unique().to_list() == ["cosine"]
    assert runs["steps"].to_list() == runs["decay_start"].to_list() == [100] * 3
    for cell in sweep.cells:
        rows = curve(cosines, sweep, cell)
        assert [row["step"] for row in rows] == [1, *range(10, 101, 10)]
        rates = [row["learning_rate"] for row in rows[2:]]
        assert rates == sorted(rates, reverse=True)
        assert rates[-1] < 0.01 * cell.train.peak_learning_rate


def test_rows_of_variants_say_what_they_are(cosines: Store):
    runs = table(cosines, load_sweep(cosines, "cosines"))
    said = runs.select("arm", "architecture", "kv", "routing").rows()
    assert said == [
        ("plain", "vanilla", "", ""),
        ("token", "mor", "shared", "token linear softmax"),
        ("warmed", "mor", "recursion-wise", "expert linear sigmoid"),
    ]
    assert runs["loss_half"].is_null().to_list() == [True, True, False]


def test_planned_flops_of_a_row_include_what_capacity_warmup_added(cosines: Store):
    sweep = load_sweep(cosines, "cosines")
    for cell, row in zip(sweep.cells, table(cosines, sweep).iter_rows(named=True), strict=True):
        assert int(row["flops_exact"]) == cell.flops["exact"] == int(row["budget"])
        settled = training_cost(cell.model, cell.train.batch_size, cell.steps + 1, "exact") - training_cost(
            cell.model, cell.train.batch_size, cell.steps, "exact"
        )
        assert (int(row["flops_exact"]) > settled * cell.steps) == (cell.arm == "warmed")


def test_a_sweep_that_another_version_recorded_is_one_sentence(reference: ToySweep, tmp_path: Path):
    shutil.copytree(reference.results / "sweeps", tmp_path / "sweeps")
    path = tmp_path / "sweeps/toy/sweep.json"
    document = json.loads(path.read_text())
    del document["revisions"][-1]["cells"][0]["model"]["recursion"]["kv"]
    path.write_text(json.dumps(document))
    with pytest.raises(OtherVersion, match=r"made by an earlier version of mor-sweep .*use another results folder"):
        load_sweep(Store(root=tmp_path), "toy")


@pytest.mark.parametrize(("kinds", "mixed"), [(("stable", "decay"), False), (("decay",), True)], ids=["all", "some"])
def test_segments_that_different_numbers_of_workers_trained_are_mixed_and_their_evaluation_by_one_is_not(
    reference: ToySweep, tmp_path: Path, kinds: tuple[str, ...], mixed: bool
):
    results = tmp_path / "results"
    shutil.copytree(reference.results, results)
    for path in results.glob("segments/*/result.json"):
        result = json.loads(path.read_text())
        if result["kind"] in kinds:
            rewrite_result(path, lambda result: result["numerics"][0].update(world_size=2))
    store = Store(root=results)
    flags = table(store, load_sweep(store))["flags"]
    assert set(flags.str.contains("mixed-numerics")) == {mixed}


@pytest.fixture
def grown(reference: ToySweep, tmp_path: Path) -> tuple[Store, Sweep]:
    """A results folder of twelve cells, and its sweep as a command knew it that was started when it had four."""
    shutil.copytree(reference.results, tmp_path / "results")
    store = Store(root=tmp_path / "results")
    path = store.sweep_folder("toy") / "sweep.json"
    whole = json.loads(path.read_text())
    revision = whole["revisions"][0]
    first = [cell for cell in revision["cells"] if cell["budget"] == 600_000_000]
    path.write_text(json.dumps(whole | {"revisions": [revision | {"cells": first}]}))
    early = load_sweep(store, "toy")
    assert len(early.cells) == 4
    path.write_text(json.dumps(whole))
    return store, early


def test_a_table_holds_the_cells_that_another_command_has_added_since_this_one_began(grown: tuple[Store, Sweep]):
    store, early = grown
    assert write_tables(store, early.name).height == 12
    assert pl.read_parquet(store.sweep_folder("toy") / "runs.parquet").height == 12
    assert write_own_tables(store, early, Console(file=io.StringIO())).height == 12


def test_a_command_whose_cells_another_has_left_out_of_the_table_still_reports_them(grown: tuple[Store, Sweep]):
    store, early = grown
    path = store.sweep_folder("toy") / "sweep.json"
    whole = json.loads(path.read_text())
    first = whole["revisions"][0]
    others = [cell for cell in first["cells"] if cell["budget"] != 600_000_000]
    path.write_text(json.dumps(whole | {"revisions": [first | {"cells": others, "settings_id": "others"}]}))
    said = io.StringIO()
    assert set(write_own_tables(store, early, Console(file=said))["cell_id"]) == {cell.cell_id for cell in early.cells}
    assert "other settings meanwhile" in said.getvalue()
    assert pl.read_parquet(store.sweep_folder("toy") / "runs.parquet").height == 8


@pytest.mark.parametrize("name", ["runs", "segments"])
def test_a_folder_in_the_place_of_a_table_is_named(grown: tuple[Store, Sweep], name: str):
    store, early = grown
    path = store.sweep_folder(early.name) / f"{name}.parquet"
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreError, match=f"{re.escape(str(path))} is a folder, expected a file: move it away"):
        write_tables(store, early.name)


def test_a_table_that_finds_no_space_ends_as_any_file_does(tmp_path: Path) -> None:
    """Under the kernel's limit on the size of a file, which is met as a full disk is."""
    code = (
        "import resource, signal, sys, polars as pl; from pathlib import Path\n"
        "from orchestrator.records.table import parquet_bytes\n"
        "from orchestrator.records import table\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try: table._write_parquet(Path(sys.argv[1]), pl.DataFrame({'a': list(range(20_000))}))\n"
        "except OSError as error: sys.exit(error.strerror)\n"
    )
    path = tmp_path / "runs.parquet"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "File too large\n")
    assert list(tmp_path.iterdir()) == []

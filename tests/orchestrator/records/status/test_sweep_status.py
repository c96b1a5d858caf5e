"""What `status` and the live table say of a sweep that is not finished."""

import io
import json
import subprocess
from pathlib import Path
from typing import get_args

import pytest
from filelock import FileLock

from mor_core.data.prepare import prepare
from mor_core.units import budget_text
from orchestrator.cli.tables.status import COLUMNS, MOST_ROWS
from orchestrator.planning.identity import Segment
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.console import Console
from orchestrator.records.revisions import load_sweep, record_revision
from orchestrator.records.status.states import CellStatus, sweep_states
from orchestrator.records.status.sweep_status import segments_under_way
from orchestrator.records.table import table
from orchestrator.running.progress import Progress
from orchestrator.store.attempts import LOCK
from orchestrator.store.published import RESULT_SCHEMA
from orchestrator.store.store import Store
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, run_here


@pytest.fixture
def planned(toy: ToySweep) -> Plan:
    """The toy sweep with two seeds, recorded and not begun."""
    flags = [Override(flag="--data", path=("data", "corpus"), value=str(toy.text))]
    flags.append(Override(flag="--seeds", path=("seeds",), value=[0, 3]))
    spec = load_spec(str(TOY_PRESET), flags)
    data = prepare(spec.data_spec, toy.cache)
    made = plan(spec, data)
    record_revision(Store(root=toy.results), made, data)
    return made


def begun(store: Store, planned: Plan, seed: int) -> str:
    """The first segment of the largest routed trunk of a seed, with an attempt at step 7; its id."""
    cell = next(c for c in planned.cells if (c.arm, c.size, c.seed) == ("mor-2", "23k", seed))
    segment = next(s for s in planned.segments if s.trunk.model == cell.model and s.trunk.seed == seed)
    attempt = store.new_attempt(segment)
    attempt.record_progress(7, segment.stop_step)
    store.new_attempt(segment)  # Just started: it has not taken a step yet.
    return segment.id


def status(results: Path, *flags: str) -> str:
    """What the command prints."""
    command = [*MOR_SWEEP, "status", "--results", str(results), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_status_shows_how_far_a_running_segment_is_and_whether_it_runs(toy: ToySweep, planned: Plan):
    store = Store(root=toy.results)
    name = begun(store, planned, seed=0)
    assert "pending: stable at step 7 of 23" in status(toy.results)
    with FileLock(store.attempts_folder(name) / LOCK):
        text = status(toy.results)
        (under_way,) = segments_under_way(store, sweep_states(store))
    waiting = 3  # cells of that trunk, one a budget
    assert text.count("running: stable at step 7 of 23") == waiting == len(under_way.cell_ids)
    assert text.count("pending") == len(planned.cells) - waiting + 1  # and in the title
    assert (under_way.segment_id, under_way.step, under_way.running) == (name, 7, True)


def test_the_live_table_names_a_segment_by_arm_size_and_seed(toy: ToySweep, planned: Plan):
    store = Store(root=toy.results)
    for seed in (0, 3):
        begun(store, planned, seed)
    progress = Progress(plan=planned, store=store, pending=planned.segments)
    console = Console(file=io.StringIO(), width=100)
    console.print(progress.table())
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "stable mor-2 23k " in text
    assert "stable mor-2 23k seed 3" in text


def test_a_log_says_how_far_a_run_is_where_no_cell_has_ended_for_long(
    toy: ToySweep, planned: Plan, monkeypatch: pytest.MonkeyPatch
):
    store = Store(root=toy.results)
    log = io.StringIO()
    progress = Progress(plan=planned, store=store, pending=planned.segments, console=Console(file=log))
    begun(store, planned, seed=0)
    progress.refresh()
    assert log.getvalue() == ""
    monkeypatch.setattr(f"{Progress.__module__}.QUIET_SECONDS", 0.0)
    progress.refresh()
    (line,) = log.getvalue().splitlines()
    assert line.startswith(f"[0/{len(planned.cells)}] ")
    assert f" of this run's FLOPs, 0 of {len(planned.segments)} segments; about " in line


@pytest.fixture
def large(toy: ToySweep) -> Plan:
    """The toy sweep with so many seeds that it is shown by arm and budget, in every state that a cell can be in."""
    flags = [Override(flag="--data", path=("data", "corpus"), value=str(toy.text))]
    flags.append(Override(flag="--seeds", path=("seeds",), value=list(range(1 + MOST_ROWS // 12))))
    spec = load_spec(str(TOY_PRESET), flags)
    data = prepare(spec.data_spec, toy.cache)
    made = plan(spec, data)
    store = Store(root=toy.results)
    record_revision(store, made, data)
    begun(store, made, seed=0)
    publish(store, first(made, "evaluate", "vanilla", 1), evaluation={"loss": 2.5, "loss_topk": 2.25, "depth_mean": 1})
    publish(store, first(made, "evaluate", "vanilla", 2), evaluation={"loss": 2.75, "loss_topk": 2.5, "depth_mean": 1})
    publish(store, first(made, "stable", "vanilla", 3), status="diverged", reason="the loss is nan")
    for seed in (4, 5):
        attempt = store.new_attempt(first(made, "decay", "mor-2", seed))
        attempt.record_failure({"class": "oom", "reason": "oom: no memory is left"})
    publish(store, first(made, "evaluate", "mor-2", 6), status="unheard-of")
    (store.segment_folder(first(made, "evaluate", "mor-2", 7).id)).mkdir(parents=True)
    return made


def first(planned: Plan, kind: str, arm: str, seed: int) -> Segment:
    """A segment of the smallest budget of an arm's smallest model."""
    model = next(cell.model for cell in planned.cells if (cell.arm, cell.size) == (arm, "13k"))
    return next(s for s in planned.segments if (s.kind, s.trunk.model, s.trunk.seed) == (kind, model, seed))


def publish(store: Store, segment: Segment, status: str = "finished", **said) -> None:
    """A result as short as one can be."""
    folder = store.segment_folder(segment.id)
    folder.mkdir(parents=True)
    result = {"schema": RESULT_SCHEMA, "segment_id": segment.id, "kind": segment.kind, "step": segment.stop_step}
    result |= {"status": status, **said}
    if "evaluation" in said:
        result["evaluation"] |= {"realised_capacity": [1.0], "planned_capacity": [1.0]}
    (folder / "result.json").write_text(json.dumps(result))


def test_the_states_are_the_tables(toy: ToySweep, large: Plan):
    """Two ways to the same states: the quick one of `status`, and the whole table that fits use."""
    store = Store(root=toy.results)
    runs = table(store, load_sweep(store))
    shared = ("cell_id", "arm", "size", "seed", "steps", "status", "reason", "loss", "loss_topk", "depth_mean")
    states = [{name: getattr(cell, name) for name in shared} for cell in sweep_states(store).cells]
    assert states == runs.select(shared).to_dicts()
    assert set(runs["status"]) == set(get_args(CellStatus))


def test_a_large_sweep_is_shown_by_arm_and_budget_with_what_needs_a_look(toy: ToySweep, large: Plan):
    text = status(toy.results)
    assert len(large.cells) > MOST_ROWS
    assert len(text.splitlines()) < 30
    found = [line.split() for line in text.splitlines() if line.split()[1:2] in (["6e8"], ["1.2e9"], ["2.4e9"])]
    assert [row[:3] for row in found] == [
        [arm, budget, "34"] for arm in ("vanilla", "mor-2") for budget in ("6e8", "1.2e9", "2.4e9")
    ]
    assert found[0][3:] == ["2", "31", "0", "1", "2.5000", "13k"], "finished, pending, failed, diverged, best"
    assert found[3][3:] == ["0", "31", "3", "0"]
    assert "mor-2 23k seed 0: pending: stable at step 7 of 23 (3 cells wait)" in text
    assert "2 failed: decay to step" in text
    assert "oom: no memory is left (mor-2/13k/6e8/4 and others)" in text
    assert "a line for each of the 204 cells: mor-sweep status toy --cells" in text


def test_cells_prints_a_plain_line_for_every_cell_whatever_their_number(toy: ToySweep, large: Plan):
    names, *lines = status(toy.results, "--cells").splitlines()
    assert names.split() == [column.name for column in COLUMNS]
    assert len(lines) == len(large.cells)
    assert [line.split()[:4] for line in lines] == [
        [cell.arm, cell.size, budget_text(cell.budget), str(cell.seed)]
        for cell in sorted(
            large.cells, key=lambda cell: (cell.arm != "vanilla", cell.unique_params, cell.budget, cell.seed)
        )
    ]
    assert sum("  failed: decay to step" in line for line in lines) == 2
    assert sum(line.endswith("  2.5000*  2.2500   1.00  finished") for line in lines) == 1


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"", b"../../etc", b"a\x1b[2Jb"], ids=["bytes", "empty", "path", "escape"]
)
@pytest.mark.parametrize("verb", ["status", "fit", "report"])
def test_a_damaged_note_of_the_last_sweep_is_one_sentence(toy: ToySweep, planned: Plan, verb: str, content: bytes):
    path = toy.results / "sweeps" / ".last"
    path.write_bytes(content)
    done = run_here([verb, "--results", str(toy.results)], {})
    assert done.returncode == 2
    expected = f"error: {path} is damaged: delete it, and name the sweep in the command; there are: {planned.name}"
    assert done.stderr.splitlines() == [expected]


@pytest.mark.parametrize("content", [b'{"schema"', b"\xff\xfe", b"[]", b'{"schema": "mor-sweep.sweep/1"}'])
def test_a_sweep_that_cannot_be_read_is_named_and_no_defect(tmp_path: Path, content: bytes):
    folder = tmp_path / "sweeps" / "mine"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_bytes(content)
    named = run_here(["status", "mine", "--results", str(tmp_path)], {})
    assert named.returncode == 2
    assert f"{folder / 'sweep.json'} " in named.stderr
    assert "move it away" in named.stderr


def test_without_a_name_sweeps_that_cannot_be_read_are_not_passed_over(tmp_path: Path):
    folder = tmp_path / "sweeps" / "mine"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{")
    unnamed = run_here(["status", "--results", str(tmp_path)], {})
    assert unnamed.returncode == 2
    assert f"1 sweep in {tmp_path} cannot be read: mine" in unnamed.stderr


def test_without_a_name_and_a_note_of_the_last_sweep_those_that_there_are_are_named(toy: ToySweep, planned: Plan):
    (toy.results / "sweeps" / ".last").unlink()
    unnamed = run_here(["status", "--results", str(toy.results)], {})
    assert unnamed.returncode == 2
    assert f"name one of {planned.name}" in unnamed.stderr

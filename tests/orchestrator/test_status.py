"""What `status` and the live table say of a sweep that is not finished."""

import io
import json
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock
from rich.console import Console
from toy_sweep import MOR_SWEEP, TOY_PRESET, ToySweep

from mor_core.data.shards import prepare
from orchestrator.plan import Plan, plan
from orchestrator.progress import Progress
from orchestrator.revisions import load_sweep, record_revision
from orchestrator.spec import load_spec
from orchestrator.status import segments_under_way
from orchestrator.store import LOCK, Store
from orchestrator.sweep_file import Override


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
    (attempt / "progress.json").write_text(json.dumps({"step": 7, "stop_step": segment.stop_step}))
    store.new_attempt(segment)  # Just started: it has not taken a step yet.
    return segment.id


def status(results: Path) -> str:
    """What the command prints."""
    done = subprocess.run([*MOR_SWEEP, "status", "--results", str(results)], capture_output=True, text=True, check=True)
    return done.stdout


def test_status_shows_how_far_a_running_segment_is_and_whether_it_runs(toy: ToySweep, planned: Plan):
    store = Store(root=toy.results)
    name = begun(store, planned, seed=0)
    assert "pending: stable at step 7 of 23" in status(toy.results)
    with FileLock(store.attempts_folder(name) / LOCK):
        text = status(toy.results)
        (under_way,) = segments_under_way(store, load_sweep(store))
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

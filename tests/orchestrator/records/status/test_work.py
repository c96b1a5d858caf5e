"""How much of a sweep's training `status` says is done."""

import json
from pathlib import Path

import pytest

from mor_core.data.prepare import prepare
from orchestrator.planning.identity import Segment
from orchestrator.planning.plan import Plan, flops_by_segment, plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.revisions import record_revision
from orchestrator.records.status.sweep_status import read_status, work_text
from orchestrator.store.published import RESULT_SCHEMA
from orchestrator.store.store import Store
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import ToySweep, run_here

SECONDS_PER_STEP = 0.5


@pytest.fixture
def planned(toy: ToySweep) -> Plan:
    """The toy sweep, recorded and not begun."""
    spec = load_spec(str(TOY_PRESET), [Override(flag="--data", path=("data", "corpus"), value=str(toy.text))])
    data = prepare(spec.data_spec, toy.cache)
    made = plan(spec, data)
    record_revision(Store(root=toy.results), made, data)
    return made


def publish(store: Store, segment: Segment, first_step: int) -> None:
    """A result as short as one can be, of a segment whose steps took half a second each."""
    folder = store.segment_folder(segment.id)
    folder.mkdir(parents=True)
    steps = segment.stop_step - first_step
    timed = {"steps_executed": steps, "train_seconds": steps * SECONDS_PER_STEP}
    result = {"schema": RESULT_SCHEMA, "segment_id": segment.id, "kind": segment.kind, "step": segment.stop_step}
    (folder / "result.json").write_text(json.dumps(result | timed | {"status": "finished"}))


def first_trunk(planned: Plan) -> Segment:
    """A segment from the start of a trunk."""
    return next(segment for segment in planned.segments if segment.kind == "stable" and not segment.needs)


def test_the_work_of_a_sweep_is_what_its_plan_says(toy: ToySweep, planned: Plan):
    work = read_status(Store(root=toy.results), None).work
    assert work is not None
    assert work.flops == pytest.approx(sum(flops_by_segment(planned.segments).values()), rel=0.02)
    assert (work.flops_done, work.seconds, work.seconds_done) == (0, None, None)


def test_a_published_segment_is_done_and_gives_its_speed(toy: ToySweep, planned: Plan):
    store, segment = Store(root=toy.results), first_trunk(planned)
    publish(store, segment, first_step=0)
    status = read_status(store, None)
    work = status.work
    assert work is not None
    assert work.seconds is not None
    assert work.seconds_done is not None
    assert work.flops_done == pytest.approx(flops_by_segment(planned.segments)[segment.id], rel=0.02)
    assert work.seconds_done == pytest.approx(segment.stop_step * SECONDS_PER_STEP)
    assert work.seconds > work.seconds_done
    assert "of one worker are left" in work_text(status)


def test_steps_of_a_segment_under_way_count(toy: ToySweep, planned: Plan):
    store, segment = Store(root=toy.results), first_trunk(planned)
    store.new_attempt(segment).record_progress(segment.stop_step // 2, segment.stop_step)
    work = read_status(store, None).work
    assert work is not None
    share = segment.stop_step // 2 / segment.stop_step
    assert work.flops_done == pytest.approx(share * flops_by_segment(planned.segments)[segment.id], rel=0.02)


def test_what_leads_to_a_finished_cell_is_done_without_its_files(toy: ToySweep, planned: Plan):
    store = Store(root=toy.results)
    cell = planned.cells[0]
    folder = store.segment_folder(str(cell.evaluate_segment))
    folder.mkdir(parents=True)
    evaluation = {"loss": 2.5, "loss_topk": 2.5, "depth_mean": 1, "realised_capacity": [1.0], "planned_capacity": [1.0]}
    result = {"schema": RESULT_SCHEMA, "segment_id": str(cell.evaluate_segment), "kind": "evaluate", "step": cell.steps}
    (folder / "result.json").write_text(json.dumps(result | {"status": "finished", "evaluation": evaluation}))
    work = read_status(store, None).work
    assert work is not None
    assert work.flops_done == pytest.approx(cell.flops["exact"], rel=0.02)


def test_watching_an_idle_sweep_says_how_many_cells_there_are_once(toy: ToySweep, planned: Plan):
    watched = run_here(["status", "--watch", "--results", str(toy.results)], {})
    assert watched.returncode == 0
    assert watched.stdout.count(f"{planned.name}: {len(planned.cells)} pending") == 1


def test_a_sweep_whose_record_lacks_flops_is_shown_without_its_work(toy: ToySweep, planned: Plan):
    path = Path(toy.results / "sweeps" / planned.name / "sweep.json")
    document = json.loads(path.read_text())
    for cell in document["revisions"][0]["cells"]:
        del cell["flops"]
    path.write_text(json.dumps(document))
    status = read_status(Store(root=toy.results), None)
    assert len(status.cells) == len(planned.cells)
    assert (status.work, work_text(status)) == (None, "")

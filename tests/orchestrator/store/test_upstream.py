"""What a store promises wherever its results are shared: in one folder that every host sees, or through a bucket.

Each test has two hosts, `here` and `there`. No work is trained: checkpoints are made by hand.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.training.manifest import verify_checkpoint
from orchestrator.notebook import Sweep
from orchestrator.planning.identity import stable_segment, trunk_id
from orchestrator.planning.plan import Plan, plan
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.records.revisions import load_sweep, share_revision
from orchestrator.records.table import write_tables
from orchestrator.store.store import Store
from orchestrator.store.upstream import stop
from orchestrator.store.upstream.upstream import open_store
from tests.helpers.hand_made import TRUNK, left_behind, published

SEGMENT = stable_segment(TRUNK, 40)


@pytest.fixture(params=["folder", "bucket"])
def opened(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Store]:
    """The same results as a host opens them; from then on this process works as that host would."""
    if request.param == "folder":
        results = tmp_path / "results"
        results.mkdir()
        return lambda _host: open_store(results)
    address = f"{request.getfixturevalue('bucket')}/study"

    def on_host(host: str) -> Store:
        monkeypatch.setenv("MOR_SWEEP_SCRATCH", str(tmp_path / host))
        return open_store(address)

    return on_host


@pytest.fixture
def here(opened: Callable[[str], Store]) -> Store:
    """One host's store."""
    return opened("here")


@pytest.fixture
def there(here: Store, opened: Callable[[str], Store]) -> Store:
    """Another host's."""
    return opened("there")


def test_what_one_host_publishes_is_the_same_on_the_other(here: Store, there: Store) -> None:
    assert published(here, SEGMENT, 40)
    there.upstream.pull()
    assert there.verified_result(SEGMENT.id) == here.verified_result(SEGMENT.id)
    there.upstream.fetch_checkpoint(SEGMENT.id)
    folders = [store.checkpoint_folder(SEGMENT.id) for store in (here, there)]
    assert verify_checkpoint(folders[0]) == verify_checkpoint(folders[1])
    assert list(there.fetch_checkpoints()) == []


def test_of_two_hosts_that_publish_the_first_counts_on_both(here: Store, there: Store) -> None:
    assert published(here, SEGMENT, 40, notes=["first"])
    assert not published(there, SEGMENT, 40, notes=["second"])
    for store in (here, there):
        store.upstream.pull()
        result = store.verified_result(SEGMENT.id)
        assert result is not None
        assert result.notes == ("first",)


def test_another_host_goes_on_from_the_furthest_checkpoint_that_was_kept(here: Store, there: Store) -> None:
    assert there.last_step(SEGMENT.id) == 0
    attempt = left_behind(here, SEGMENT, step=10)
    here.upstream.keep(SEGMENT, attempt, 10)
    second = left_behind(here, SEGMENT, step=20)
    here.upstream.keep(SEGMENT, second, 20)
    assert there.last_step(SEGMENT.id) == here.last_step(SEGMENT.id) == 20
    there.upstream.fetch(SEGMENT)
    step, folder = there.attempts(SEGMENT.id).checkpoints()[0]
    assert (step, verify_checkpoint(folder).step) == (20, 20)


def test_a_longer_segment_finds_the_trunks_published_state(here: Store, there: Store) -> None:
    assert published(here, SEGMENT, 40)
    there.upstream.fetch(stable_segment(TRUNK, 80))
    assert there.published_trunk_steps(trunk_id(TRUNK)) == [(40, SEGMENT.id)]
    assert verify_checkpoint(there.checkpoint_folder(SEGMENT.id)).step == 40


def _has_failed(store: Store) -> bool:
    newest = store.attempts(SEGMENT.id).newest()
    return newest is not None and newest.has_failed


def test_a_failure_is_known_on_the_other_host_until_the_segment_is_tried_again(here: Store, there: Store) -> None:
    here.new_attempt(SEGMENT).record_failure({"reason": "store: the disk is full", "failure": "store"})
    here.upstream.record_failure(SEGMENT.id)
    there.upstream.fetch_outcome(SEGMENT.id)
    newest = there.attempts(SEGMENT.id).newest()
    assert newest is not None
    assert newest.failure_reason() == "store: the disk is full"
    there.upstream.fetch(SEGMENT)
    there.new_attempt(SEGMENT)
    here.upstream.pull()
    assert not _has_failed(here)
    assert not _has_failed(there)


def test_a_failure_that_was_not_told_at_once_is_told_at_the_end(here: Store, there: Store) -> None:
    here.new_attempt(SEGMENT).record_failure({"reason": "error: a defect", "failure": "error"})
    here.upstream.push()
    there.upstream.pull()
    assert _has_failed(there)


def test_a_result_that_one_host_takes_back_is_pending_on_both(here: Store, there: Store) -> None:
    assert published(here, SEGMENT, 40)
    there.upstream.pull()
    there.segment_folder(SEGMENT.id).rename(there.root / "aside")  # As `retry` does, which keeps it.
    there.upstream.withdraw([SEGMENT.id])
    for store in (here, there):
        store.upstream.pull()
        assert not store.is_done(SEGMENT.id)
    assert published(here, SEGMENT, 40)


@pytest.fixture
def plan_of(small_sweep: Callable[[dict], SweepSpec], snapshot: DataSnapshot) -> Callable[[str], Plan]:
    """The plan of a small sweep at one budget."""
    return lambda budget: plan(small_sweep({"budgets": [budget]}), snapshot)


def test_two_hosts_that_plan_one_sweep_lose_no_revision(
    here: Store, there: Store, plan_of: Callable[[str], Plan], snapshot: DataSnapshot
) -> None:
    first, second = plan_of("1e12"), plan_of("2e12")
    share_revision(here, first, snapshot)
    both = share_revision(there, second, snapshot)
    wanted = {cell.cell_id for cell in (*first.cells, *second.cells)}
    assert {cell.cell_id for cell in both.cells} == wanted
    here.upstream.pull()
    assert {cell.cell_id for cell in load_sweep(here, first.name).cells} == wanted
    assert share_revision(here, second, snapshot) == both, "the same plan again is no new revision"


def test_tables_that_one_host_writes_are_read_on_the_other(
    here: Store, there: Store, plan_of: Callable[[str], Plan], snapshot: DataSnapshot
) -> None:
    sweep = share_revision(here, plan_of("1e12"), snapshot)
    write_tables(here, sweep.name)
    here.upstream.push()
    there.upstream.pull()
    table = "runs.parquet"
    assert (there.sweep_folder(sweep.name) / table).read_bytes() == (here.sweep_folder(sweep.name) / table).read_bytes()


def test_a_request_to_stop_reaches_workers_on_the_other_host(
    here: Store, there: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "LOOK_SECONDS", 0.02)
    here.make_folder(here.sweep_folder("toy"))
    request = here.new_stop_file("toy", on_this_host=False)
    seen = there.upstream.shared_stop(type(request)(**vars(request)), "toy")
    assert seen.asked() is None
    request.ask("now")
    request.announce()
    deadline = time.monotonic() + 60
    while seen.asked() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert seen.asked() == "now"
    request.remove()
    assert here.new_stop_file("toy", on_this_host=True).asked() is None


def test_the_location_leads_to_the_same_results(here: Store, opened: Callable[[str], Store]) -> None:
    assert published(here, SEGMENT, 40)
    again = open_store(here.location)
    assert (again.location, again.upstream) == (here.location, here.upstream)
    assert again.verified_result(SEGMENT.id) == here.verified_result(SEGMENT.id)


def test_a_notebook_opens_results_wherever_they_are(
    here: Store, there: Store, plan_of: Callable[[str], Plan], snapshot: DataSnapshot
) -> None:
    sweep = share_revision(here, plan_of("1e12"), snapshot)
    notebook = Sweep.open(results=there.location)
    assert notebook.name == sweep.name
    assert len(notebook.plan.frame()) == len(sweep.cells)
    assert {cell.status for cell in notebook.status.status.cells} == {"pending"}

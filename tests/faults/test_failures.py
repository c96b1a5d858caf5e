"""F7, F9, F10, F25: failures of every class, a defect that all cells share, late workers and clocks that jump."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.training.rehearsal import VARIABLE
from orchestrator.running.outcomes import RULES, FailureClass, Outcome
from orchestrator.running.run_loop import fail_alike
from orchestrator.running.segment.worker import run_segment
from orchestrator.store.attempts import LOCK
from orchestrator.store.store import Store
from orchestrator.store.workers.stop_request import new_stop_file
from tests.faults.disturbances import assert_as_undisturbed, failures, pid_of, reached, wait_for
from tests.helpers import single_segment
from tests.helpers.paths import ROOT
from tests.helpers.single_segment import job_for, segment_on
from tests.helpers.toy_sweep import ToySweep

HOUR_SECONDS = 3600


def test_every_class_of_failure_has_its_rule():
    assert set(RULES) == set(FailureClass)


@pytest.mark.faults("F7")
def test_a_loss_that_is_not_finite_is_a_result_with_its_step_and_the_last_good_checkpoint(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures
):
    segment, store = segment_on(data), Store(root=tmp_path)
    monkeypatch.setenv(VARIABLE, "nan step=24")
    outcome = run_segment(segment, job_for(tmp_path, data))
    assert (outcome.status, outcome.failure) == ("diverged", FailureClass.diverged)
    result = store.result(segment.id)
    assert result
    assert result.step == 30, "the grid step at which the loss is looked at"
    assert result.last_good_step == 20
    assert run_segment(segment, job_for(tmp_path, data)).status == "diverged"
    assert store.attempts(segment.id).count() == 1, "not tried again"
    figures("F7", f"diverged at step {result.step}, last good checkpoint {result.last_good_step}")


@pytest.mark.faults("F7")
def test_a_spike_of_the_loss_is_flagged_and_training_goes_on(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures
):
    segment, store = segment_on(data), Store(root=tmp_path)
    monkeypatch.setenv(VARIABLE, "spike step=29")
    assert run_segment(segment, job_for(tmp_path, data)).status == "finished"
    result = store.result(segment.id)
    assert result
    assert result.loss_spikes == (30,)
    figures("F7", "a loss of ten times the one before is flagged with its step")


@pytest.mark.slow
@pytest.mark.faults("F9", invariants=("I2", "I3"))
def test_a_worker_that_was_paused_while_another_finished_publishes_nothing(data: DataSnapshot, tmp_path: Path, figures):
    """Two hosts do not see each other's locks: here the paused one's lock file is replaced."""
    segment, store = segment_on(data, stop_step=100), Store(root=tmp_path)
    command = [sys.executable, single_segment.__file__, *map(str, [tmp_path, data.folder, 4, 100, 600, 0])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as late:
        wait_for(lambda: store.attempts(segment.id).checkpoints())
        late.send_signal(signal.SIGSTOP)
        assert not store.is_done(segment.id)
        (store.attempts_folder(segment.id) / LOCK).unlink()
        assert run_segment(segment, job_for(tmp_path, data)).status == "finished"
        folder = store.segment_folder(segment.id)
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        late.send_signal(signal.SIGCONT)
        output, _ = late.communicate(timeout=400)
    assert json.loads(output)["status"] == "finished"
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    figures("F9", "the late worker reported what was published and changed none of its bytes")


@pytest.mark.faults("F10", invariants=("I4", "I5"))
@pytest.mark.parametrize("hours", [-1, 1])
def test_the_furthest_checkpoint_is_chosen_by_step_whatever_the_clock_said(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hours: int
):
    """Every file of the later checkpoint an hour before, or after, the earlier one's."""
    segment, store = segment_on(data), Store(root=tmp_path)
    monkeypatch.setenv(VARIABLE, "raise step=25 attempts=1")
    assert run_segment(segment, job_for(tmp_path, data)).status == "failed"
    (late, newest), (early, _) = store.attempts(segment.id).checkpoints()
    assert (late, early) == (20, 10)
    stamp = time.time() + hours * HOUR_SECONDS
    for path in (newest, *newest.iterdir()):
        os.utime(path, (stamp, stamp))
    assert run_segment(segment, job_for(tmp_path, data)).status == "finished"
    result = store.result(segment.id)
    assert result
    assert result.steps_executed == 20


JUMPING = """
import itertools, time
real, hours = time.time, itertools.cycle((0, 1, -1))
time.time = lambda: real() + 3600 * next(hours)
"""
"""What Python runs first: every look at the clock is an hour off the one before."""


@pytest.mark.slow
@pytest.mark.faults("F10", invariants=("I4",))
def test_under_a_clock_that_jumps_by_an_hour_at_every_look_a_sweep_ends_as_undisturbed(
    toy: ToySweep, reference: ToySweep, tmp_path: Path, figures
):
    (tmp_path / "sitecustomize.py").write_text(JUMPING)
    toy.variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    driver = toy.start("--workers", "2", "--sizes", "13k")
    killed = wait_for(lambda: next(iter(reached(toy)), None))
    os.kill(pid_of(killed[0]), signal.SIGKILL)
    output, _ = driver.communicate(timeout=800)
    assert driver.returncode == 0, output
    assert_as_undisturbed(toy, reference)
    figures("F10", "a clock an hour off at every look, and a worker killed: hashes as undisturbed")


@pytest.mark.faults("F10")
def test_nothing_that_decides_over_a_segment_reads_a_clock():
    """Only intervals of the own process's monotonic clock; a file's time may name its version, never its age."""
    package = ROOT / "orchestrator"
    store = [package / "store" / f"{name}.py" for name in ("store", "attempts", "published", "workers/sign_of_life")]
    for path in (*store, *(package / "running").rglob("*.py")):
        source = path.read_text()
        assert not [word for word in ("time.time(", "datetime", "st_mtime", "getmtime") if word in source], path


@pytest.mark.faults("F25")
def test_two_failures_alike_are_one_cause_unless_their_class_says_otherwise():
    def outcome(kind: FailureClass, text: str) -> Outcome:
        return Outcome(segment_id="a", status="failed", reason=f"{kind}: {text}", failure=kind)

    defect, other = outcome(FailureClass.error, "KeyError: 'x' at 0x7f3ac9d4cb10"), outcome(FailureClass.error, "else")
    assert fail_alike(defect, replace(defect, reason="error: KeyError: 'x' at 0x7ffff9d4c000"))
    assert not fail_alike(defect, other)
    too_large = outcome(FailureClass.oom, "tried to allocate 10 bytes")
    assert not fail_alike(too_large, too_large), "smaller models may fit"
    done = Outcome(segment_id="b", status="finished")
    assert not fail_alike(defect, done)
    assert not fail_alike(done, done)


@pytest.mark.faults("F25")
def test_a_run_that_launches_no_more_starts_nothing_and_lets_what_runs_go_on(data: DataSnapshot, tmp_path: Path):
    segment, store = segment_on(data), Store(root=tmp_path)
    stop = new_stop_file(tmp_path)
    stop.ask("launch no more")
    outcome = run_segment(segment, job_for(tmp_path, data, stop=stop))
    assert (outcome.status, outcome.reason) == ("interrupted", "the run launches no more segments")
    assert store.attempts(segment.id).count() == 0
    stop.remove()
    assert not stop.path.parent.exists()
    assert run_segment(segment, job_for(tmp_path, data, stop=stop)).status == "finished"


@pytest.mark.slow
@pytest.mark.faults("F25", invariants=("I1",))
def test_a_defect_that_all_cells_share_stops_the_run_after_two_segments(toy: ToySweep, figures):
    toy.variables[VARIABLE] = "raise"
    done = toy.run()
    assert done.returncode == 3
    said = "the first two segments failed alike, so no other is started: error: RuntimeError: a defect was rehearsed"
    assert said in " ".join(done.stderr.split())
    assert len(failures(toy)) == 2
    assert "Traceback" not in done.stderr
    figures("F25", "every cell raises: stopped after 2 of 36 segments, exit code 3")


@pytest.mark.slow
@pytest.mark.faults("F25", invariants=("I1", "I2", "I9"))
def test_where_one_cell_always_raises_the_rest_finish(toy: ToySweep, reference: ToySweep, figures):
    cells = reference.science()
    victim = cells.filter(cells["arm"] == "mor-2")["evaluate_segment"][0]
    toy.variables[VARIABLE] = f"raise segment={victim[:16]}"
    done = toy.run("--workers", "2", executor="ray")
    assert done.returncode == 3
    assert "11 of 12 cells finished" in done.stderr
    assert "error: RuntimeError: a defect was rehearsed" in done.stderr
    rest = toy.science().filter(toy.science()["evaluate_segment"] != victim)
    assert rest.equals(cells.filter(cells["evaluate_segment"] != victim))
    del toy.variables[VARIABLE]
    assert toy.run().returncode == 0
    assert toy.science().equals(cells)
    figures("F25", "one cell raises: 11 of 12 finish, exit code 3, its reason shown")

"""F24: a worker that takes no step leaves its stacks, is ended, and is replaced once."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.training.rehearsal import VARIABLE
from orchestrator.store.store import Store
from tests.faults.disturbances import assert_as_undisturbed, failures, preset
from tests.helpers import single_segment
from tests.helpers.single_segment import segment_on
from tests.helpers.toy_sweep import ToySweep

STALL_SECONDS = 4.0
BUSY_STALL_SECONDS = 12.0
"""Where several processes share the cores, what loads torch before the first step takes as long as a hang."""


def alone(results: Path, data: DataSnapshot) -> subprocess.CompletedProcess[str]:
    """A segment in a process of its own."""
    arguments = [results, data.folder, 4, 40, STALL_SECONDS, 0]
    command = [sys.executable, single_segment.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)


@pytest.mark.faults("F24", invariants=("I5",))
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "native-hang"])
def test_a_hang_is_ended_with_its_stacks_and_the_next_attempt_goes_on(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures, fault: str
):
    """A native call that keeps the interpreter stops every thread of Python; the watchdog is below it."""
    segment, store = segment_on(data), Store(root=tmp_path)
    monkeypatch.setenv(VARIABLE, f"{fault} step=25 attempts=1")
    started = time.monotonic()
    assert alone(tmp_path, data).returncode == 1
    seconds = time.monotonic() - started
    (attempt,) = (attempt for attempt in store.attempts(segment.id) if attempt.stacks.exists())
    assert "in rehearse" in attempt.stacks.read_text()
    assert "in batch_of_step" in attempt.stacks.read_text()
    assert json.loads(alone(tmp_path, data).stdout)["status"] == "finished"
    failure = json.loads(attempt.failure.read_text())
    assert failure["class"] == "stalled"
    assert str(attempt.stacks) in failure["reason"]
    result = store.result(segment.id)
    assert result
    assert result.steps_executed == 20
    figures("F24", f"{fault}: ended {seconds:.1f} s after the start, stacks kept, went on from step 20")


@pytest.mark.slow
@pytest.mark.faults("F24")
def test_what_hangs_again_has_failed(data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "hang step=25")
    assert [alone(tmp_path, data).returncode for _ in range(2)] == [1, 1]
    outcome = json.loads(alone(tmp_path, data).stdout)
    assert outcome["status"] == "failed"
    assert outcome["reason"].startswith("stalled: no step was taken for too long after step ")
    assert Store(root=tmp_path).attempts(segment_on(data).id).count() == 2


@pytest.mark.slow
@pytest.mark.faults("F24", invariants=("I1", "I4"))
def test_ray_replaces_a_worker_that_hangs(toy: ToySweep, reference: ToySweep, tmp_path: Path, figures):
    file = preset(tmp_path, stall_seconds=BUSY_STALL_SECONDS)
    toy.variables[VARIABLE] = "native-hang step=25 attempts=1 kind=stable"
    done = toy.run("--preset", str(file), "--workers", "2", executor="ray")
    assert done.returncode == 0, done.stderr
    hung = failures(toy)
    assert hung
    assert {each["class"] for each in hung} == {"stalled"}
    assert_as_undisturbed(toy, reference)
    figures("F24", f"{len(hung)} Ray workers hung and were replaced; hashes as undisturbed")


@pytest.mark.slow
@pytest.mark.faults("F24", invariants=("I1",))
def test_under_ray_a_segment_that_always_hangs_fails_and_the_others_finish(toy: ToySweep, tmp_path: Path, figures):
    file = preset(tmp_path, stall_seconds=BUSY_STALL_SECONDS)
    flags = ("--preset", str(file), "--sizes", "13k", "--arms", "vanilla", "--workers", "2")
    toy.variables[VARIABLE] = "hang kind=decay"
    done = toy.run(*flags, executor="ray")
    assert done.returncode == 3
    assert "stalled: no step was taken for too long" in done.stderr
    assert [each["class"] for each in failures(toy)] == ["stalled"] * 6, "3 cooldowns, 2 attempts each"
    assert len(toy.published()) == 3, "the stretches of the trunk"
    figures("F24", "a segment that hangs twice is `failed: stalled`, exit code 3")

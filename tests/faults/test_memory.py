"""F23: a segment that does not fit goes on with half the micro-batch, once; then it fails with what it needed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.training.rehearsal import VARIABLE
from orchestrator.running.outcomes import FailureClass
from orchestrator.running.segment.worker import run_segment
from orchestrator.running.stalls.watchdog import stalled_run
from orchestrator.store.attempts import Attempt
from orchestrator.store.losses import read_metrics
from orchestrator.store.store import Store
from tests.helpers import single_segment
from tests.helpers.single_segment import job_for, segment_on

ROUNDING = 1e-5
MEGABYTES_FOR_HALF = 600
"""Beyond torch itself: 3 steps with 2,048 sequences take about 750 MB, with 1,024 about 400."""


def losses(store: Store, segment_id: str) -> list[float]:
    """A published segment's curve."""
    return [row["loss"] for row in read_metrics(store.segment_folder(segment_id) / "metrics.jsonl")]


def alone(results: Path, data: DataSnapshot, *, megabytes: int) -> dict[str, str]:
    """The outcome of a wide segment in a process that may allocate so much."""
    arguments = [results, data.folder, 2048, 3, 600, megabytes]
    command = [sys.executable, single_segment.__file__, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.faults("F23")
def test_where_the_host_has_too_little_memory_half_the_micro_batch_gives_the_same_losses(
    data: DataSnapshot, tmp_path: Path, figures
):
    segment = segment_on(data, batch_size=2048, stop_step=3)
    roomy, tight = Store(root=tmp_path / "roomy"), Store(root=tmp_path / "tight")
    assert alone(roomy.root, data, megabytes=0)["status"] == "finished"
    assert alone(tight.root, data, megabytes=MEGABYTES_FOR_HALF) == {"status": "finished", "reason": ""}
    (failure,) = [json.loads(path.read_text()) for path in tight.attempts_folder(segment.id).glob("*/failure.json")]
    assert failure["class"] == "oom"
    whole, half = tight.result(segment.id), roomy.result(segment.id)
    assert whole
    assert half
    assert whole.numerics[0]["micro_batch"] == 1024
    assert half.numerics[0]["micro_batch"] == 2048
    apart = max(abs(a - b) for a, b in zip(losses(roomy, segment.id), losses(tight, segment.id), strict=True))
    assert apart < ROUNDING
    figures("F23", f"host limit of {MEGABYTES_FOR_HALF} MB: 1,024 of 2,048 sequences a pass, losses within {apart:.1e}")


@pytest.mark.faults("F23")
def test_where_half_is_too_much_too_the_failure_names_the_peak(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures
):
    monkeypatch.setenv(VARIABLE, "device-oom step=20")
    segment = segment_on(data)
    outcome = run_segment(segment, job_for(tmp_path, data))
    assert (outcome.status, outcome.failure) == ("failed", FailureClass.oom)
    assert outcome.reason.startswith("oom: CUDA out of memory was rehearsed (peak ")
    tried = sorted(Store(root=tmp_path).attempts_folder(segment.id).glob("*/failure.json"))
    assert len(tried) == 2
    assert [json.loads((path.parent / "numerics.json").read_text())[-1]["micro_batch"] for path in tried] == [4, 2]
    figures("F23", f"after one retry: {outcome.reason.partition('(')[2].rstrip(')')}")


@pytest.mark.faults("F23", invariants=("I5",))
def test_a_device_without_room_halves_from_the_last_checkpoint_and_says_so(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures
):
    segment, store, other = segment_on(data), Store(root=tmp_path / "tight"), Store(root=tmp_path / "roomy")
    assert run_segment(segment, job_for(other.root, data)).status == "finished"
    monkeypatch.setenv(VARIABLE, "device-oom step=25 micro_batch=2")
    assert run_segment(segment, job_for(store.root, data)).status == "finished"
    result = store.result(segment.id)
    assert result
    assert result.steps_executed == 20
    assert [each["micro_batch"] for each in result.numerics] == [4, 2]
    apart = max(abs(a - b) for a, b in zip(losses(store, segment.id), losses(other, segment.id), strict=True))
    assert apart < ROUNDING
    figures("F23", f"device: went on from step 20 with 2 of 4 sequences a pass, losses within {apart:.1e}")


WITHOUT_MEMORY = """
import faulthandler, resource, sys, time
from pathlib import Path
from orchestrator.running.stalls.watchdog import REARM_SECONDS, Watchdog
from orchestrator.store.attempts import Attempt
held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (held, resource.RLIM_INFINITY))
try:
    faulthandler.dump_traceback_later(100)
except RuntimeError:
    print("no memory for a thread", flush=True)
with Watchdog(attempt=Attempt(folder=Path(sys.argv[1])), run="r", seconds=0.5) as watchdog:
    watchdog.step()
    print("went on", flush=True)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    time.sleep(REARM_SECONDS)
    watchdog.step()
    time.sleep(200)
"""


@pytest.mark.faults("F23", "F24")
@pytest.mark.slow
def test_a_watchdog_without_memory_for_its_timer_lets_the_work_go_on_and_is_set_later(tmp_path: Path):
    command = [sys.executable, "-c", WITHOUT_MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.stdout.splitlines() == ["no memory for a thread", "went on"], done.stderr
    assert done.returncode == 1
    assert stalled_run(Attempt(folder=tmp_path)) == "r", "it ended what took no step after that"


@pytest.mark.faults("F23")
def test_one_sequence_a_pass_is_not_halved(data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, "device-oom")
    segment = segment_on(data)
    assert run_segment(segment, job_for(tmp_path, data, micro_batch=1)).failure is FailureClass.oom
    assert Store(root=tmp_path).attempts(segment.id).count() == 1

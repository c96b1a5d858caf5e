"""`mor-sweep eval` that is told to stop: as a sweep, wherever its workers are."""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mor_core.training.rehearsal import VARIABLE
from orchestrator.inference import evaluations
from orchestrator.planning.identity import Segment
from orchestrator.running import run_loop
from orchestrator.running.executor import Events
from orchestrator.running.outcomes import Outcome
from orchestrator.running.segment.job import Job
from orchestrator.store.attempts import SCRATCH, scratch_folder
from orchestrator.store.folder import ADDRESS
from orchestrator.store.store import Store
from orchestrator.store.upstream.clone import clone_in
from tests.faults.disturbances import interruptions, wait_for
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, run_here
from tests.orchestrator.inference.test_tasks import CELLS, tasks

__all__ = ["tasks"]  # The fixture.

LOOKS = 5


@pytest.fixture
def copy(reference: ToySweep, tmp_path: Path) -> ToySweep:
    """The undisturbed toy sweep, without its attempts, in a folder of its own."""
    sweep = replace(reference, results=tmp_path / "results")
    shutil.copytree(reference.results, sweep.results, ignore=shutil.ignore_patterns("attempts"))
    (sweep.results / "attempts").mkdir()
    return sweep


@pytest.fixture
def unmirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test the start of MLflow, which has no part in what it is about."""
    mirror = nullcontext(SimpleNamespace(warning=""))
    monkeypatch.setattr(evaluations, "following", lambda *_: mirror)


def words(sweep: ToySweep, tasks: Path, names: str, *flags: str) -> list[str]:
    """The arguments that score two cells."""
    common = ["--tasks", names, "--task-files", str(tasks), "--results", str(sweep.results)]
    return ["eval", *CELLS, *common, *flags]


def score(sweep: ToySweep, arguments: Sequence[str], fault: str = "") -> subprocess.CompletedProcess[str]:
    """Score in this process."""
    return run_here(list(arguments), sweep.environment | {VARIABLE: fault})


def leftovers(sweep: ToySweep) -> list[Path]:
    """What only a run in progress needs."""
    return [*sweep.results.glob(SCRATCH), *sweep.results.glob("sweeps/toy/stop")]


def batches(sweep: ToySweep) -> int:
    """Most batches that any attempt has done."""
    store = Store(root=sweep.results)
    reached = [store.attempts(path.name).progress() for path in (sweep.results / "attempts").iterdir()]
    return max((progress.step for progress in reached if progress), default=0)


@pytest.mark.usefixtures("unmirrored")
def test_ctrl_c_keeps_the_batches_that_are_done_and_leaves_nothing_else(copy: ToySweep, tasks: Path):
    def interrupt() -> None:
        wait_for(lambda: batches(copy) >= 1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    arguments = words(copy, tasks, "many", "--executor", "in-process")
    stopped = score(copy, arguments, "slow kind=evaluate attempts=1")
    thread.join()
    assert stopped.returncode == 130, stopped.stderr
    assert "stopped: the same command goes on from the last checkpoints" in stopped.stderr
    ((_, batch),) = interruptions(copy).items()
    assert batch >= 1
    assert leftovers(copy) == []


@pytest.mark.usefixtures("unmirrored")
def test_a_failure_that_all_tasks_share_stops_the_others(copy: ToySweep, tasks: Path):
    arguments = words(copy, tasks, "verbs,words", "--executor", "in-process", "--json")
    failed = score(copy, arguments, "raise kind=evaluate")
    assert failed.returncode == 3, failed.stderr
    assert "the first two segments failed alike, so no other is started: error: RuntimeError" in failed.stderr
    states = [row["status"] for row in json.loads(failed.stdout)["data"]["rows"]]
    assert sorted(states) == ["failed", "failed", "not run", "not run"]
    assert len(list(copy.results.glob("attempts/*/*/failure.json"))) == 2
    assert leftovers(copy) == []


@pytest.mark.usefixtures("unmirrored")
def test_scoring_starts_nothing_more_once_its_hours_are_used_and_the_same_command_goes_on(copy: ToySweep, tasks: Path):
    arguments = words(copy, tasks, "verbs,words", "--executor", "in-process", "--json")
    limited = score(copy, [*arguments, "--max-gpu-hours", "1e-9"])
    assert limited.returncode == 0, limited.stderr
    assert "core-hours are used, and 1e-09 were allowed" in " ".join(limited.stderr.split())
    states = [row["status"] for row in json.loads(limited.stdout)["data"]["rows"]]
    assert sorted(states) == ["finished", "not run", "not run", "not run"]
    done = score(copy, arguments)
    assert {row["status"] for row in json.loads(done.stdout)["data"]["rows"]} == {"finished"}


@dataclass(kw_only=True)
class FarAwayExecutor:
    """Workers on other hosts, who hold no lock here: this process gets Ctrl-C, and they answer some looks later."""

    results: Path
    """The folder that the driver works in."""
    request: Callable[[Job], str | None]
    """What the workers see of a request to stop."""
    answers: list[str | None] = field(default_factory=list)
    """Of each look."""

    on_this_host = False
    """See orchestrator.running.executor.Executor."""

    def run(self, segments: Sequence[Segment], job: Job, published: dict[str, Outcome]) -> Events:
        """See orchestrator.running.executor.Executor."""
        scratch_folder(self.results, job.run).mkdir(parents=True)
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(LOOKS):
            yield None
            self.answers.append(self.request(job))
        for segment in segments:
            yield Outcome(segment_id=segment.id, status="interrupted", reason="the run was stopped")


def stopped_far_away(
    sweep: ToySweep, tasks: Path, patch: pytest.MonkeyPatch, request: Callable[[Job], str | None]
) -> list[str | None]:
    """What workers on other hosts see of a Ctrl-C at their driver, look by look."""
    executor = FarAwayExecutor(results=sweep.results, request=request)
    patch.setattr(run_loop, "chosen_executor", lambda *_: executor)
    stopped = score(sweep, words(sweep, tasks, "verbs", "--address", "10.0.0.1:6379"))
    assert stopped.returncode == 130, stopped.stderr
    assert len(executor.answers) == LOOKS, "the driver left before its workers had answered"
    assert leftovers(sweep) == []
    return executor.answers


def request_in_file(job: Job) -> str | None:
    """Of the folder that driver and workers share."""
    assert job.stop is not None
    return job.stop.asked()


@pytest.mark.usefixtures("unmirrored")
def test_ctrl_c_waits_for_workers_whose_locks_are_not_seen(
    copy: ToySweep, tasks: Path, monkeypatch: pytest.MonkeyPatch
):
    assert stopped_far_away(copy, tasks, monkeypatch, request_in_file) == ["now"] * LOOKS


@pytest.mark.usefixtures("unmirrored")
def test_ctrl_c_reaches_workers_that_see_only_the_bucket(
    copy: ToySweep, tasks: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
):
    (copy.results / ADDRESS).write_text(json.dumps({"url": f"{bucket}/study"}))
    clone = clone_in(copy.results)
    assert clone is not None

    def request_in_bucket(job: Job) -> str | None:
        assert job.stop is not None
        request = clone.objects.read(f"sweeps/toy/stop/{job.stop.path.name}")
        return request.decode() if request else None

    assert stopped_far_away(copy, tasks, monkeypatch, request_in_bucket) == ["now"] * LOOKS
    assert clone.objects.etags("sweeps/toy/stop/") == {}


@pytest.mark.slow
@pytest.mark.faults("F12", invariants=("I4", "I5", "I8"))
def test_ray_workers_keep_their_batches_when_an_evaluation_is_told_to_stop(copy: ToySweep, tasks: Path, figures):
    driver = subprocess.Popen(
        [*MOR_SWEEP, *words(copy, tasks, "many", "--workers", "2")],
        env=copy.environment | {VARIABLE: "slow kind=evaluate attempts=1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(lambda: batches(copy) >= 2)
    driver.send_signal(signal.SIGINT)
    output, _ = driver.communicate(timeout=200)
    assert driver.returncode == 130, output
    stopped = interruptions(copy)
    assert stopped
    assert leftovers(copy) == []
    resumed = score(copy, words(copy, tasks, "many", "--executor", "in-process"))
    assert resumed.returncode == 0, resumed.stderr
    for name, batch in stopped.items():
        result = Store(root=copy.results).result(name)
        assert result
        assert result.batches_executed == result.batches - batch
    figures("F12", f"Ctrl-C during eval: {len(stopped)} workers kept their batches, none was computed twice")

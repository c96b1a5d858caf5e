"""What the driver does about an attempt whose process takes no step and cannot end itself."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mor_core.data.snapshot import DataSnapshot
from mor_core.files import write_json
from orchestrator.cli.main import exit_code_of
from orchestrator.planning.costs.machine import Node, Request
from orchestrator.planning.identity import Segment
from orchestrator.records.status.sweep_status import SILENT_SECONDS, SILENT_STEPS, UnderWay, silent_seconds, state_text
from orchestrator.running.outcomes import FailureClass, Outcome
from orchestrator.running.ray.connection import ClusterUnreachable
from orchestrator.running.ray.executor import _Cluster, _Run
from orchestrator.running.ray.local_cluster import central_processes
from orchestrator.running.segment import train
from orchestrator.running.segment.job import Job
from orchestrator.running.segment.worker import run_segment
from orchestrator.running.stalls.detection import LONGEST_LOOK_SECONDS, MARGIN_SECONDS, StallWatch
from orchestrator.running.stalls.ending import end_frozen, record_stalled
from orchestrator.running.stalls.watchdog import (
    FIRST_STEP_FACTOR,
    REARM_SECONDS,
    SLOWEST_STEP_FACTOR,
    Superseded,
    Watchdog,
    stalled_run,
)
from orchestrator.store.attempts import LOCK, Attempt
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import open_store
from orchestrator.store.workers.sign_of_life import ProcessIdentity, Sign, this_process
from tests.faults.disturbances import wait_for
from tests.helpers.single_segment import job_for, segment_on

RUN = "a run"

WORKER = """
import sys, time
from pathlib import Path
from orchestrator.running.stalls.watchdog import Watchdog
from orchestrator.store.attempts import Attempt
with Watchdog(attempt=Attempt(folder=Path(sys.argv[1])), run="a run", seconds=float(sys.argv[2])) as watchdog:
    watchdog.step()
    print("stepped", flush=True)
    time.sleep(200)
"""


def sign_of(run: str = RUN, *, steps: int = 1, limit: float = 4.0, process: ProcessIdentity | None = None) -> Sign:
    return Sign(run=run, process=process or this_process(), steps=steps, limit_seconds=limit, slowest_step_seconds=0.1)


def write_sign(attempt: Attempt, sign: Sign) -> None:
    attempt.folder.mkdir(parents=True, exist_ok=True)
    write_json(attempt.sign, vars(sign) | {"process": vars(sign.process)})


def seconds_until_too_long(watch: StallWatch, names: list[str], tick: float, most: float) -> float | None:
    """By a clock that goes by ticks; None where nothing was too long."""
    for count in range(int(most / tick)):
        if list(watch.too_long(names, 1000.0 + count * tick)):
            return count * tick
    return None


@pytest.mark.parametrize("limit", [4.0, 600.0])
def test_an_attempt_without_a_sign_for_its_own_limit_and_a_margin_is_too_long_without_one(tmp_path: Path, limit: float):
    store = Store(root=tmp_path)
    write_sign(store.attempts("s").named("001-host-1"), sign_of(limit=limit))
    watch = StallWatch(store=store, run=RUN)
    seconds = seconds_until_too_long(watch, ["s"], 0.5, 2 * limit + 2 * MARGIN_SECONDS)
    assert seconds == pytest.approx(limit + MARGIN_SECONDS, abs=1.0)
    assert seconds_until_too_long(watch, ["s"], 0.5, limit) is None, "it starts from 0 again"


def test_what_gives_a_sign_is_left_alone_and_so_is_what_has_not_begun_or_is_anothers(tmp_path: Path):
    store = Store(root=tmp_path)
    store.attempts_folder("no attempt").mkdir(parents=True)
    (store.attempts_folder("no sign") / "001-host-1").mkdir(parents=True)
    write_sign(store.attempts("another run's").named("001-host-1"), sign_of("another run"))
    write_sign(store.attempts("given up").named("001-host-1"), sign_of())
    (store.attempts_folder("given up") / "001-host-1" / "failure.json").touch()
    (store.attempts_folder("given up") / "002-host-2").mkdir()
    watch = StallWatch(store=store, run=RUN)
    names = ["never queued", "no attempt", "no sign", "another run's", "given up", "alive"]
    for count in range(200):
        if count % 20 == 0:
            write_sign(store.attempts("alive").named("001-host-1"), sign_of(steps=count))
        assert not list(watch.too_long(names, 1000.0 + 0.5 * count))


def test_a_pause_of_the_driver_does_not_count(tmp_path: Path):
    store = Store(root=tmp_path)
    write_sign(store.attempts("s").named("001-host-1"), sign_of())
    watch = StallWatch(store=store, run=RUN)
    assert not list(watch.too_long(["s"], 0.0))
    assert not list(watch.too_long(["s"], 60.0))
    assert not list(watch.too_long(["s"], 60.0 + 4.0 + MARGIN_SECONDS - 2 * LONGEST_LOOK_SECONDS))


def test_a_watchdog_says_its_limit_and_its_steps_and_takes_its_sign_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    clock = [100.0]
    monkeypatch.setattr("orchestrator.running.stalls.watchdog.time.monotonic", lambda: clock[0])
    with Watchdog(attempt=Attempt(folder=tmp_path), run=RUN, seconds=100.0) as watchdog:
        first = Attempt(folder=tmp_path).read_sign()
        assert first
        assert (first.run, first.process, first.steps) == (RUN, this_process(), 0)
        assert first.limit_seconds == FIRST_STEP_FACTOR * 100.0
        for seconds in (REARM_SECONDS, 0.5 * REARM_SECONDS, 10.0):
            clock[0] += seconds
            watchdog.step()
        last = Attempt(folder=tmp_path).read_sign()
        assert last
        assert (last.steps, last.slowest_step_seconds) == (3, 10.0)
        assert last.limit_seconds == SLOWEST_STEP_FACTOR * 10.0
    assert not list(tmp_path.iterdir())


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[float], subprocess.Popen[str]]]:
    """Starts a process that has taken a step, and takes no other; its watchdog waits so many seconds."""
    started: list[subprocess.Popen[str]] = []

    def start(seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, str(tmp_path), str(seconds)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "stepped\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("time_is_up", [True, False])
def test_a_stopped_process_is_ended_with_its_stacks_or_with_what_the_kernel_says(
    tmp_path: Path, worker: Callable[[float], subprocess.Popen[str]], time_is_up: bool
):
    """Its own watchdog writes the stacks when it may go on, where its time is up by then."""
    process = worker(0.2 if time_is_up else 600.0)
    process.send_signal(signal.SIGSTOP)
    sign = Attempt(folder=tmp_path).read_sign()
    assert sign
    wait_for(sign.process.is_stopped)
    if time_is_up:
        time.sleep(FIRST_STEP_FACTOR * 0.2)
    assert end_frozen(Attempt(folder=tmp_path), sign, 75.0) == "ended"
    process.wait(10)
    text = Attempt(folder=tmp_path).stacks.read_text()
    assert stalled_run(Attempt(folder=tmp_path)) == RUN
    expected = 'File "<string>"' if time_is_up else f"the driver saw no step for 75 s)!\nprocess {process.pid} on "
    assert expected in text
    assert end_frozen(Attempt(folder=tmp_path), sign, 75.0) == "gone"


def test_a_process_that_has_the_number_of_one_that_is_gone_is_not_ended(
    tmp_path: Path, worker: Callable[[float], subprocess.Popen[str]]
):
    process = worker(600.0)
    sign = Attempt(folder=tmp_path).read_sign()
    assert sign
    earlier = replace(sign, process=replace(sign.process, started=sign.process.started - 1.0))
    assert end_frozen(Attempt(folder=tmp_path), earlier, 75.0) == "gone"
    assert process.poll() is None
    assert stalled_run(Attempt(folder=tmp_path)) is None


@pytest.fixture
def frozen_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], None]], None]:
    """Calls something in the place of a step of the first attempt: what others do while it is frozen."""

    def freeze(step: int, meanwhile: Callable[[], None]) -> None:
        def rehearse(_model: object, where: Callable[[], dict[str, Any]]) -> None:
            at = where()
            if (at["step"], at["attempt"]) == (step, 1):
                meanwhile()

        monkeypatch.setattr(train, "rehearse", rehearse)

    return freeze


def give_up(segment: Segment, store: Store) -> None:
    """What the driver does about an attempt whose process it cannot end."""
    (attempt,) = (attempt for attempt in store.attempts(segment.id) if attempt.stacks.exists())
    with attempt.stacks.open("a") as file:
        file.write("Timeout (the driver saw no step for 75 s)!\n")
    assert record_stalled(segment, RUN, store) == 1
    store.attempts(segment.id).abandon_lock()


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.faults("F9", "F24", invariants=("I2", "I3"))
@pytest.mark.parametrize("at_the_end", [False, True])
def test_a_frozen_attempt_that_wakes_after_the_retry_began_leaves_without_writing_anything(
    data: DataSnapshot, tmp_path: Path, frozen_at, at_the_end: bool
):
    """It wakes while the retry is at its last step, or after it was published: either way one segment, written once."""
    segment, store, job = segment_on(data), Store(root=tmp_path), job_for(tmp_path, data, run=RUN)
    retry: list[Outcome] = []
    begun, woken = threading.Event(), threading.Event()

    def second() -> None:
        retry.append(run_segment(segment, job))

    def hold(step: int) -> None:
        if step == segment.stop_step and not at_the_end:
            begun.set()
            assert woken.wait(60)

    # The retry is a thread of its own, and gets to the end or to its last step while the first attempt stands still.
    thread = threading.Thread(target=second)
    while_frozen: dict[str, bytes] = {}

    def meanwhile() -> None:
        give_up(segment, store)
        thread.start()
        if at_the_end:
            thread.join(60)
        else:
            assert begun.wait(60)
        while_frozen.update(tree(_first(store, segment)))

    frozen_at(25, meanwhile)
    with pytest.MonkeyPatch.context() as patch:
        is_logged = train._is_logged
        patch.setattr(
            train,
            "_is_logged",
            lambda run, step: (hold(step) if run.attempt.name.startswith("002") else None) or is_logged(run, step),
        )
        first = run_segment(segment, job)
        woken.set()
        thread.join(60)
    assert (first.status, first.failure) == ("failed", FailureClass.stalled)
    assert [outcome.status for outcome in retry] == ["finished"]
    result = store.result(segment.id)
    assert result
    assert (result.steps_executed, result.attempts) == (20, 2)
    assert [path.name for path in (tmp_path / "segments").iterdir()] == [segment.id]
    left = tree(_first(store, segment))
    kept = {name: content for name, content in while_frozen.items() if name in left and name != "log.txt"}
    assert {name: left[name] for name in kept} == kept
    assert left.keys() <= while_frozen.keys()


def _first(store: Store, segment: Segment) -> Path:
    return next(path for path in store.attempts_folder(segment.id).iterdir() if path.name.startswith("001"))


@pytest.mark.faults("F9", "F24", invariants=("I3",))
def test_an_attempt_that_was_frozen_after_its_last_step_does_not_publish(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    segment, store = segment_on(data), Store(root=tmp_path)
    save = train.save_checkpoint

    def save_and_freeze(folder: Path, *arguments: Any) -> None:
        save(folder, *arguments)
        if folder.name == "final":
            give_up(segment, store)

    monkeypatch.setattr(train, "save_checkpoint", save_and_freeze)
    assert run_segment(segment, job_for(tmp_path, data, run=RUN)).failure is FailureClass.stalled
    assert not store.is_done(segment.id)


def test_a_step_of_an_attempt_that_was_given_up_is_refused(tmp_path: Path):
    with Watchdog(attempt=Attempt(folder=tmp_path), run=RUN, seconds=600.0) as watchdog:
        watchdog.step()
        (tmp_path / "failure.json").write_text("{}")
        time.sleep(0.2)
        with pytest.raises(Superseded):
            watchdog.step()


class Ray:
    """As much of ray as submitting and giving up takes: tasks are never done."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self) -> None:
        self.submitted: list[dict[str, Any]] = []
        self.cancelled: list[object] = []

    def remote(self, **_settings: Any) -> Callable[[Callable], SimpleNamespace]:
        def submit(**options: Any) -> SimpleNamespace:
            self.submitted.append(options)
            return SimpleNamespace(remote=lambda *_: f"task {len(self.submitted)}")

        return lambda _function: SimpleNamespace(options=submit)

    def cancel(self, reference: object, *, force: bool) -> None:
        assert force
        self.cancelled.append(reference)


def run_of(ray: Ray, job: Job, gpus: float) -> _Run:
    cluster = _Cluster(name="the cluster", head="", central={})
    store, request = open_store(job.results), Request(workers=1, gpus=gpus)
    run = _Run(ray=ray, store=store, job=job, request=request, shares={}, cluster=cluster)  # type: ignore
    run.nodes = [Node(cpus=1, gpus=gpus)]
    return run


def freeze(run: _Run, segment: Segment, store: Store, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """An attempt that shows no sign for too long, in a process that no signal ends."""
    monkeypatch.setattr(ProcessIdentity, "end", lambda _self, _seconds: False)
    attempt = store.new_attempt(segment)
    write_sign(attempt, sign_of(limit=-MARGIN_SECONDS))
    attempt.stacks.write_text(f"run {RUN}\n")
    outcomes: list[Outcome] = []
    for now in (0.0, 1.0):
        monkeypatch.setattr(
            "orchestrator.running.ray.executor.time.monotonic", lambda now=now: now + 1000.0 * len(run.reached)
        )
        outcomes += run._given_up()
    return outcomes


def test_a_process_that_cannot_be_ended_is_given_up_and_its_segment_tried_again_once(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its lock and its CPU, which no kill frees, do not keep the retry from starting."""
    segment, store, ray = segment_on(data), Store(root=tmp_path), Ray()
    run = run_of(ray, job_for(tmp_path, data, run=RUN), gpus=0)
    run._submit(segment)
    store.attempts_folder(segment.id).mkdir(parents=True)
    (store.attempts_folder(segment.id) / LOCK).touch()
    assert freeze(run, segment, store, monkeypatch) == []
    assert not (store.attempts_folder(segment.id) / LOCK).exists()
    assert ray.cancelled == ["task 1"]
    assert [options["num_cpus"] for options in ray.submitted] == [1, 0]
    (outcome,) = freeze(run, segment, store, monkeypatch)
    assert (outcome.status, outcome.failure) == ("failed", FailureClass.stalled)
    assert outcome.reason.endswith("; its process cannot be ended")
    assert not run.running
    assert list(run._ended()) == [], "nothing is waited for"


def test_a_segment_whose_frozen_process_keeps_its_gpu_is_not_tried_again(
    data: DataSnapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    segment, store, ray = segment_on(data), Store(root=tmp_path), Ray()
    run = run_of(ray, job_for(tmp_path, data, run=RUN), gpus=1)
    run._submit(segment)
    (outcome,) = freeze(run, segment, store, monkeypatch)
    assert outcome.failure is FailureClass.stalled
    assert len(ray.submitted) == 1


def test_status_says_for_how_long_no_step_was_taken(data: DataSnapshot, tmp_path: Path):
    segment, store = segment_on(data), Store(root=tmp_path)
    attempt = store.new_attempt(segment)
    assert silent_seconds(store, segment.id) is None
    write_sign(attempt, sign_of())
    assert silent_seconds(store, segment.id) is None
    then = time.time() - 2.5 * SILENT_SECONDS
    os.utime(attempt.sign, (then, then))
    assert silent_seconds(store, segment.id) in range(75, 90)
    write_sign(attempt, replace(sign_of(), slowest_step_seconds=3 * SILENT_SECONDS / SILENT_STEPS))
    os.utime(attempt.sign, (then, then))
    assert silent_seconds(store, segment.id) is None, "its steps are slow"


def test_status_shows_it_beside_the_step():
    cell: Any = SimpleNamespace(status="pending", reason="")
    under_way = UnderWay(segment_id="s", kind="stable", step=1, stop_step=46, running=True, cell_ids=("c",))
    assert state_text(cell, under_way) == "running: stable at step 1 of 46"
    silent = replace(under_way, silent_seconds=75)
    assert state_text(cell, silent) == "running: stable at step 1 of 46, no step for 75 s"


@pytest.mark.parametrize("name", ["gcs_server", "raylet"])
def test_a_local_ray_without_one_of_its_central_processes_is_lost(tmp_path: Path, name: str):
    (tmp_path / name).symlink_to("/bin/sleep")
    with subprocess.Popen([tmp_path / name, "600"]) as process:
        cluster = _Cluster(name="the Ray cluster of this machine", head="", central=central_processes())
        cluster.refuse_lost_processes()
        process.kill()
        with pytest.raises(ClusterUnreachable, match=f"of this machine is lost: its process {name} has ended") as error:
            wait_until_raised(cluster.refuse_lost_processes)
    assert exit_code_of(error.value) == 6
    assert "interrupted, not failed" in str(error.value)


def wait_until_raised(look: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        look()
        time.sleep(0.01)

"""What a cluster holds, checked before anything is started; GPUs that only the scheduler believes in."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mor_core.data.prepare import prepare
from orchestrator.planning.costs.machine import Request, parallel_segments
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.running.ray.connection import connected, run_on_host
from orchestrator.running.ray.executor import RayExecutor
from orchestrator.running.segment.job import Job
from orchestrator.running.stalls.ending import end_frozen
from orchestrator.running.stalls.watchdog import stalled_run
from orchestrator.store.attempts import Attempt
from orchestrator.store.workers.sign_of_life import Sign, started, this_process
from tests.helpers.paths import TOY_PRESET
from tests.helpers.ray_cluster import cluster
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[Any]:
    with cluster({"num_cpus": 8, "num_gpus": 2}) as nodes:
        yield nodes


def preset(folder: Path, execution: str) -> tuple[str, ...]:
    path = folder / "preset.toml"
    path.write_text(TOY_PRESET.read_text() + execution)
    return ("--preset", str(path))


@pytest.mark.slow
@pytest.mark.faults("F15")
def test_a_share_of_a_gpu_is_what_each_task_takes_and_what_the_cluster_is_filled_by(two_gpus: Any, toy: ToySweep):
    executor = RayExecutor(workers=1, address=two_gpus.address, gpus_per_segment=0.5)
    assert parallel_segments(Request(gpus=1.0), executor.nodes()) == 2
    assert parallel_segments(Request(gpus=0.5), executor.nodes()) == 4
    spec = load_spec(str(TOY_PRESET), [Override(flag="--data", path=("data", "corpus"), value=str(toy.text))])
    data = prepare(spec.data_spec, toy.cache)
    segments = plan(spec, data).segments
    toy.results.mkdir()
    job = Job(results=toy.results, data_folder=data.folder, checkpoint_every_steps=20)
    events = executor.run(segments, job, {})
    free: list[float] = []
    done = []
    for outcome in events:
        import ray

        free.append(ray.available_resources().get("GPU", 0.0))
        done += [outcome] if outcome else []
    assert {outcome.status for outcome in done} == {"finished"}
    assert len(done) == len(segments)
    assert {0.5, 1.0, 1.5} & set(free), "GPUs were taken by halves"
    assert min(free) == 0.0, "the four trunks ran at the same time"


@pytest.mark.slow
def test_segments_take_the_share_of_their_shape_and_a_whole_gpu_beside_them(two_gpus: Any, toy: ToySweep):
    """Of four trunks one asks for a whole GPU and the others for an eighth each."""
    spec = load_spec(str(TOY_PRESET), [Override(flag="--data", path=("data", "corpus"), value=str(toy.text))])
    data = prepare(spec.data_spec, toy.cache)
    segments = [segment for segment in plan(spec, data).segments if not segment.needs]
    assert len(segments) == 4
    shares = {segment.id: 0.125 if place else 1.0 for place, segment in enumerate(segments)}
    executor = RayExecutor(workers=1, address=two_gpus.address, gpu_shares=shares)
    toy.results.mkdir()
    job = Job(results=toy.results, data_folder=data.folder, checkpoint_every_steps=20)
    taken, done = set(), []
    for outcome in executor.run(segments, job, {}):
        import ray

        taken.add(round(2 - ray.available_resources().get("GPU", 0.0), 3))
        done += [outcome] if outcome else []
    assert {outcome.status for outcome in done} == {"finished"}
    assert len(done) == len(segments)
    assert max(taken) <= 2
    assert {1.125, 1.25, 1.375} & taken, "a whole GPU and eighths were taken at the same time"


@pytest.mark.slow
@pytest.mark.faults("F15")
def test_more_workers_than_the_cluster_has_gpus_are_refused_before_anything_is_tried(
    two_gpus: Any, toy: ToySweep, tmp_path: Path
):
    flags = preset(tmp_path, "workers_per_segment = 4\n")
    done = toy.run("--address", two_gpus.address, *flags, executor="ray")
    assert done.returncode == 4
    assert (
        f"error: each segment asks for 4 workers with 1 CPU and 1 GPU each, and the Ray cluster at {two_gpus.address} "
        "has 8 CPUs and 2 GPUs on 1 node: lower execution.workers_per_segment or execution.gpus_per_segment, or add "
        "nodes"
    ) in done.stderr
    assert not toy.published()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["isoflop", "tune"])
def test_a_dry_run_for_a_cluster_plans_for_what_the_cluster_has(two_gpus: Any, toy: ToySweep, verb: str):
    where = ["--preset", str(TOY_PRESET), "--data", str(toy.text), "--results", str(toy.results)]
    flags = {"isoflop": [], "tune": ["--only", "vanilla", "--sizes", "13k", "--tokens-per-param", "1"]}[verb]
    asked = [*MOR_SWEEP, verb, *where, *flags, "--address", two_gpus.address, "--dry-run", "--json"]
    done = subprocess.run(asked, env=toy.environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["schema"] == "mor-sweep.plan/1"
    throughput = told["data"]["estimate"]["throughput"]
    assert (throughput["workers"], throughput["device"]) == (2, "cuda")
    assert told["data"]["estimate"]["hours_unit"] == "GPU-hours"


@pytest.mark.slow
@pytest.mark.faults("F24")
def test_a_frozen_process_is_ended_by_a_task_on_its_own_node(two_gpus: Any, tmp_path: Path):
    with connected(two_gpus.address, 1) as ray, subprocess.Popen(["sleep", "600"]) as frozen:
        frozen.send_signal(signal.SIGSTOP)
        attempt = Attempt(folder=tmp_path)
        attempt.stacks.write_text("run a run\n")
        process = replace(this_process(), pid=frozen.pid, started=started(frozen.pid))
        sign = Sign(run="a run", process=process, steps=1, limit_seconds=4.0, slowest_step_seconds=0.1)
        attempt.sign.write_text(json.dumps(vars(sign) | {"process": vars(process)}))
        arguments = (end_frozen, attempt, sign, 75.0)
        assert run_on_host(ray, "no such node", *arguments, seconds=60.0) is None
        assert frozen.poll() is None
        assert run_on_host(ray, socket.gethostname(), *arguments, seconds=60.0) == "ended"
        assert frozen.wait(10) == -signal.SIGKILL
    assert stalled_run(attempt) == "a run"


@pytest.mark.slow
def test_rounds_of_a_search_share_gpus_as_a_sweep_does(two_gpus: Any, toy: ToySweep, tmp_path: Path):
    flags = [*preset(tmp_path, 'gpus_per_segment = "auto"\n'), "--data", str(toy.text), "--results", str(toy.results)]
    space = ["--only", "vanilla", "--sizes", "13k", "--trials", "4", "--tokens-per-param", "2", "--no-mlflow", "--yes"]
    asked = [*MOR_SWEEP, "tune", *flags, *space, "--address", two_gpus.address]
    process = subprocess.Popen(asked, env=toy.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    import ray

    taken = set()
    with connected(two_gpus.address, 1):
        while process.poll() is None:
            taken.add(round(2 - ray.available_resources().get("GPU", 0.0), 3))
            time.sleep(0.02)
    out, err = process.communicate()
    assert process.returncode in (0, 5), err + out
    shares = taken - {0.0}
    assert shares
    assert all(round(share * 8) / 8 == share and share < 1 for share in shares), "each trial takes an eighth of a GPU"


@pytest.mark.slow
@pytest.mark.faults("F15")
def test_a_gpu_that_this_machine_does_not_have_is_refused_and_nothing_waits_for_it(
    toy: ToySweep, tmp_path: Path, figures
):
    done = toy.run("--workers", "1", *preset(tmp_path, "gpus_per_segment = 0.25\n"), executor="ray")
    assert done.returncode == 4
    said = (
        "each segment asks for 1 CPU and 0.25 GPUs, and the Ray cluster of this machine has 1 CPU and 0 GPUs on 1 node"
    )
    assert said in done.stderr
    attempts = list(toy.results.glob("attempts/*/*"))
    assert not attempts
    figures(
        "F15", f"exit code {done.returncode}, {len(attempts)} attempts begun: 0.25 GPUs asked for where there are none"
    )

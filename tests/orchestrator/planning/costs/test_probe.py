"""The throughput probe: real steps in processes of their own, remembered by shape and numerics."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import psutil
import pytest

from mor_core.training.rehearsal import VARIABLE
from orchestrator.planning.costs.probe import cached_probes, probe, probe_file, this_setting, to_probe
from orchestrator.planning.costs.speeds import Basis, rates_of, shapes_of
from orchestrator.planning.plan import plan
from tests.helpers.paths import SMALL_PRESET

TINY = {"sizes": {"names": ["13k"]}, "budgets": ["1.5e11"], "arms.architectures": ["vanilla"]}


@pytest.fixture
def setting():
    return this_setting("cpu", micro_batch=None, compiled=False, activation_checkpointing=False, deterministic=True)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MOR_SWEEP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "probes"


@pytest.mark.slow
def test_a_probe_measures_once_and_is_found_again_only_for_equal_numerics(small_sweep, setting, cache):
    planned, said = plan(small_sweep(TINY), None), []
    found = probe(planned, setting, said.append)
    (shape,) = shapes_of(planned)
    assert found[shape].tokens_per_second > 0
    assert 10 * 2**20 < found[shape].memory_bytes < 4 * 2**30
    assert said[0].startswith("probe 1 of 1: vanilla 13k, ")
    assert "tokens/s over" in said[0]
    assert probe(planned, setting, said.append) == found
    assert len(said) == 1, "what is known is not measured again"
    assert cached_probes(planned, setting, said.append) == found
    for other in ({"torch": "0.0"}, {"device_name": "another"}, {"threads": 2}, {"compile": True}, {"micro_batch": 2}):
        assert cached_probes(planned, replace(setting, **other), said.append) == {}
    assert {rate.basis for rate in rates_of(planned, "cpu", {}, found).values()} == {Basis.probe}
    (path,) = cache.iterdir()
    assert json.loads(path.read_text())["setting"]["torch"] == setting.torch


@pytest.mark.parametrize("content", ["{", '{"schema": "other/9"}', '{"schema": "mor-sweep.probe/1"}', "[]"])
def test_a_probe_on_file_that_cannot_be_read_is_named_and_counts_as_none(small_sweep, setting, cache, content):
    planned, said = plan(small_sweep(TINY), None), []
    path = probe_file(shapes_of(planned)[0], setting)
    path.parent.mkdir(parents=True)
    path.write_text(content)
    assert cached_probes(planned, setting, said.append) == {}
    (line,) = said
    assert line.startswith(f"note: {path} cannot be read (")
    assert line.endswith("another probe measures it again")


def test_a_probe_takes_few_shapes_of_each_arm_and_none_that_this_machine_cannot_hold(small_sweep, setting):
    planned = plan(small_sweep(), None)
    chosen = to_probe(planned, setting, {})
    assert len(chosen) == 6
    assert len(shapes_of(planned)) > 6
    ends = {min(shapes_of(planned), key=lambda shape: shape.model.d_model).model.d_model}
    assert ends <= {shape.model.d_model for shape in chosen}
    huge = plan(small_sweep({"sizes": {"names": ["1.7B"]}, "budgets": ["1e19"], "model.context_length": 2048}), None)
    assert to_probe(huge, setting, {}) == []


@pytest.mark.slow
def test_a_probe_whose_process_is_killed_is_reported_and_the_other_shapes_are_measured(
    small_sweep, setting, cache, monkeypatch
):
    planned = plan(small_sweep({**TINY, "sizes": {"names": ["13k", "23k"]}}), None)
    monkeypatch.setenv(VARIABLE, "slow step=0")
    killed = threading.Event()

    def kill_the_first():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed.is_set():
            for child in psutil.Process().children():
                if "orchestrator.planning.costs.probe_steps" in " ".join(child.cmdline()):
                    child.kill()
                    killed.set()
                    return
            time.sleep(0.01)

    said = []
    thread = threading.Thread(target=kill_the_first)
    thread.start()
    found = probe(planned, setting, said.append)
    thread.join()
    assert killed.is_set()
    assert "probe 1 of 2: vanilla 13k, not measured: its process ended with signal 9" in said[0]
    assert "probe 2 of 2: vanilla 23k, " in said[1]
    assert [shape.model.d_model for shape in found] == [shapes_of(planned)[1].model.d_model]
    rates = rates_of(planned, "cpu", {}, found)
    assert {rate.basis for rate in rates.values()} == {Basis.probe, Basis.interpolated}


@pytest.mark.slow
def test_a_command_that_is_killed_while_it_probes_leaves_what_it_measured(small_sweep, setting, cache):
    """kill -9 of the measuring process itself: no torn file, and the next one measures only what is missing."""
    planned = plan(small_sweep({**TINY, "sizes": {"names": ["13k", "23k"]}}), None)
    script = (
        "import sys; from orchestrator.cli.main import main; sys.argv = ['mor-sweep', 'isoflop', '--preset', "
        f"{str(SMALL_PRESET)!r}, '--sizes', '13k,23k', '--budgets', '1.5e11', '--arms', 'vanilla', '--dry-run', "
        "'--probe', '--results', '/nonexistent']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (cache.is_dir() and list(cache.glob("*.json"))):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    said = []
    known = cached_probes(planned, setting, said.append)
    assert said == []
    assert len(known) >= 1
    assert len(probe(planned, setting, said.append)) == 2
    assert len(said) == 2 - len(known)

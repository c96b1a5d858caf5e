"""`mor-sweep tune` on real small models: it goes on after a kill, two of it share their work, and it finds the rate."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.records.revisions import load_sweep
from orchestrator.store.store import Store
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep

COMMON = ["--only", "vanilla", "--sizes", "5.5k,13k", "--executor", "in-process", "--no-mlflow", "--yes"]
LONGEST = 1500.0
"""Seconds that a command of these tests may take where other work holds every core."""

SEARCH = ["--trials", "5", "--tokens-per-param", "2", "--learning-rate", "3e-3:3e-1"]


def command(toy: ToySweep, *flags: str) -> list[str]:
    where = ["--preset", str(TOY_PRESET), "--data", str(toy.text), "--results", str(toy.results)]
    return [*MOR_SWEEP, "tune", *where, *COMMON, *SEARCH, *flags]


def start(toy: ToySweep, *flags: str) -> subprocess.Popen:
    return subprocess.Popen(
        command(toy, *flags), env=toy.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=LONGEST)
    return process.returncode, out, err


def tuned(toy: ToySweep) -> dict[str, Any]:
    return json.loads((toy.results / "sweeps/tune-toy/tuned.json").read_text())["data"]


def published(toy: ToySweep) -> set[str]:
    return {path.parent.name for path in toy.results.glob("segments/*/result.json")}


@pytest.mark.slow
@pytest.mark.timeout(4 * LONGEST)
def test_a_killed_tuning_goes_on_and_ends_with_the_same_trials(toy: ToySweep, tmp_path: Path):
    undisturbed = ToySweep(results=tmp_path / "undisturbed", text=toy.text, cache=toy.cache)
    code, _, err = finish(start(undisturbed))
    assert code in (0, 5), err
    wanted = len(published(undisturbed))
    for share in (0.2, 0.7):
        process = start(toy)
        deadline = time.monotonic() + LONGEST
        while len(published(toy)) < share * wanted and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    code, _, err = finish(start(toy))
    assert code in (0, 5), err
    assert published(toy) == published(undisturbed)
    assert tuned(toy) == tuned(undisturbed)
    assert [len(rung["trials"]) for rung in tuned(toy)["rungs"]] == [5, 5]
    code, out, err = finish(start(toy, "--json"))
    assert code in (0, 5)
    assert json.loads(out) == {"schema": "mor-sweep.tune/1", "data": tuned(toy)}
    assert published(toy) == published(undisturbed), "a finished tuning trains nothing more"


@pytest.mark.slow
@pytest.mark.timeout(2 * LONGEST)
def test_two_tunings_at_once_share_their_trials(toy: ToySweep):
    both = [start(toy), start(toy)]
    ends = [finish(each) for each in both]
    assert all(code in (0, 5) for code, _, _ in ends), ends
    rungs = tuned(toy)["rungs"]
    assert all(5 <= len(rung["trials"]) <= 9 for rung in rungs)
    assert all(trial["losses"] for rung in rungs for trial in rung["trials"])
    sweep = load_sweep(Store(root=toy.results), "tune-toy")
    assert published(toy) == set(sweep.segments)


@pytest.mark.slow
@pytest.mark.timeout(2 * LONGEST)
def test_the_best_rate_that_it_finds_loses_little_against_a_fine_scan(toy: ToySweep):
    """In loss, not in rate: near its lowest place the loss is so flat, and its noise so large, that rates a factor
    apart cannot be told from each other; what the rate found costs can."""
    flags = ["--sizes", "13k", "--learning-rate", "1e-3:3e-1", "--tokens-per-param", "4"]
    code, _, err = finish(start(toy, *flags, "--trials", "7", "--name", "tuned"))
    assert code == 0, err
    code, _, err = finish(start(toy, *flags, "--trials", "12", "--name", "scan"))
    assert code == 0, err
    found, fine = (
        json.loads((toy.results / f"sweeps/{name}/tuned.json").read_text())["data"] for name in ("tuned", "scan")
    )
    optimum = found["rungs"][0]["optimum"]["learning_rate"]["value"]
    scanned = sorted((trial["values"]["learning_rate"], *trial["losses"]) for trial in fine["rungs"][0]["trials"])
    rates, losses = np.array(scanned).T
    assert np.ptp(losses) > 0.5, "a scan that is flat cannot tell a good rate from a bad one"
    assert np.interp(np.log(optimum), np.log(rates), losses) < losses.min() + 0.02
    recipe = (toy.results / "sweeps/tuned/recipe.toml").read_text()
    assert "[train.learning_rate.vanilla]" in recipe
    assert "exponent = 0" in recipe, "one rung cannot tell how the rate grows"


@pytest.mark.slow
def test_a_search_space_that_diverges_ends_with_a_verdict(toy: ToySweep):
    flags = ["--sizes", "5.5k", "--trials", "2", "--learning-rate", "1e6:1e9", "--tokens-per-param", "1"]
    process = start(toy, *flags)
    code, out, err = finish(process)
    assert code in (3, 5), err
    assert "diverged" in out
    assert "lower the learning rates" in out
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--learning-rate", "0.1:0.01"], "LOW:HIGH"),
        (["--learning-rate", "fast"], "expected a number above 0"),
        (["--batch-size", "8"], "two numbers or more"),
        (["--warmup", "0.1:1.5"], "both below 1"),
        (["--sizes", "13q"], "size '13q' is unknown"),
        (["--seeds", "-1"], "whole numbers"),
    ],
)
def test_flags_that_cannot_be_tried_are_refused(toy: ToySweep, flags: list[str], said: str):
    from typer.testing import CliRunner

    from orchestrator.cli.main import app
    from orchestrator.planning.spec.sweep_file import SpecError

    asked = CliRunner().invoke(app, command(toy, *flags)[len(MOR_SWEEP) :])
    assert isinstance(asked.exception, SpecError)
    assert said in str(asked.exception)
    assert not toy.results.exists()

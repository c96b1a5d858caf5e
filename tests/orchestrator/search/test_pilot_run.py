"""`mor-sweep pilot` on real small models, in one process."""

import json

import pytest

from orchestrator.planning.spec.sweep_spec import load_spec
from tests.helpers.paths import TOY_PRESET
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, run_here


def pilot(toy: ToySweep, *flags: str):
    where = ["--preset", str(TOY_PRESET), "--data", str(toy.text), "--results", str(toy.results), "--only", "vanilla"]
    grid = ["--sizes", "5.5k,10k,13k,23k", "--budgets", "3e8,6e8", "--replicates", "2"]
    how = ["--executor", "in-process", "--no-mlflow", "--yes"]
    return run_here(["pilot", *where, *grid, *how, *flags], toy.environment)


@pytest.mark.slow
def test_a_pilot_trains_says_what_it_saw_and_writes_a_sweep_that_plans(toy: ToySweep):
    done = pilot(toy, "--json")
    assert done.returncode in (0, 5), done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "mor-sweep.pilot/1"
    noise = found["data"]["noise"]["vanilla"]
    assert 0 < noise["sd"]["low"] < noise["sd"]["value"] < noise["sd"]["high"]
    assert noise["cells"] == 2 * 2 * 3, "two seeds of three sizes at two budgets"
    assert found["data"]["tokens_per_second"]["vanilla"] > 0
    advised = toy.results / "sweeps/pilot-toy/advised.toml"
    assert load_spec(str(advised)).name == "toy"
    asked = run_here(
        [*toy.command("--dry-run")[len(MOR_SWEEP) :], "--preset", str(advised)], toy.environment
    )  # The later --preset holds.
    assert asked.returncode == 0, asked.stderr
    before, text = toy.published(), advised.read_text()
    again = pilot(toy)
    assert again.returncode == done.returncode
    assert "nothing to train" in again.stderr
    assert (toy.published(), advised.read_text()) == (before, text)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--replicates", "1"], "--replicates"),
        (["--sizes", "13q"], "--sizes"),
        (["--budgets", "much"], "--budgets"),
    ],
)
def test_what_cannot_be_asked_of_a_pilot_is_refused(toy: ToySweep, flags: list[str], said: str):
    done = pilot(toy, *flags)
    assert done.returncode == 2
    assert said in done.stderr
    assert not toy.results.exists()

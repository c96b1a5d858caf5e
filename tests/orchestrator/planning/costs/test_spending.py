"""Limits on what one command takes, through the command line, with cells that are really trained."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mor_core.training.rehearsal import VARIABLE
from tests.faults.disturbances import failures
from tests.helpers.toy_sweep import MOR_SWEEP, ToySweep, run_here

FEW = ("--sizes", "13k", "--arms", "vanilla")
"""Three cells: nine segments."""


def plan_of(toy: ToySweep, *flags: str) -> dict:
    done = run_here(toy.command("--dry-run", "--json", *flags)[len(MOR_SWEEP) :], toy.environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["data"]


@pytest.mark.slow
def test_so_many_cells_are_finished_at_a_time_until_the_sweep_is_whole(toy: ToySweep, reference: ToySweep):
    first = toy.run("--max-cells", "5")
    assert first.returncode == 0, first.stderr
    said = " ".join(first.stderr.split())
    assert "the limit of 5 cells leaves 7 of 12 open cells for later; the same command goes on with them" in said
    assert "[5/12]" in said
    assert "5 of 12 cells finished" in said
    assert "7 cells are left for later: the same command goes on with them" in said
    assert "plot frontier" not in said, "nothing to fit yet"
    status = run_here(["status", "--results", str(toy.results), "--json"], toy.environment)
    states = [row["status"] for row in json.loads(status.stdout)["data"]["runs"]]
    assert sorted(states) == ["finished"] * 5 + ["pending"] * 7
    assert toy.run("--max-cells", "7").returncode == 0
    assert toy.science().equals(reference.science())
    assert "left for later" not in toy.run("--max-cells", "1").stderr


@pytest.mark.slow
def test_hours_are_spent_on_whole_cells_and_the_same_command_goes_on(toy: ToySweep):
    cost = plan_of(toy, *FEW)["estimate"]
    assert (cost["hours_unit"], cost["price_per_hour"], cost["money"]) == ("core-hours", None, None)
    limited = toy.run(*FEW, "--max-gpu-hours", str(cost["hours"] / 2))
    assert limited.returncode == 0, limited.stderr
    assert "open cells for later" in limited.stderr
    finished = plan_of(toy, *FEW)
    assert 0 < finished["estimate"]["hours_remaining"] < finished["estimate"]["hours"]
    assert {cell["cost"]["basis"] for cell in finished["cells"]} == {"earlier runs"}
    assert "cells are left for later" not in toy.run(*FEW).stderr
    assert len(toy.published()) == 9


@pytest.mark.slow  # A verb that scores tasks says the same by default: see test_tasks_stopped.
def test_where_the_estimate_was_far_too_low_nothing_more_starts_once_the_hours_are_used(toy: ToySweep, tmp_path: Path):
    """At the assumed speed all cells fit; on this machine the first segments already take longer than was allowed."""
    toy.variables["MOR_SWEEP_CACHE"] = str(tmp_path / "fresh")  # No other sweep has told this machine's speed.
    cost = plan_of(toy, *FEW)["estimate"]
    done = toy.run(*FEW, "--max-gpu-hours", str(cost["hours"] * 1.01))
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stderr.split())
    assert "core-hours are used, and " in said
    assert said.count("nothing else starts") == 1
    assert "cells are left for later: the same command goes on with them" in said
    assert 0 < len(toy.published()) < 9
    assert toy.run(*FEW).returncode == 0
    assert len(toy.published()) == 9


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["--price-per-gpu-hour", "-2"], 2, "found -2, expected a number above 0"),
        (["--price-per-gpu-hour", "nan"], 2, "found nan, expected a number above 0"),
        (["--max-gpu-hours", "0"], 2, "found 0, expected a number above 0"),
        (["--max-gpu-hours", "inf"], 2, "found inf, expected a number above 0"),
        (["--max-cells", "0"], 2, "error: --max-cells: found '0', expected a number of at least 1"),
        (["--max-gpu-hours", "1e-9"], 4, "error: --max-gpu-hours 1e-09: less than any cell takes"),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused_and_nothing_is_trained(
    toy: ToySweep, flags: list[str], code: int, sentence: str
):
    done = toy.run(*flags)
    assert done.returncode == code
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not toy.published()


def test_money_is_hours_times_their_price(toy: ToySweep):
    priced = plan_of(toy, "--price-per-gpu-hour", "3.5")
    assert priced["estimate"]["money"] == pytest.approx(3.5 * priced["estimate"]["hours"])
    assert sum(cell["cost"]["money"] for cell in priced["cells"]) == pytest.approx(priced["estimate"]["money"])
    shown = run_here(toy.command("--dry-run", "--price-per-gpu-hour", "3.5")[len(MOR_SWEEP) :], toy.environment)
    assert "at 3.5 per core-hour" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 120


def test_a_defect_that_only_evaluations_have_stops_after_two_cells(toy: ToySweep):
    toy.variables[VARIABLE] = "raise kind=evaluate"
    done = toy.run()
    assert done.returncode == 3
    said = " ".join(done.stderr.split())
    assert said.count("failed alike, so no other is started: error: RuntimeError: a defect was rehearsed") == 1
    assert len(failures(toy)) == 2
    kinds = [json.loads(data)["kind"] for data in toy.published().values()]
    assert kinds.count("decay") == 2, "what two cells take, and nothing else is cooled down"
    assert "evaluate" not in kinds


@pytest.mark.slow
def test_a_probe_before_a_dry_run_is_shown_as_the_basis_and_used_again(toy: ToySweep, tmp_path):
    toy.variables["MOR_SWEEP_CACHE"] = str(tmp_path / "fresh")
    command = toy.command("--dry-run", "--probe")
    once = subprocess.run(command, env=toy.environment, capture_output=True, text=True, timeout=280, check=False)
    assert once.returncode == 0, once.stderr
    assert once.stderr.count("tokens/s over") == 4
    assert "measured by a probe: 4 shapes" in once.stdout
    again = plan_of(toy)
    assert {cell["cost"]["basis"] for cell in again["cells"]} == {"probe"}


def test_the_speed_of_a_sweep_is_remembered_for_other_results_folders(toy: ToySweep, tmp_path: Path):
    toy.variables["MOR_SWEEP_CACHE"] = str(tmp_path / "fresh")
    assert {cell["cost"]["basis"] for cell in plan_of(toy)["cells"]} == {"assumed"}
    assert toy.run(*FEW).returncode == 0
    elsewhere = replace(toy, results=tmp_path / "elsewhere")
    told = plan_of(elsewhere)
    assert {cell["cost"]["basis"] for cell in told["cells"]} == {"other sweeps"}
    (file,) = (tmp_path / "fresh" / "speeds").iterdir()
    file.write_text("{")
    damaged = run_here(elsewhere.command("--dry-run")[len(MOR_SWEEP) :], elsewhere.environment)
    assert damaged.returncode == 0
    assert f"note: {file} cannot be read" in damaged.stderr

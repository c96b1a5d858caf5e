"""What a pilot trains, and the sweep file that it writes around what it found."""

import io
from pathlib import Path

import pytest

from analysis.advice.pilot import FoundOptimum
from analysis.statistics.answers import Estimate, Refusal
from orchestrator.cli.tables.search import print_pilot
from orchestrator.planning.ladder import expected_optimum
from orchestrator.planning.plan import plan
from orchestrator.planning.spec.sweep_file import Override, SpecError, read_sweep_file
from orchestrator.planning.spec.sweep_spec import load_spec
from orchestrator.records.console import Console
from orchestrator.records.revisions import record_revision
from orchestrator.search.pilot import Found, Pilot, pilot_plan, read_pilot, result
from orchestrator.search.pilot_file import advice_line, summary_lines, sweep_text
from orchestrator.store.store import Store
from tests.helpers.runs.planted_sweep import SNAPSHOT, Law, PlantedSweep


def pilot_of(preset: str, *overrides: Override, **changes) -> Pilot:
    asked = {"name": None, "budgets": None, "sizes": None, "replicates": 3} | changes
    return read_pilot(read_sweep_file(preset, overrides), **asked)


def published(pilot: Pilot, folder: Path, noise: float = 0.002) -> Found:
    sweep = PlantedSweep(store=Store(root=folder), law=Law(noise=noise))
    planned = pilot_plan(pilot, SNAPSHOT)
    record_revision(sweep.store, planned, SNAPSHOT)
    sweep.publish(planned)
    return result(sweep.store, pilot, planned)


def test_the_file_that_it_writes_is_a_sweep_around_what_was_found(tmp_path: Path):
    pilot = pilot_of("cpu")
    found = published(pilot, tmp_path)
    written = tmp_path / "advised.toml"
    written.write_text(sweep_text(pilot, found))
    spec = load_spec(str(written))
    assert (spec.name, spec.budgets) == (pilot.spec.name, pilot.spec.budgets)
    assert len(spec.seeds) == found.seeds
    assert spec.sizes is not None
    assert spec.sizes.auto is not None
    for arm in spec.members:
        optimum, entry = found.fit.optima[arm.label], arm.entry(spec.sizes.auto.optimum)
        assert isinstance(optimum, FoundOptimum), optimum
        assert entry.source.startswith("mor-sweep pilot pilot-isoflop-cpu")
        assert expected_optimum(entry, optimum.flops) == pytest.approx(optimum.params.value, rel=1e-3)
    assert all(speed == pytest.approx(512 / 0.002, rel=0.5) for speed in found.tokens_per_second.values())
    assert all(f"# {line}" in written.read_text() for line in summary_lines(found))
    planned = plan(spec, SNAPSHOT)
    assert planned.settings_id == pilot_plan(pilot, SNAPSHOT).settings_id
    shared = {segment.id for segment in planned.segments} & {each.id for each in pilot_plan(pilot, SNAPSHOT).segments}
    assert shared, "cells of the pilot at the sweep's smallest budget are not trained again"


def test_four_arms_are_shown_in_eighty_columns_with_the_advice_first(tmp_path: Path):
    pilot = pilot_of("cpu", Override(flag="--recursions", path=("arms", "recursions"), value=[2, 3, 4]))
    findings = published(pilot, tmp_path)
    printed = io.StringIO()
    print_pilot(findings, Console(file=printed, width=80, markup=False, highlight=False))
    lines = printed.getvalue().splitlines()
    assert lines[0] == advice_line(findings)
    assert all(len(line) <= 80 for line in lines)
    assert len(findings.advice) == 6
    for pair in findings.advice:
        gap = pair.gap.gap
        assert isinstance(gap, Estimate)
        lower, higher = (pair.gap.arm, pair.gap.other) if gap.value >= 0 else (pair.gap.other, pair.gap.arm)
        (row,) = (line for line in lines if line.startswith(f"{lower} below {higher} "))
        assert f" {abs(gap.value):.4f} [" in row
        assert row.endswith(f" {pair.seeds}") or isinstance(pair.seeds, Refusal)
    assert sum(line.split()[0] in findings.fit.noise for line in lines if line and " below " not in line) == 4
    assert len(lines) < 30


def test_a_pilot_trains_each_size_once_and_the_middle_ones_with_every_seed():
    smallest = load_spec("cpu").goals[0]
    cells = pilot_plan(pilot_of("cpu"), SNAPSHOT).cells
    assert {int(cell.budget) for cell in cells} == {smallest // 2, smallest}
    for arm in ("vanilla", "mor-2"):
        for budget in (smallest // 2, smallest):
            seeds: dict[int, set[int]] = {}
            for cell in cells:
                if (cell.arm, cell.budget) == (arm, budget):
                    seeds.setdefault(cell.unique_params, set()).add(cell.seed)
            counts = [len(seeds[params]) for params in sorted(seeds)]
            assert counts == [1, 3, 3, 3, 1]


def test_what_has_no_best_size_is_refused():
    tokens = [
        Override(flag="--tokens", path=("tokens",), value=["1e6"]),
        Override(flag="-", path=("budgets",), value=None),
    ]
    with pytest.raises(SpecError, match="not for budgets"):
        pilot_of(
            "cpu",
            *tokens,
            Override(flag="-", path=("sizes",), value={"names": ["13k"]}),
            Override(flag="-", path=("schedule", "warmup_budget"), value=None),
        )
    with pytest.raises(SpecError, match=r"^sizes: "):
        pilot_of("cpu", sizes=["13q"])
    with pytest.raises(SpecError, match=r"^--sizes: "):
        pilot_of("cpu", sizes=["13q"], sizes_flag="--sizes")


def test_an_arm_without_a_minimum_keeps_what_the_sweep_expected(tmp_path: Path):
    pilot = pilot_of("cpu", sizes=["5.5k", "10k", "13k"])
    found = published(pilot, tmp_path)
    assert isinstance(found.fit.optima["vanilla"], Refusal)
    written = tmp_path / "advised.toml"
    written.write_text(sweep_text(pilot, found))
    assert load_spec(str(written)).sizes == pilot.spec.sizes
    assert "what the sweep expected is kept" in written.read_text()

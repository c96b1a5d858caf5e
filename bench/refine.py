"""A sweep that refines itself against a fixed grid of equal cost, both trained for real on one core.

    python -m bench.refine --results DIR [--budgets 2e10,4e10,8e10] [--only vanilla] [--target 1.15] [--times 2]

Both start from the CPU preset's sizes at the budgets. The one goes on as `isoflop --refine` does, until N* of every
budget is known to the target or as many hours are spent as `--times` the first grid took. The other trains its cells
again with one seed after the other until it has cost as much or more in exact training FLOPs; it is also judged with
one seed less. Ended at any moment, the same command goes on. What both share is trained once, and counted for both.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from analysis.frontier.study import FitSettings, Optimum, fit_study
from analysis.statistics.answers import Refusal
from mor_core.data.prepare import prepare
from mor_core.data.snapshot import DataSnapshot
from mor_core.units import budget_label
from orchestrator.planning.plan import Plan, flops_by_segment, plan, plan_of_cells
from orchestrator.planning.spec.sweep_file import Override
from orchestrator.planning.spec.sweep_spec import SweepSpec, load_spec
from orchestrator.records.revisions import load_sweep
from orchestrator.records.table import table
from orchestrator.running.executor import InProcessExecutor
from orchestrator.running.run import run_sweep
from orchestrator.search.refine import Goal, Machine, device_hours, refine
from orchestrator.store.store import Store

CORE = Machine(workers=1, devices_per_segment=1.0, hours_unit="core-hours")
FIRST, REFINED, GRID = "first", "refined", "grid"


def train(store: Store, planned: Plan, spec: SweepSpec, data: DataSnapshot) -> int:
    """What a plan lacks, one segment after the other."""
    return run_sweep(store, planned, spec, data, InProcessExecutor(), mlflow=False)


def flops_of(planned: Plan) -> int:
    """Exact training FLOPs, shared work once."""
    return sum(flops_by_segment(planned.segments).values())


def seeds_worth(flops: int, spec: SweepSpec, data: DataSnapshot) -> int:
    """As many seeds of the grid as cost `flops` or more; at least two."""
    count = 2
    while flops_of(plan(_with_seeds(spec, count), data)) < flops:
        count += 1
    return count


def _with_seeds(spec: SweepSpec, count: int) -> SweepSpec:
    return spec.model_copy(update={"name": GRID, "seeds": tuple(range(count))})


def optima(store: Store, planned: Plan) -> dict[tuple[str, str], Optimum]:
    """The minima by arm and budget, from the cells of a plan alone."""
    runs = table(store, load_sweep(store, planned.name))
    study = fit_study(
        runs.filter(pl.col("seed").is_in([cell.seed for cell in planned.cells])),
        FitSettings(approaches=("parabola",)),
    )
    return {(frontier.arm, optimum.budget): optimum for frontier in study.frontiers for optimum in frontier.optima}


def optimum_text(optimum: Optimum) -> str:
    """N* with its interval and the factor either way, or why there is none."""
    if isinstance(optimum.params, Refusal):
        return f"none: {optimum.params.sentence}"
    low, high = optimum.params.low, optimum.params.high
    ends = "≤ " * optimum.params.low_open, "≥ " * optimum.params.high_open
    factor = math.sqrt(high / low)
    return f"{optimum.params.value:.3g} [{ends[0]}{low:.3g}, {ends[1]}{high:.3g}], {factor:.2f} either way"


def report(optima_by_sweep: Mapping[str, Mapping[tuple[str, str], Optimum]], plans: Mapping[str, Plan]) -> None:
    """A line for each arm, budget and sweep, and what each sweep cost."""
    for name, planned in plans.items():
        print(f"{name:10} {len(planned.cells)} cells, {flops_of(planned):.3g} exact training FLOPs")
    for arm, budget in optima_by_sweep[FIRST]:
        print(f"{arm} at {budget_label(budget)}")
        for name, sweep_optima in optima_by_sweep.items():
            print(f"  {name:10} {optimum_text(sweep_optima[arm, budget])}")


def main() -> None:
    """Train both and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--budgets", default="2e10,4e10,8e10")
    parser.add_argument("--only", default="vanilla")
    parser.add_argument("--target", type=float, default=1.15)
    parser.add_argument("--times", type=float, default=2.0)
    options = parser.parse_args()
    values = {"name": REFINED, "budgets": options.budgets.split(","), "only": options.only.split(",")}
    spec = load_spec("cpu", [Override(flag=f"--{key}", path=(key,), value=value) for key, value in values.items()])
    data = prepare(spec.data_spec)
    store = Store(root=options.results.absolute())
    first = plan(spec, data)
    as_first = spec.model_copy(update={"name": FIRST})
    train(store, plan(as_first, data), as_first, data)
    train(store, first, spec, data)
    hours = device_hours(store, FIRST, CORE)
    goal = Goal(target=options.target, max_hours=(1 + options.times) * hours)
    ended = refine(
        store,
        spec,
        data,
        goal,
        CORE,
        before=0.0,
        train=lambda planned: train(store, planned, spec, data),
        report=print,
    )
    print(f"ended: {ended.reason} ({ended.rounds} rounds, {ended.hours:.3g} core-hours)")
    refined = plan_of_cells(spec, data, load_sweep(store, REFINED).cells)
    seeds = seeds_worth(flops_of(refined), spec, data)
    fewer_seeds, more_seeds = (plan(_with_seeds(spec, count), data) for count in (seeds - 1, seeds))
    train(store, more_seeds, _with_seeds(spec, seeds), data)
    plans = {
        FIRST: plan(as_first, data),
        f"{GRID} of {seeds - 1}": fewer_seeds,
        REFINED: refined,
        f"{GRID} of {seeds}": more_seeds,
    }
    report({name: optima(store, planned) for name, planned in plans.items()}, plans)


if __name__ == "__main__":
    main()

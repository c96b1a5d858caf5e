"""The steps of every verb that trains a sweep: show the plan, ask before much is spent, run."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from orchestrator.cli.options import Results, open_results, print_json, say
from orchestrator.cli.train.objections import Objection, check, holds, needs_preparation, objections, show
from orchestrator.cli.train.spending import HOW_MUCH, PLAN_REFUSED, Spending, allowed, ask_if_expensive, costed

if TYPE_CHECKING:
    from mor_core.data.snapshot import DataSnapshot
    from orchestrator.planning.costs.estimate import Estimate
    from orchestrator.planning.costs.limits import Allowance
    from orchestrator.planning.costs.machine import Throughput
    from orchestrator.planning.plan import Plan
    from orchestrator.planning.spec.sections import ExecutionSection
    from orchestrator.planning.spec.sweep_spec import SweepSpec
    from orchestrator.store.store import Store


ExecutorName = Literal["ray", "in-process"]
"""Where segments run."""

WHERE = "Where it runs"
"""The panel of such flags in the help of a verb."""

ExecutorChoice = Annotated[ExecutorName, typer.Option(help="Where segments run.", rich_help_panel=WHERE)]
RayAddress = Annotated[
    str | None, typer.Option(help="A Ray cluster to use; none starts a local one.", rich_help_panel=WHERE)
]


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How a verb that trains is run; spread over such verbs. Raises BadParameter for flags that contradict each
    other."""

    results: Results = Path("results")
    """The results folder."""
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and its cost, and stop.", rich_help_panel=HOW_MUCH)
    ] = False
    """Whether nothing is trained."""
    yes: Annotated[
        bool, typer.Option("--yes", help="Start without asking, whatever it costs.", rich_help_panel=HOW_MUCH)
    ] = False
    """Whether much may be spent without a question."""
    executor: ExecutorChoice = "ray"
    """Where segments run."""
    address: RayAddress = None
    """A Ray cluster; None for one of this command's own."""
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Segments at a time; one per GPU, else one per core.", rich_help_panel=WHERE),
    ] = None
    """Segments at a time; None for as many as the machine holds."""
    same_model: Annotated[
        bool,
        typer.Option(
            "--same-model",
            help="Go on although the code of a model of your own changed: its losses have not.",
            rich_help_panel=HOW_MUCH,
        ),
    ] = False
    """Whether changed code of an own model computes what it did."""
    mlflow: Annotated[
        bool,
        typer.Option("--mlflow/--no-mlflow", help="Mirror the sweep into MLflow while it runs.", rich_help_panel=WHERE),
    ] = True
    """Whether the sweep is mirrored."""

    def __post_init__(self) -> None:
        if self.address and self.executor == "in-process":
            raise typer.BadParameter("--address names a Ray cluster: leave it out with --executor in-process")

    @property
    def is_here(self) -> bool:
        """Whether this machine trains, so that what is measured on it counts."""
        return self.address is None

    @property
    def store(self) -> "Store":
        """The results, at a place that stays where it is if the working directory changes."""
        return open_results(self.results.absolute())


def check_json(as_json: bool, how: Launch) -> None:
    """Raises BadParameter where there would be no plan to print."""
    if as_json and not how.dry_run:
        raise typer.BadParameter("--json prints a plan: use it with --dry-run")


def print_plan(spec: "SweepSpec", how: Launch, machine: "Throughput", spending: Spending, *, as_json: bool) -> None:
    """The plan and its cost, for reading or as JSON. Measures nothing unless --probe was given."""
    from mor_core.data.prepare import find
    from orchestrator.cli.tables import plan as plan_tables
    from orchestrator.planning.costs.speeds import WORTH_A_PROBE
    from orchestrator.planning.plan import plan
    from orchestrator.records.revisions import cells_leaving

    data = find(spec.data_spec)
    planned = plan(spec, data)
    check_code(planned, spec, how)
    costing = costed(
        planned, spec, how.results, machine, measures=how.is_here and bool(spending.probe), is_here=how.is_here
    )
    cost, limited = costing.cost, allowed(planned, spec, costing, spending).said
    raised = objections(planned, cost, spec, is_here=how.is_here)
    if not as_json:
        plan_tables.print_plan(planned, cost, spending.price)
        if limited:
            say(f"note: {limited}")
        if data is not None and (leaving := cells_leaving(open_results(how.results), planned)):
            say(f"note: {len(leaving)} finished cells of other settings would leave the table of {planned.name}")
        show(raised)
    tip = (
        "; --probe measures how fast this machine trains it"
        if how.is_here and any(rate.basis in WORTH_A_PROBE for rate in costing.rates.values())
        else ""
    )
    end_dry_run(planned, cost, spending.price, as_json, tip, raised)


def end_dry_run(
    planned: "Plan",
    cost: "Estimate",
    price: float | None,
    as_json: bool,
    tip: str = "",
    raised: "Sequence[Objection]" = (),
) -> None:
    """The plan and its cost to stdout for programs, or to a reader the next step."""
    from orchestrator.cli.tables.plan import plan_json

    if as_json:
        document = plan_json(planned, cost, price)
        print_json(
            "mor-sweep.plan/1",
            document | {"notes": [*document["notes"], *(objection.sentence for objection in raised)]},
        )
    elif raised:
        say("next: one of the ways on that the note names")
    else:
        say(f"next: the same command without --dry-run{tip}")


def prepared(spec: "SweepSpec") -> "DataSnapshot":
    """The sweep's data, made now where it is small. Raises PlanError or DataError where preparing it is a task of its
    own."""
    from mor_core.data.large.corpus import MOST_PARTS_BESIDE
    from mor_core.data.prepare import find, prepare
    from orchestrator.planning.plan import PlanError

    if (unprepared := needs_preparation(spec)) and find(spec.data_spec) is None:
        raise PlanError(unprepared)
    return prepare(spec.data_spec, report=say, most_parts=MOST_PARTS_BESIDE)


def check_code(planned: "Plan", spec: "SweepSpec", how: Launch) -> None:
    """Raises OtherCode where segments of the plan were published by other code of a model of the user's own, unless he
    says that it computes the same."""
    own_arms = [arm for arm in spec.members if arm.own and any(cell.arm == arm.label for cell in planned.cells)]
    if not own_arms or how.same_model:
        return
    from orchestrator.planning.own_models.code_changes import check_same_code
    from orchestrator.planning.recipe import own_ladder_of

    code_of = {arm.own.model: own_ladder_of(spec, arm).code for arm in own_arms if arm.own}
    check_same_code(planned.segments, how.store.readable_results(segment.id for segment in planned.segments), code_of)


def train(
    planned: "Plan",
    spec: "SweepSpec",
    data: "DataSnapshot",
    how: Launch,
    *,
    workers: int,
    allowance: "Allowance | None" = None,
) -> int:
    """Train what a plan lacks, or what `allowance` lets start of it. Returns the exit code."""
    from orchestrator.planning.costs.cost_plan import remember_speeds
    from orchestrator.running.run import run_sweep
    from orchestrator.running.run_loop import chosen_executor

    store = how.store
    check_code(planned, spec, how)
    executor = chosen_executor(how.executor, workers, how.address, spec.execution, allowance)
    code = run_sweep(store, planned, spec, data, executor, mlflow=how.mlflow, allowance=allowance)
    if how.is_here:
        remember_speeds(planned, spec, store.readable_results(segment.id for segment in planned.segments), say)
    return code


def train_round(
    planned: "Plan",
    spec: "SweepSpec",
    data: "DataSnapshot",
    how: Launch,
    machine: "Throughput",
    *,
    max_hours: float | None = None,
) -> int:
    """Train a round of a longer search, each segment at its share of a GPU where shapes have one. Returns the exit
    code. Raises PlanError where the device-hours allow not one cell."""
    costing = costed(planned, spec, how.results, machine, measures=False, is_here=how.is_here)
    allowance = allowed(planned, spec, costing, Spending(max_hours=max_hours))
    return train(planned, spec, data, how, workers=costing.cost.throughput.workers, allowance=allowance)


def run(spec: "SweepSpec", how: Launch, machine: "Throughput", spending: Spending) -> "tuple[int, SweepSpec]":
    """Show what the sweep costs, ask where that is much or where finished cells would leave its table, train what is
    missing. Returns the exit code, and what was run: the user may have given it another name."""
    from mor_core.data.prepare import find
    from orchestrator.cli.tables.plan import print_news, print_summary
    from orchestrator.planning.costs.cost_plan import worth_a_probe
    from orchestrator.planning.plan import plan
    from orchestrator.store.folder import check_writable

    check_writable(how.results)
    earlier_snapshot = find(spec.data_spec)
    first_plan = plan(spec, earlier_snapshot)
    costing = costed(first_plan, spec, how.results, machine, measures=False, is_here=how.is_here)
    raised = objections(first_plan, costing.cost, spec, is_here=how.is_here)
    if not holds(raised, yes=how.yes) and worth_a_probe(costing, spending.probe, is_here=how.is_here):
        costing = costed(first_plan, spec, how.results, machine, measures=True, is_here=how.is_here)
    print_summary(first_plan, costing.cost, spending.price)
    check(raised, yes=how.yes)
    if not how.yes:
        ask_if_expensive(costing.cost, spending)
    snapshot = prepared(spec)
    planned = first_plan if snapshot == earlier_snapshot else plan(spec, snapshot)
    if not how.yes:
        spec, planned = settle_name(spec, planned, snapshot, how.results)
    print_news(first_plan, planned)
    if planned is not first_plan:
        costing = costed(planned, spec, how.results, machine, measures=False, is_here=how.is_here)
        check(set(objections(planned, costing.cost, spec, is_here=how.is_here)) - set(raised), yes=how.yes)
    code = train(
        planned,
        spec,
        snapshot,
        how,
        workers=costing.cost.throughput.workers,
        allowance=allowed(planned, spec, costing, spending),
    )
    return code, spec


def settle_name(spec: "SweepSpec", planned: "Plan", data: "DataSnapshot", results: Path) -> "tuple[SweepSpec, Plan]":
    """Ask before a sweep of other settings takes the name of one that has finished cells; nothing is written before.

    Raises PlanError where the user says no, or where there is no terminal to ask.
    """
    from mor_core.units import counted_text
    from orchestrator.planning.plan import PlanError, plan
    from orchestrator.records.revisions import cells_leaving

    while leaving := cells_leaving(open_results(results), planned):
        count = counted_text(len(leaving), "finished cell")
        leave = f"{count} would leave the table of `{planned.name}`, which had other settings"
        if not sys.stdin.isatty():
            raise PlanError(
                f"{leave}, and there is no terminal to ask: give this one a name with --name, or add --yes to replace "
                "the table (trained cells are kept, and the old settings bring them back)"
            )
        answer = typer.prompt(f"{leave}. [n]ame the new one / replace / cancel", value_proc=_answer, err=True)
        if answer == "cancel":
            say("not started: nothing was trained")
            raise typer.Exit(PLAN_REFUSED)
        if answer == "replace":
            break
        spec = spec.model_copy(update={"name": typer.prompt("name", value_proc=_sweep_name, err=True)})
        planned = plan(spec, data)
    return spec, planned


def _answer(text: str) -> str:
    """One of the words, of which the first letter will do. Raises BadParameter, after which the terminal is asked
    again."""
    for word in ("name", "replace", "cancel"):
        if (start := text.strip().lower()) and word.startswith(start):
            return word
    raise typer.BadParameter(f"found {text!r}, expected name, replace or cancel")


def _sweep_name(text: str) -> str:
    """Raises BadParameter, after which the terminal is asked again."""
    from orchestrator.planning.spec.fields import folder_name

    try:
        return folder_name(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def machine_of(how: Launch, execution: "ExecutionSection") -> "Throughput":
    """This machine, or the cluster that is to train, which is asked what it holds.

    Raises ClusterUnreachable, Infeasible and ResultsError.
    """
    from orchestrator.planning.costs.machine import this_machine

    if how.address is None:  # Which loads nothing of Ray.
        return this_machine(how.workers, execution)
    from orchestrator.running.ray.machine import cluster_machine

    return cluster_machine(how.address, how.workers, execution, how.store)

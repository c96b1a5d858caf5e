"""What `pilot` and `tune` share: both train cells of their own before a sweep, to choose its settings."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from orchestrator.cli.options import say
from orchestrator.cli.train.launch import Launch, end_dry_run, machine_of, train_round
from orchestrator.cli.train.objections import check, objections, show
from orchestrator.cli.train.spending import Priced, Spending, ask_if_expensive, costed

if TYPE_CHECKING:
    from mor_core.data.snapshot import DataSnapshot
    from orchestrator.planning.costs.machine import Throughput
    from orchestrator.planning.plan import Plan
    from orchestrator.planning.spec.sweep_spec import SweepSpec
    from orchestrator.store.store import Store

NOTHING_FOUND = 5
"""The exit code of a search whose cells say nothing."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Where a verb's own cells are trained."""

    how: Launch
    """What the user said about it."""
    store: "Store"
    """Gets them."""
    machine: "Throughput"
    """Trains them."""

    def begin(
        self, planned: "Plan", spec: "SweepSpec", money: Priced, *, note: str = "", as_json: bool = False
    ) -> None:
        """Show what the first cells cost, then `note`, and ask where that is much. Raises Exit after a dry run, and
        PlanError where they should not start as they stand or the user says no."""
        from orchestrator.cli.tables.plan import print_summary

        cost = costed(planned, spec, self.how.results, self.machine, measures=False, is_here=self.how.is_here).cost
        print_summary(planned, cost, money.price)
        if note:
            say(note)
        raised = objections(planned, cost, spec, is_here=self.how.is_here)
        if self.how.dry_run:
            show(() if as_json else raised)
            end_dry_run(planned, cost, money.price, as_json, raised=raised)
            raise typer.Exit
        check(raised, yes=self.how.yes)
        if not self.how.yes:
            ask_if_expensive(cost, Spending(price=money.price))

    def train(self, planned: "Plan", spec: "SweepSpec", data: "DataSnapshot") -> int:
        """Train a round of cells. Returns the exit code."""
        return train_round(planned, spec, data, self.how, self.machine)

    def mirror(self, sweep: str) -> None:
        """Bring MLflow up to date with what was found; one line where that cannot be."""
        from orchestrator.tracking.process import bring_up_to_date

        if self.how.mlflow and (warning := bring_up_to_date(self.store, sweep)):
            say(warning)


def open_search(spec: "SweepSpec", how: Launch) -> Search:
    """A results folder that can be written, and what trains. Raises ResultsError, ClusterUnreachable and Infeasible."""
    from orchestrator.store.folder import check_writable

    check_writable(how.results)
    return Search(how=how, store=how.store, machine=machine_of(how, spec.execution))

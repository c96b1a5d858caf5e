"""What a tuning found, for reading and for programs: optima of each arm and size, laws, what sharing a rate costs."""

from dataclasses import asdict
from typing import Any

from rich.table import Table

from analysis.report.provenance import Provenance
from analysis.report.text import plain
from analysis.statistics.answers import Estimate, Refusal
from analysis.tuning.law import HyperparameterLaw, TunedRung
from analysis.tuning.response import DRAWS, LEVEL, Response
from mor_core.units import short_count
from orchestrator.planning.canonical import content_id
from orchestrator.records.revisions import data_label, load_sweep, package_version
from orchestrator.records.terminal import Console
from orchestrator.search.tuning.trials import TriedRung
from orchestrator.search.tuning.tune import Shared, Tuned
from orchestrator.store.store import Store


def document(found: Tuned) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    return {
        "sweep": found.name,
        "rungs": [_rung(rung, each) for rung, each in zip(found.rungs, found.tried, strict=True)],
        "laws": [plain(law) for law in found.laws],
        "shared": [plain(each) for each in found.shared],
    }


def provenance(store: Store, found: Tuned) -> Provenance:
    """What a figure of a tuning says about its origin."""
    sweep = load_sweep(store, found.name)
    trials = [trial for each in found.tried for trial in each.trials]
    diverged = sum(trial.diverged for trial in trials)
    return Provenance(
        source=found.name,
        data=data_label(sweep),
        version=package_version(),
        budget_convention=sweep.cells[0].budget_convention,
        loss_column="loss",
        num_used=sum(len(trial.losses) for trial in trials),
        left_out={"diverged": diverged} if diverged else {},
        method=f"quadratics in the logarithms, {LEVEL:.0%} intervals of {DRAWS} redrawings of the losses",
        inputs_sha256=content_id([asdict(trial) for trial in trials]),
    )


def _rung(rung: TunedRung, each: TriedRung) -> dict[str, Any]:
    response = rung.response
    best = plain(response)
    if isinstance(response, Response):
        best = {name: plain(response.optimum(name)) for name in response.names} | {"loss": response.loss({})}
    return {
        "arm": rung.arm,
        "size": rung.size,
        "unrolled_params": rung.params,
        "tokens": rung.tokens,
        "trials": [asdict(trial) for trial in each.trials],
        "optimum": best,
    }


def print_tuned(found: Tuned, console: Console) -> None:
    """The optima as a table, and a line for each law and each cost of sharing."""
    table = Table(title=f"{found.name}: the best settings of each arm and size")
    for heading in ("arm", "size", "tokens", "settings", "best", "loss"):
        table.add_column(heading, overflow="fold")
    for rung, each in zip(found.rungs, found.tried, strict=True):
        finished = sum(trial.counts for trial in each.trials)
        best, loss = _best(rung.response)
        table.add_row(rung.arm, rung.size, short_count(rung.tokens), f"{finished} of {len(each.trials)}", best, loss)
    console.print(table)
    for law in found.laws:
        said = f"no law: {law.sentence}" if isinstance(law, Refusal) else _law_text(law)
        console.print(f"- {said}", soft_wrap=True, markup=False)
    for each in found.shared:
        console.print(f"- {_shared_text(each)}", soft_wrap=True, markup=False)


def _best(response: Response | Refusal) -> tuple[str, str]:
    if isinstance(response, Refusal):
        return f"none: {response.sentence}", ""
    values = (_value_text(name, response.optimum(name)) for name in response.names)
    return "\n".join(values), f"{response.loss({}):.4f}"


def _value_text(name: str, best: Estimate) -> str:
    low, high = ("≤ " if best.low_open else ""), ("≥ " if best.high_open else "")
    return f"{name.replace('_', ' ')} {best.value:.3g} [{low}{best.low:.3g}, {high}{best.high:.3g}]"


def _law_text(law: HyperparameterLaw) -> str:
    base = f"{law.base.value:.3g} [{law.base.low:.3g}, {law.base.high:.3g}]"
    growth = (
        f"exponent not known ({law.exponent.sentence})"
        if isinstance(law.exponent, Refusal)
        else (f"exponent {law.exponent.value:.3f} [{law.exponent.low:.3f}, {law.exponent.high:.3f}]")
    )
    lost = "".join(f"; {each.size} by the law of the others loses {each.loss_lost:.4f}" for each in law.held_out)
    return f"{law.arm}: {law.name.replace('_', ' ')} {base} at {law.reference:,} unrolled parameters, {growth}{lost}"


def _shared_text(each: Shared) -> str:
    where = f"{each.arm} {each.size} at {short_count(each.tokens)} tokens: "
    best = "".join(f"{_value_text(name, value)} is best there; " for name, value in each.best.items())
    lost = each.loss_lost
    if isinstance(lost, Refusal):
        return f"{where}{best}what the rung's own settings lose is not known: {lost.sentence}"
    return f"{where}{best}the rung's own settings lose {lost.value:.4f} [{lost.low:.4f}, {lost.high:.4f}] nats/token"

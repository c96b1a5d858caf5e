"""What a tuning found, for reading and for programs: optima of each arm and size, laws, what sharing a rate costs."""

from dataclasses import asdict
from typing import Any

from analysis.report.provenance import Provenance
from analysis.report.text import plain
from analysis.runs.losses import NATS_PER_TOKEN
from analysis.tuning.law import TunedRung
from analysis.tuning.response import DRAWS, LEVEL, Response
from orchestrator.planning.canonical import content_id
from orchestrator.records.revisions import data_label, load_sweep, package_version
from orchestrator.search.tuning.trials import TriedRung
from orchestrator.search.tuning.tune import Tuned
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
        loss_unit=NATS_PER_TOKEN,
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

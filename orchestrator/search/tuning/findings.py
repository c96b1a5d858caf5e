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


def document(tuned: Tuned) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    return {
        "sweep": tuned.name,
        "rungs": [_rung(rung, tried_rung) for rung, tried_rung in zip(tuned.rungs, tuned.tried, strict=True)],
        "laws": [plain(law) for law in tuned.laws],
        "shared": [plain(shared) for shared in tuned.shared],
    }


def provenance(store: Store, tuned: Tuned) -> Provenance:
    """What a figure of a tuning says about its origin."""
    sweep = load_sweep(store, tuned.name)
    trials = [trial for tried_rung in tuned.tried for trial in tried_rung.trials]
    diverged = sum(trial.diverged for trial in trials)
    return Provenance(
        source=tuned.name,
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


def _rung(rung: TunedRung, tried_rung: TriedRung) -> dict[str, Any]:
    response = rung.response
    best = plain(response)
    if isinstance(response, Response):
        best = {name: plain(response.optimum(name)) for name in response.names} | {"loss": response.loss({})}
    return {
        "arm": rung.arm,
        "size": rung.size,
        "unrolled_params": rung.params,
        "tokens": rung.tokens,
        "trials": [asdict(trial) for trial in tried_rung.trials],
        "optimum": best,
    }

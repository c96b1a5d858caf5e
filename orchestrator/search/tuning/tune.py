"""`mor-sweep tune` from a sweep file to laws: ask for trials, train them as cells, fit, write a recipe.

The sweep `NAME` holds every trial in its plan revisions, so the same command after a crash first trains what was asked
for and then asks for the rest; two drivers at once share segments, and a trial that both ask for is trained once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from analysis.report.provenance import Provenance
from analysis.report.text import plain
from analysis.runs.losses import NATS_PER_TOKEN
from analysis.statistics.answers import Estimate, Refusal
from analysis.tuning.law import HyperparameterLaw, TunedRung, fit_law, loss_of_sharing
from analysis.tuning.response import DRAWS, LEVEL, Response, fit_responses
from mor_core.data.snapshot import DataSnapshot
from orchestrator.planning.canonical import content_id
from orchestrator.planning.cells import Cell
from orchestrator.planning.plan import Plan, plan_of_cells
from orchestrator.planning.spec.sweep_file import SweepFile
from orchestrator.planning.spec.sweep_spec import SweepSpec
from orchestrator.records.revisions import data_label, load_sweep, package_version, recorded_settings_id
from orchestrator.records.table import table
from orchestrator.search.tuning.proposals import propose
from orchestrator.search.tuning.trials import (
    BATCH_SIZE,
    LEARNING_RATE,
    Rung,
    TriedRung,
    trial_cells,
    tried,
    tune_spec,
)
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import NoSuchSweep

SPREAD_SHARE = 0.6
"""Share of a rung's trials that fill the range evenly before any is chosen by the losses."""

PER_ROUND = 2
"""Trials of a rung that are chosen at a time after those: fewer know more, more keep workers busy."""

LAWS = (LEARNING_RATE, BATCH_SIZE)
"""Hyper-parameters that a sweep file can give as a law in size."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What is asked for."""

    file: SweepFile
    """The sweep whose arms, data and schedule are tuned."""
    name: str
    """Of the sweep that holds the trials."""
    rungs: tuple[Rung, ...]
    """Where, and what is varied there."""
    trials: int
    """Settings per rung."""
    seeds: tuple[int, ...]
    """Each trains every setting once more."""
    multiples: tuple[float, ...] = (1.0,)
    """Numbers of tokens, in multiples of a rung's own, at which each setting is measured; 1 is among them."""

    @property
    def spec(self) -> SweepSpec:
        """What the trials have in common."""
        return tune_spec(self.file, self.name, self.seeds)


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What one setting for all budgets of a trunk costs at another number of tokens."""

    arm: str
    """Label of the arm."""
    size: str
    """Base shape."""
    tokens: int
    """Other than the rung's own."""
    best: Mapping[str, Estimate]
    """By hyper-parameter, what is best there; empty where that is not known."""
    loss_lost: Estimate | Refusal
    """By the rung's own optimum there, over the best there, nats/token."""


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """What came out."""

    name: str
    """The sweep."""
    rungs: tuple[TunedRung, ...]
    """Their responses."""
    tried: tuple[TriedRung, ...]
    """The trials behind them, in the same order."""
    laws: tuple[HyperparameterLaw | Refusal, ...]
    """For each arm, the learning rate, and the batch where it was varied."""
    shared: tuple[Shared, ...]
    """Empty where trials were measured at one number of tokens."""

    @property
    def varied(self) -> tuple[str, ...]:
        """The hyper-parameters that every rung varies."""
        first, *others = (tried_rung.rung.ranges for tried_rung in self.tried)
        return tuple(name for name in first if all(name in ranges for ranges in others))

    @property
    def found(self) -> tuple[HyperparameterLaw, ...]:
        """The laws that there are."""
        return tuple(law for law in self.laws if isinstance(law, HyperparameterLaw))


Train = Callable[[Plan], int]
"""Trains what a plan lacks; returns an exit code."""


def known_cells(store: Store, tuning: Tuning, data: DataSnapshot) -> tuple[Cell, ...]:
    """The trials that the sweep has been asked for so far, under these settings."""
    try:
        sweep = load_sweep(store, tuning.name)
    except NoSuchSweep:
        return ()
    same = sweep.settings_id == recorded_settings_id(store, tuning.name, plan_of_cells(tuning.spec, data, ()))
    return sweep.cells if same else ()


def first_plan(store: Store, tuning: Tuning, data: DataSnapshot) -> Plan:
    """The first trials of every rung, and those of an earlier call: what will be trained before losses decide."""
    earlier = known_cells(store, tuning, data)
    return plan_of_cells(tuning.spec, data, (*earlier, *_new_cells(store, tuning, earlier, data)))


def tune(store: Store, tuning: Tuning, data: DataSnapshot, train: Train, report: Callable[[str], None]) -> int:
    """Train trials until every rung has as many as asked for. Returns the exit code of the last call of `train`."""
    spec = tuning.spec
    while True:
        earlier = known_cells(store, tuning, data)
        new = _new_cells(store, tuning, earlier, data)
        if not new and not _is_unfinished(store, tuning):
            return 0
        for rung in tuning.rungs:
            count = len({cell.train for cell in new if rung.holds(cell)})
            if count:
                report(f"{rung.name}: {count} more settings, at {rung.tokens:,} tokens")
        code = train(plan_of_cells(spec, data, (*earlier, *new)))
        # Where a call before was killed, its trials are finished first, and only then are more asked for. A call that
        # may not finish them, as by a limit of hours, ends here.
        if code or (not new and _is_unfinished(store, tuning)):
            return code


def _new_cells(store: Store, tuning: Tuning, earlier: Sequence[Cell], data: DataSnapshot) -> tuple[Cell, ...]:
    """The cells of the next trials of every rung; none at a rung whose own have not all been tried."""
    rows = {row["cell_id"]: row for row in _rows(store, tuning)} if earlier else {}
    ids = {cell.cell_id for cell in earlier}
    new: list[Cell] = []
    for rung in tuning.rungs:
        trials = tried(rung, earlier, rows).trials
        missing = tuning.trials - len(trials)
        if missing <= 0 or any(not (trial.losses or trial.diverged) for trial in trials):
            continue
        spread = max(1, round(SPREAD_SHARE * tuning.trials))
        count = min(missing, max(spread - len(trials), PER_ROUND))
        seed = int(content_id([tuning.name, rung.name])[:8], 16)
        for values in propose(rung.ranges, trials, count=count, spread=spread, seed=seed):
            cells = trial_cells(
                tuning.file,
                tuning.name,
                rung,
                values,
                seeds=tuning.seeds,
                multiples=tuning.multiples,
                data=data,
            )
            new += [cell for cell in cells if cell.cell_id not in ids]
    return tuple(new)


def _is_unfinished(store: Store, tuning: Tuning) -> bool:
    """Whether a trial that was asked for has no result yet."""
    return any(row["status"] not in ("finished", "diverged") for row in _rows(store, tuning))


def _rows(store: Store, tuning: Tuning) -> list[dict[str, Any]]:
    try:
        return table(store, load_sweep(store, tuning.name)).to_dicts()
    except NoSuchSweep:
        return []


def result(store: Store, tuning: Tuning, data: DataSnapshot) -> Tuned:
    """Responses and laws of what has been trained."""
    rows = {row["cell_id"]: row for row in _rows(store, tuning)}
    earlier = known_cells(store, tuning, data)
    tried_rungs = tuple(tried(rung, earlier, rows) for rung in tuning.rungs)
    responses = fit_responses([tried_rung.trials for tried_rung in tried_rungs])
    rungs = tuple(
        TunedRung(arm=rung.arm.label, size=rung.size, params=rung.params, tokens=rung.tokens, response=response)
        for rung, response in zip(tuning.rungs, responses, strict=True)
    )
    arms = list(dict.fromkeys(rung.arm for rung in rungs))
    varied = [name for name in LAWS if all(name in rung.ranges for rung in tuning.rungs)]
    return Tuned(
        name=tuning.name,
        rungs=rungs,
        tried=tried_rungs,
        laws=tuple(fit_law(name, [rung for rung in rungs if rung.arm == arm]) for arm in arms for name in varied),
        shared=tuple(_shared(tried_rungs, responses)),
    )


def _shared(tried_rungs: Sequence[TriedRung], responses: Sequence[Response | Refusal]) -> list[Shared]:
    shared: list[Shared] = []
    for tried_rung, response in zip(tried_rungs, responses, strict=True):
        rung, others = tried_rung.rung, fit_responses(list(tried_rung.elsewhere.values()))
        for tokens, other in zip(tried_rung.elsewhere, others, strict=True):
            best = {} if isinstance(other, Refusal) else {name: other.optimum(name) for name in other.names}
            lost = _lost(response, other)
            shared.append(Shared(arm=rung.arm.label, size=rung.size, tokens=tokens, best=best, loss_lost=lost))
    return shared


def _lost(response: Response | Refusal, other: Response | Refusal) -> Estimate | Refusal:
    """By the optimum of `own` at another number of tokens."""
    if isinstance(response, Refusal):
        return response
    if isinstance(other, Refusal):
        return other
    return loss_of_sharing({name: response.optimum(name).value for name in response.names}, other)


def recipe_text(tuned: Tuned) -> str:
    """The laws as a recipe file for `isoflop --recipe`."""
    lines = [f"# Laws from the trials of the sweep {tuned.name}, for `mor-sweep isoflop --recipe FILE`.", ""]
    for law in tuned.found:
        exponent = law.exponent.value if isinstance(law.exponent, Estimate) else 0.0
        lines += [
            f"[train.{'learning_rate' if law.name == LEARNING_RATE else 'batch_law'}.{law.arm}]",
            f"base = {law.base.value:.4g}",
            f"reference_params = {law.reference}",
            f"exponent = {exponent:.4g}",
            f'source = "{_source(tuned, law)}"',
            "",
        ]
    return "\n".join(lines)


def _source(tuned: Tuned, law: HyperparameterLaw) -> str:
    trials = sum(len(tried_rung.trials) for tried_rung in tuned.tried if tried_rung.rung.arm.label == law.arm)
    base = f"{trials} trials at {', '.join(law.sizes)}; base {law.base.low:.3g} to {law.base.high:.3g}"
    if isinstance(law.exponent, Refusal):
        return f"mor-sweep tune {tuned.name}: {base}; {law.exponent.sentence}"
    return f"mor-sweep tune {tuned.name}: {base}, exponent {law.exponent.low:.3g} to {law.exponent.high:.3g} (95 %)"


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

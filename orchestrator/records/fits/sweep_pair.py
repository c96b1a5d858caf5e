"""Two sweeps or more as one table, and the fit of two. They are refused where their losses do not mean the same."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.runs.losses import BPB, OWN, TASK, TEXT, Loss, LossError, parse_loss
from analysis.runs.points import TableError
from mor_core.errors import Fix
from mor_core.units import budget_label
from orchestrator.planning.identity import EvaluationSpec, Segment
from orchestrator.records.revisions import Sweep, load_sweep
from orchestrator.records.table import table
from orchestrator.store.published import read_spec
from orchestrator.store.store import Store
from orchestrator.store.sweep_document import sweep_texts

MEASURED: dict[str, Callable[[Segment], str | int | None]] = {
    "validation data": lambda segment: segment.trunk.data_fingerprint,
    "tokenizer": lambda segment: segment.trunk.tokenizer_fingerprint,
    "context length": lambda segment: segment.trunk.model.context_length,
    "number of validation sequences": lambda segment: (
        segment.evaluation.num_sequences if isinstance(segment.evaluation, EvaluationSpec) else None
    ),
}
"""What makes losses of two sweeps comparable, and how an evaluation says it."""

DECIDING = {"": tuple(MEASURED), OWN: tuple(MEASURED), TEXT: ("tokenizer", "context length"), TASK: (), BPB: ()}
"""Which of these decide, by the kind of the loss. A text, and the items of a task, are compared by themselves; a task's
score, and bits of its answers per byte, depend on no tokenizer."""


@dataclass(frozen=True, kw_only=True)
class SweepPair:
    """The cells of two sweeps, arms named after both."""

    first: Sweep
    """The one that is compared with the other."""
    runs: pl.DataFrame
    """One row a cell; `arm` is "ARM (SWEEP)"."""
    loss_column: str
    """The loss that they are compared by."""
    pairs: tuple[tuple[str, str], ...]
    """Arms to compare: those of one name, or every arm of one with every arm of the other where no name is in both."""


def pair_sweeps(store: Store, one: str | None, other: str, loss_column: str) -> SweepPair:
    """Put two sweeps beside each other, to be compared by one loss.

    Raises:
        NoSuchSweep: there is none of that name.
        TableError: they are one sweep, count budgets differently, or were evaluated on different texts.
        LossError: there is no such loss.
    """
    first, second = load_sweep(store, one), load_sweep(store, other)
    if first.name == second.name:
        raise TableError(
            "a sweep against itself says nothing; name another one.", fix=Fix(setting="other", value=other)
        )
    tables = {sweep.name: table(store, sweep) for sweep in (first, second)}
    conventions = {name: sorted(set(runs["budget_convention"].to_list())) for name, runs in tables.items()}
    if conventions[first.name] != conventions[second.name]:
        raise TableError(
            f"{first.name} counts budgets as {', '.join(conventions[first.name])} FLOPs and {second.name} as "
            f"{', '.join(conventions[second.name])}: budgets counted differently are not equal FLOPs."
        )
    loss = parse_loss(loss_column)
    _check_losses(store, first, second, loss)
    arms = [{cell.arm for cell in sweep.cells} for sweep in (first, second)]
    same = sorted(arms[0] & arms[1])
    names = [(arm, arm) for arm in same] or [(a, b) for a in sorted(arms[0]) for b in sorted(arms[1])]
    named = [
        runs.with_columns(
            pl.format("{} ({})", "arm", pl.lit(name)).alias("arm"), (pl.col("cell_id") + f" {name}").alias("cell_id")
        )
        for name, runs in tables.items()
    ]
    return SweepPair(
        first=first,
        runs=pl.concat(named, how="diagonal"),
        loss_column=loss.name,
        pairs=tuple((f"{a} ({first.name})", f"{b} ({second.name})") for a, b in names),
    )


def join_sweeps(store: Store, names: Sequence[str]) -> pl.DataFrame:
    """The run tables of several sweeps as one, arms as they are, and a cell that several have once.

    Raises:
        NoSuchSweep: there is none of a name.
        TableError: one is named twice, or they count budgets differently or were evaluated on different texts.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise TableError(f"{name} is named twice: name each sweep once.")
    first, *others = [load_sweep(store, name) for name in names]
    tables = [table(store, first)]
    for other in others:
        _check_losses(store, first, other, parse_loss("loss"))
        texts, of_other = sweep_texts(store, first.name), sweep_texts(store, other.name)
        for name in sorted(texts.keys() & of_other.keys()):
            _check_texts(store, (first, other), parse_loss(f"{TEXT}:{name}"))
        tables.append(table(store, other))
    joined = pl.concat(tables, how="diagonal").unique("cell_id", keep="first", maintain_order=True)
    conventions = sorted(set(joined["budget_convention"].to_list()))
    if len(conventions) > 1:
        raise TableError(
            f"the sweeps count budgets as {' and as '.join(conventions)} FLOPs, which one table cannot mix."
        )
    return joined


def _check_losses(store: Store, first: Sweep, second: Sweep, loss: Loss) -> None:
    """Raises TableError where the two were not evaluated alike."""
    measured = [_measured(store, sweep) for sweep in (first, second)]
    if loss.kind == TEXT:
        _check_texts(store, (first, second), loss)
    for aspect in DECIDING[loss.kind]:
        one, other = (values[aspect] for values in measured)
        if one and other and one != other:
            shown = [", ".join(sorted(str(value)[:12] for value in values)) for values in (one, other)]
            raise TableError(
                f"losses of {first.name} and {second.name} are not comparable: their {aspect} differs "
                f"({shown[0]} against {shown[1]})."
            )


def _check_texts(store: Store, sweeps: tuple[Sweep, Sweep], loss: Loss) -> None:
    """Raises LossError where a sweep has no text of that name, TableError where they call different texts so."""
    texts = [sweep_texts(store, sweep.name).get(loss.subject) for sweep in sweeps]
    for sweep, text in zip(sweeps, texts, strict=True):
        if text is None:
            fix = Fix(verb="eval", setting="text", value=f"{loss.subject}=FILE", words="measure it there with {}")
            raise LossError(f"no cell of sweep {sweep.name} has {loss.name}", fix=fix)
    one, other = (text for text in texts if text)
    if one.sha256 != other.sha256:
        raise TableError(
            f"{loss.name} of {sweeps[0].name} and of {sweeps[1].name} are not comparable: their tokens differ "
            f"({one.file}, {one.sha256[:12]} against {other.file}, {other.sha256[:12]})."
        )


def _measured(store: Store, sweep: Sweep) -> dict[str, set[Any]]:
    """What each published evaluation of a sweep was made on."""
    values: dict[str, set[Any]] = {aspect: set() for aspect in MEASURED}
    for cell in sweep.cells:
        if not store.is_done(str(cell.evaluate_segment)):
            continue
        segment = read_spec(store.published(str(cell.evaluate_segment)).spec)
        for aspect, read in MEASURED.items():
            values[aspect].add(read(segment))
    return values


def fit_pair(pair: SweepPair) -> Study:
    """The fit of both, with the comparisons between them alone; by surfaces where they have no budget in common.

    Raises TableError where their budgets do not even overlap, LossError where no cell has the loss.
    """
    one, other = (
        set(map(int, runs["budget"].to_list())) for _, runs in pair.runs.group_by("sweep", maintain_order=True)
    )
    if one & other:
        settings = FitSettings(loss_column=pair.loss_column, approaches=("parabola", "surface"))
    else:
        settings = FitSettings(
            loss_column=pair.loss_column, approaches=("surface",), optima_at=_within_both(one, other)
        )
    study = fit_study(pair.runs, settings)
    between = {frozenset(arms) for arms in pair.pairs}
    return replace(
        study,
        comparisons=tuple(gap for gap in study.comparisons if frozenset((gap.arm, gap.other)) in between),
        over_budgets=tuple(whole for whole in study.over_budgets if frozenset((whole.arm, whole.other)) in between),
    )


def _within_both(one: set[int], other: set[int]) -> tuple[str, ...]:
    """Budgets of either sweep that lie within those of the other. Raises TableError where there are none."""
    lowest, highest = max(min(one), min(other)), min(max(one), max(other))
    within = sorted(budget for budget in one | other if lowest <= budget <= highest)
    if not within:
        first, second = (
            f"{budget_label(str(min(budgets)))} to {budget_label(str(max(budgets)))}" for budgets in (one, other)
        )
        raise TableError(
            f"the budgets of the two sweeps do not overlap ({first} against {second} FLOPs): there is no equal "
            "compute at which to compare them."
        )
    return tuple(map(str, within))

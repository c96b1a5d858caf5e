"""The fitted study of a sweep as it stands now, of two sweeps as one table, or of anyone's table. Two sweeps are
refused where their losses do not mean the same. A note says where a few validation windows decide how cells differ."""

import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from analysis.advice.forecast.forecast import Forecast
from analysis.advice.predict import Advice
from analysis.frontier.study import FitSettings, Study, fit_study
from analysis.report.provenance import Provenance, provenance_of
from analysis.report.text import count_text, loss_text
from analysis.runs.column_map import columns_text, parse_columns
from analysis.runs.column_names import complete_columns, is_own, own_runs
from analysis.runs.import_table import ImportedTable, import_table
from analysis.runs.losses import BPB, OWN, TASK, TEXT, Loss, LossError, parse_loss
from analysis.runs.points import TableError
from analysis.runs.table_file import read_table
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.concentration import EVEN_CONCENTRATION, FEW_WINDOWS, concentration
from analysis.surface.optimum import SurfaceRules
from mor_core.config.own_model import OwnModel
from mor_core.errors import Fix
from mor_core.units import amount_text, budget_label, parse_budget, short_count
from orchestrator.planning.cells import Cell
from orchestrator.planning.identity import EvaluationSpec, Segment
from orchestrator.planning.ladder import NearestShape, nearest_shape
from orchestrator.records.revisions import Sweep, data_label, is_on_small_corpus, load_sweep, package_version
from orchestrator.records.table import table
from orchestrator.store.losses import read_sequence_losses
from orchestrator.store.published import StoreError, read_spec
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


TABLE_APPROACHES = ("parabola", "surface")
"""The approaches to a table on budgets that is asked for no other."""


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A study, and where it comes from."""

    study: Study
    """The fit."""
    name: str
    """The sweep's, or the table's."""
    runs: pl.DataFrame
    """The run table that was fitted."""
    sweep: Sweep | None = None
    """The sweep; None for a table."""
    other: str | None = None
    """The sweep that it is compared with."""

    @property
    def provenance(self) -> Provenance:
        """What a figure or a page says about its origin."""
        data = "" if self.sweep is None else data_label(self.sweep)
        source = self.name if self.other is None else f"{self.name} with {self.other}"
        return provenance_of(self.study, source=source, data=data, version=package_version())


def fit_of_sweep(
    store: Store,
    name: str | None,
    loss_column: str,
    approaches: tuple[str, ...] = ("parabola",),
    tied: bool = False,
    leave_out: tuple[str, ...] = (),
) -> Fitted:
    """The fit of a sweep's table as it stands now; of the last sweep without a name. Raises NoSuchSweep."""
    sweep = load_sweep(store, name)
    runs = table(store, sweep)
    settings = FitSettings(
        loss_column=loss_column,
        approaches=approaches,
        leave_out_cells=leave_out,
        surface=SurfaceRules(tied=tied),
    )
    study = fit_study(runs, settings, on_small_corpus=is_on_small_corpus(sweep))
    return Fitted(study=study, name=sweep.name, sweep=sweep, runs=runs)


def fit_of_sweeps(store: Store, name: str | None, other: str, loss_column: str) -> Fitted:
    """The fit of two sweeps with the comparisons between them. Raises NoSuchSweep and TableError."""
    pair = pair_sweeps(store, name, other, loss_column)
    study = fit_pair(pair)
    return Fitted(study=study, name=pair.first.name, sweep=pair.first, runs=pair.runs, other=other)


def fit_of_table(
    path: Path,
    *,
    columns: str | None,
    convention: str | None,
    budgets: str | None,
    loss_column: str,
    approaches: tuple[str, ...],
    tied: bool,
    leave_out: tuple[str, ...],
    report: Callable[[str, Fix | None], None],
) -> Fitted:
    """The fit of anyone's table; how it is read, assumptions and suspicions are reported, with the setting that would
    change one. Raises TableError and LossError.

    Without `approaches`, a surface, and parabolas where most runs lie on budgets. The run table of a sweep is fitted as
    the sweep is, unless something else is said of it. Of another table `loss_column` says what its losses are: their
    name and unit in what is printed and drawn.
    """
    settings = FitSettings(
        loss_column=parse_loss(loss_column).name,
        approaches=approaches or TABLE_APPROACHES,
        leave_out_cells=leave_out,
        surface=SurfaceRules(tied=tied),
    )
    runs, imported = runs_of_table(
        path, columns=columns, convention=convention, budgets=budgets, loss=settings.loss_column, report=report
    )
    if imported is None:
        return Fitted(study=fit_study(runs, settings), name=path.name, runs=runs)
    if note := _budget_note(imported, approaches):
        words = "{} says others" if imported.on_budgets else "where they were meant for budgets, name those with {}"
        report(f"note: {note}", Fix(setting="budgets", words=words))
    for suspicion in imported.suspicions:
        report(f"suspected: {suspicion.sentence}", None)
    if not (approaches or imported.on_budgets):
        settings = replace(settings, approaches=("surface",))
    settings = replace(settings, optima_at=imported.optima_at)
    return Fitted(study=fit_study(runs, settings, reading=imported.reading), name=path.name, runs=runs)


def runs_of_table(
    path: Path,
    *,
    columns: str | None,
    convention: str | None,
    budgets: str | None,
    loss: str,
    report: Callable[[str, Fix | None], None],
) -> tuple[pl.DataFrame, ImportedTable | None]:
    """Anyone's table as a run table whose losses are called `loss`, and how it was read; None for the run table of a
    sweep. Raises TableError and LossError."""
    frame = read_table(path)
    stated = parse_columns(columns or "")
    if is_own(frame) and not (columns or convention or budgets):
        report("note: read as the run table of a sweep", None)
        return own_runs(frame), None
    meaning = complete_columns(frame, stated, convention)
    report(f"columns: {shlex.quote(columns_text(meaning))}", None)
    unit = parse_loss(loss).unit
    imported = import_table(frame, meaning, convention=convention, budgets=_budgets(budgets), unit=unit)
    for note in imported.notes:
        report(f"note: {note}", None)
    return imported.frame.rename({"loss": loss}), imported


def _budgets(text: str | None) -> tuple[int, ...]:
    """Raises TableError for what is no amount of FLOPs."""
    try:
        return tuple(parse_budget(budget) for budget in text.split(",")) if text else ()
    except ValueError as error:
        raise TableError(str(error), fix=Fix(setting="budgets")) from error


def _budget_note(imported: ImportedTable, approaches: tuple[str, ...]) -> str:
    """Which budgets were found, or what is done where most runs lie on none; empty where the table says its budgets, or
    where a surface alone was asked for, which needs none.
    """
    if approaches == ("surface",):
        return ""
    if imported.on_budgets:
        labels = ", ".join(map(budget_label, imported.clusters or ()))
        return f"{len(imported.clusters or ())} budgets found as clusters of FLOPs: {labels}" if labels else ""
    where = "most runs lie on no common budget of FLOPs, which parabolas need"
    if approaches and "surface" not in approaches:
        return f"{where}: a surface L(N, D) fits runs of any FLOPs"
    reach = imported.optima_at
    at = f", asked at budgets from {budget_label(reach[0])} to {budget_label(reach[-1])} FLOPs" if reach else ""
    return f"{where}: a surface L(N, D) is fitted instead{at}"


def nearest_shapes(fitted: Fitted, answers: Sequence[Advice | Forecast], flops: int) -> list[NearestShape | None]:
    """The named shape nearest to each predicted N*; None where it is refused, and for a table, which has no shapes."""
    if fitted.sweep is None:
        return [None] * len(answers)
    cells = {cell.arm: cell for cell in fitted.sweep.cells}
    return [
        _nearest_shape(cells[answer.arm], answer.params, flops) if isinstance(answer.params, Estimate) else None
        for answer in answers
    ]


def _nearest_shape(cell: Cell, params: Estimate, flops: int) -> NearestShape | None:
    """None for a user's own model, whose ladder is in code that is not asked here."""
    if isinstance(cell.model, OwnModel):
        return None
    return nearest_shape(cell.size, cell.model, cell.budget_convention, params.value, flops)


def predicted_lines(answer: Advice, shape: NearestShape | None) -> list[str]:
    """What is said of one prediction, for people."""
    weight = "" if answer.weight is None else f"; weight {answer.weight:.2f}"
    lines = [
        f"{answer.arm} ({answer.approach}): N* {count_text(answer.params)}, D* {count_text(answer.tokens)}, "
        f"L* {loss_text(answer.loss)}{weight}"
    ]
    if shape is not None:
        lines.append(
            f"  nearest shape: {shape.size} ({shape.num_layers} layers, width {shape.d_model}; "
            f"N {shape.of_optimum:.2f} of N*), which the budget trains on {short_count(shape.tokens)} tokens"
        )
    if answer.record:
        lines.append(f"  record: {answer.record}")
    quantities = (answer.params, answer.tokens, answer.loss)
    refusals = (quantity.sentence for quantity in quantities if isinstance(quantity, Refusal))
    lines += [f"  refused: {sentence}" for sentence in dict.fromkeys(refusals)]
    if answer.flagged and not answer.refused:
        lines.append(
            f"  flagged: {amount_text(answer.reach)} times the largest budget fitted; an extrapolation this far is a "
            "guess"
        )
    return lines


MOST_PAIRS = 50
"""Pairs of cells whose windows are compared, spread over the sweep: at most a hundred small files are read."""


def concentration_note(store: Store, fitted: Fitted) -> str:
    """A sentence where a few windows of the validation text decide how the fitted cells of a sweep differ; empty where
    none do, where no two neighbouring cells have kept the losses of their windows, and where the loss is of other
    text."""
    if fitted.sweep is None or parse_loss(fitted.study.points.loss_column).kind:
        return ""
    pairs = _neighbours(store, fitted.sweep, fitted.study.points.frame)
    number = min(len(pairs), MOST_PAIRS)
    spread = [pairs[index * len(pairs) // number] for index in range(number)]
    shares = [share for pair in spread if (share := _pair_concentration(store, *pair)) is not None]
    if not shares or median(shares) >= FEW_WINDOWS:
        return ""
    return (
        f"a few windows of the validation text decide how cells differ: {median(shares):.1%} of them make half of the "
        f"squared difference between neighbouring cells (median of {len(shares)} pairs; {EVEN_CONCENTRATION:.0%} where "
        "noise is even), so another text may rank them otherwise: set quality = true in [data], or measure more or "
        "other text (num_sequences in [evaluation])"
    )


def _neighbours(store: Store, sweep: Sweep, points: pl.DataFrame) -> list[tuple[str, str]]:
    """Evaluations of neighbouring sizes with one seed, and of one size with neighbouring seeds, at one budget of one
    arm, as far as they have kept the losses of their windows."""
    evaluations = {cell.cell_id: str(cell.evaluate_segment) for cell in sweep.cells}
    groups: dict[tuple[Any, ...], list[str]] = {}
    for row in points.sort("params", "seed").iter_rows(named=True):
        segment = evaluations[row["cell_id"]]
        if store.published(segment).sequence_losses.is_file():
            for key in (("seed", row["seed"]), ("size", row["size"])):
                groups.setdefault((row["arm"], row["budget"], *key), []).append(segment)
    return [pair for group in groups.values() for pair in pairwise(group)]


def _pair_concentration(store: Store, one: str, other: str) -> float | None:
    """Of the windows of two evaluations; None where they do not differ, or were not made on the same number of them."""
    try:
        first_S, second_S = (read_sequence_losses(store.published(name).sequence_losses) for name in (one, other))
    except StoreError:  # `fsck` and the sweep's own command name the file.
        return None
    if first_S is None or second_S is None or len(first_S) != len(second_S):
        return None
    return concentration(first_S.astype("f8") - second_S)

"""A sweep, or anyone's run table, in a notebook: what is planned, where it stands, its table, fits, advice and figures.

    import mor_sweep as ms
    sweep = ms.open("isoflop-cpu")
    sweep.status                    # cells and what they wait for
    sweep.table().filter(...)       # the run table, polars; sweep.pandas()
    sweep.fit().study               # the fit as values: see analysis.frontier.study.Study
    sweep.predict("1e13")           # what to train with a budget
    sweep.figure("frontier")        # as `mor-sweep plot frontier` draws it
    ms.open_table("runs.csv", columns="params=N,tokens=D*1e9,loss=val_loss").fit()

`ms.open("s3://bucket/study")` opens the last sweep used there, as it is in the bucket at that moment.

No torch, Ray or MLflow is imported, and nothing is written to the results folder but what `forecast` freezes. Each
value is as the files are when it is asked for.
"""

import inspect
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from markupsafe import Markup, escape

from analysis.frontier.study import Study
from analysis.report.text import count_text, law_text, loss_text, study_as_markdown
from analysis.runs.losses import parse_loss
from analysis.runs.points import TableError
from analysis.runs.table_file import read_table
from analysis.statistics.answers import Refusal
from mor_core.errors import Fix, UserError
from mor_core.units import budget_text, parse_budget
from mor_core.units import count_text as short
from orchestrator.records.fits import (
    Fitted,
    fit_of_sweep,
    fit_of_sweeps,
    fit_of_table,
    nearest_shapes,
    predicted_lines,
)
from orchestrator.records.revisions import Sweep as StoredSweep
from orchestrator.records.revisions import load_sweep
from orchestrator.records.status.sweep_status import Status, counted, counts_text, read_status, state_text
from orchestrator.records.table import cell_curves, segment_table, table
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import address_in, open_store

if TYPE_CHECKING:
    import pandas as pd


FigureName = Literal[
    "isoflop", "frontier", "surface", "residuals", "compare", "backtest", "lifetime", "forecasts", "curves"
]
"""What `mor-sweep plot` draws."""

MOST_ROWS = 100
"""Cells that a page shows one by one; the frames hold all of them."""

PARABOLA, SURFACE, BOTH = ("parabola",), ("surface",), ("parabola", "surface")
"""Approaches of a fit."""

OF_A_SWEEP = ("plan", "status", "segments", "curves", "suggest", "forecast")
"""What a sweep answers and a table of runs cannot."""


class NoFigure(UserError):
    """A figure that there is not, or that these runs do not support; the message says why."""


class NotOfATable(UserError, AttributeError):
    """A question that only a sweep can answer."""


class Runs(ABC):
    """Runs that can be fitted: those of a sweep, or of anyone's table."""

    def fit(self, approaches: tuple[str, ...] = PARABOLA, *, loss: str = "loss", tied: bool = False) -> "SweepFit":
        """The frontier as `mor-sweep fit` finds it; `loss` is what `--loss` takes. Raises TableError and LossError."""
        fitted = self._fitted(loss, approaches, tied)
        return SweepFit(name=fitted.name, study=fitted.study)

    def predict(self, budget: str | float, *, loss: str = "loss", force: bool = False, tied: bool = False) -> "Answer":
        """What to train with a budget of FLOPs, as `mor-sweep predict` says it; the values are
        `analysis.advice.predict.Advice`, one an arm and approach.

        Raises TableError, also for what is no amount of FLOPs, and LossError.
        """
        from analysis.advice.predict import predict_budget

        flops = _flops(budget)
        fitted = self._fitted(loss, BOTH, tied)
        answers = predict_budget(fitted.study, str(flops), forced=force)
        shapes = nearest_shapes(fitted, answers, flops)
        lines = [line for pair in zip(answers, shapes, strict=True) for line in predicted_lines(*pair)]
        return Answer(values=answers, text="\n".join(lines))

    def compare(self, other: str | None = None, *, loss: str | None = None) -> "Answer":
        """Arms at equal FLOPs, as `mor-sweep compare` says it; `other` is another sweep of the folder. The values are
        the studies compared, one a loss. Raises NoSuchSweep, TableError and LossError."""
        from analysis.frontier.conventions import recount, recount_lines
        from analysis.frontier.wall_time import at_equal_time
        from analysis.report.text import comparison_lines

        lines, compared = [], self._compared(other, loss)
        for fitted in compared:
            study = fitted.study
            found = comparison_lines(study) or ["fewer than two arms: nothing to compare"]
            found += [pair.sentence for pair in at_equal_time(study, fitted.runs)]
            found += recount_lines(recount(study, fitted.runs))
            lines += [f"{study.points.loss_column}:", *(f"  {line}" for line in found)]
        return Answer(values=tuple(fitted.study for fitted in compared), text="\n".join(lines))

    def backtest(self, *, loss: str = "loss", asymptote: float | None = None, tied: bool = False) -> "Answer":
        """The later budgets predicted from the first ones, as `mor-sweep backtest` says it; the values are arm ->
        `analysis.advice.forecast.record.History`, or why there is none. Raises TableError and LossError."""
        from analysis.advice.forecast.record import histories
        from analysis.report.backtests import backtests_as_markdown

        records = histories(self._fitted(loss, PARABOLA, tied).study, asymptote)
        refused = [f"refused: {arm}: {each.sentence}" for arm, each in records.items() if isinstance(each, Refusal)]
        return Answer(values=records, text="\n".join([*refused, backtests_as_markdown(records)]).strip())

    def figure(self, name: FigureName, **options: Any) -> "Drawing":
        """A figure as `mor-sweep plot` draws it; its options are those of that verb, such as `loss="loss_topk"`,
        `tied=True`, or `other="NAME"` of `compare`. Raises NoFigure, TableError and LossError."""
        if name not in FIGURES:
            raise NoFigure(f"figure {name!r}: expected one of {', '.join(FIGURES)}")
        known = list(inspect.signature(FIGURES[name]).parameters)[2:]
        if unknown := [option for option in options if option not in known]:
            raise NoFigure(f"figure {name!r} takes no {unknown[0]}: it takes {', '.join(known)}")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.svg"
            FIGURES[name](self, [path], **options)
            return Drawing(name=name, svg=path.read_text())

    @abstractmethod
    def _fitted(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        """Fit them. Raises TableError and LossError."""

    @abstractmethod
    def _compared(self, other: str | None, loss: str | None) -> list[Fitted]:
        """Fits whose arms are compared, one a loss."""


@dataclass(frozen=True, kw_only=True, repr=False)
class Sweep(Runs):
    """One sweep of a results folder."""

    name: str
    """Its name."""
    store: Store
    """Where its results are."""

    @classmethod
    def open(cls, name: str | None = None, results: str | Path = "results") -> "Sweep":
        """The sweep of that name, or the last one used, in a folder or at an s3:// address. An address in place of the
        name is that of the last sweep used there.

        Raises NoSuchSweep, OtherVersion, and StoreError, also for a bucket that cannot be used.
        """
        if name is not None and address_in(name):
            name, results = None, name
        store = open_store(results)
        store.upstream.pull()
        return cls(name=load_sweep(store, name).name, store=store)

    @property
    def plan(self) -> "PlannedCells":
        """Every cell that the sweep has been asked for."""
        return PlannedCells(sweep=self._load())

    @property
    def status(self) -> "SweepStatus":
        """Where every cell stands now."""
        return SweepStatus(status=read_status(self.store, self.name))

    def table(self) -> pl.DataFrame:
        """The run table, a row a cell; results/README.md explains the columns."""
        return table(self.store, self._load())

    def pandas(self) -> "pd.DataFrame":
        """The run table for pandas."""
        return self.table().to_pandas()

    def segments(self) -> pl.DataFrame:
        """What every segment took, each once."""
        return segment_table(self.store, self._load())

    def curves(self, loss: str = "loss") -> pl.DataFrame:
        """The training curves: cell, arm, size, budget, tokens, loss; a row a logged step."""
        frames = [
            pl.DataFrame({"tokens": each.tokens, "loss": each.loss}).select(
                pl.lit(each.cell).alias("cell"),
                pl.lit(each.arm).alias("arm"),
                pl.lit(each.size).alias("size"),
                pl.lit(each.budget).alias("budget"),
                pl.all(),
            )
            for each in cell_curves(self.store, self._load(), loss)
        ]
        return pl.concat(frames) if frames else pl.DataFrame()

    def suggest(self, count: int = 8, *, loss: str = "loss") -> "Answer":
        """The next cells worth training, with the commands for them, as `mor-sweep suggest` names them; the values are
        pairs of a Suggestion and what it costs. Raises NoAdvice where no cell could join the sweep."""
        from orchestrator.records.cell_names import place_name
        from orchestrator.search.candidates import next_cells
        from orchestrator.search.spec_of_sweep import commands

        fitted, sweep = self._fitted(loss, PARABOLA), self._load()
        found = next_cells(self.store, sweep, fitted.runs, fitted.study.points, count=count)
        if isinstance(found, Refusal):
            return Answer(values=found, text=f"refused: {found.sentence}")
        cells = [(suggestion.candidate, suggestion.reason) for suggestion, _ in found]
        lines = [f"{place_name(c.arm, c.size, int(c.budget), c.seed)}: {reason}" for c, reason in cells]
        trained_by = commands([suggestion for suggestion, _ in found], sweep, self.store.root)
        return Answer(values=tuple(found), text="\n".join([*lines, "", "To train them:", *trained_by]))

    def forecast(
        self,
        budget: str | float | None = None,
        *,
        arm: str | None = None,
        loss: str = "loss",
        asymptote: float | None = None,
        force: bool = False,
    ) -> "Answer":
        """Freeze what the sweep says of a larger budget, as `mor-sweep forecast --budget` does: files that nothing
        changes. Without a budget, how all that was frozen fared, and nothing is written.

        Raises NoForecast, UnreadableForecast, StoreError and TableError.
        """
        from analysis.report.forecasts import forecast_lines, run_refusals, score_summary, tabulate_scores
        from orchestrator.records.forecasts import Asked, freeze, score_forecasts

        if budget is None:
            scored = score_forecasts(self.store, self._load())
            shown = tabulate_scores(scored) + score_summary(scored) if scored else f"{self.name} has no forecast yet"
            return Answer(values=tuple(scored), text=shown)
        asked = Asked(flops=_flops(budget), arm=arm, asymptote=asymptote, forced=force)
        frozen = freeze(self.store, self._fitted(loss, PARABOLA), asked)
        lines = [line for forecast in frozen.forecasts for line in forecast_lines(forecast)]
        refused = run_refusals(frozen.forecasts)
        refused += [f"{each.arm} {each.approach}".strip() + f": {each.sentence}" for each in frozen.refused]
        return Answer(values=frozen, text="\n".join([*lines, *(f"refused: {line}" for line in refused)]))

    def _fitted(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        return fit_of_sweep(self.store, self.name, parse_loss(loss).name, approaches, tied)

    def _compared(self, other: str | None, loss: str | None) -> list[Fitted]:
        """By causal and by top-k loss where none is named and anything is routed."""
        first = self._against(other, loss or "loss")
        is_routed = bool((first.runs["architecture"] == "mor").any())
        return [first, self._against(other, "loss_topk")] if is_routed and loss is None else [first]

    def _against(self, other: str | None, loss: str) -> Fitted:
        if other is None:
            return self._fitted(loss, BOTH)
        return fit_of_sweeps(self.store, self.name, other, parse_loss(loss).name)

    def _load(self) -> StoredSweep:
        return load_sweep(self.store, self.name)

    def __repr__(self) -> str:
        states = [cell.status for cell in self.status.status.cells]
        others = counted(state for state in states if state != "finished")
        finished = f"{self.name}: {states.count('finished')} of {len(states)} cells finished"
        return f"{finished}, {others}" if others else finished

    def _repr_html_(self) -> str:
        return self.status._repr_html_()


@dataclass(frozen=True, kw_only=True, repr=False)
class RunTable(Runs):
    """Anyone's table of runs. How it is read, what is assumed and what looks wrong goes to stderr, each once."""

    path: Path
    """A CSV or Parquet file."""
    columns: str | None = None
    """What its columns mean, beside what their names say: `params=N,tokens=D*1e9,loss=val_loss`."""
    convention: str | None = None
    """How its FLOPs are counted."""
    budgets: str | None = None
    """The budgets that its runs were meant for."""
    _shown: set[str] = field(default_factory=set, compare=False)
    """What stderr has been shown."""

    @classmethod
    def open(
        cls,
        path: str | Path,
        columns: str | Mapping[str, str] | None = None,
        convention: str | None = None,
        budgets: str | None = None,
    ) -> "RunTable":
        """A table by its file; columns also as {"params": "N", "tokens": "D*1e9"}. Raises TableError."""
        read_table(Path(path))
        text = ",".join(f"{key}={name}" for key, name in columns.items()) if isinstance(columns, Mapping) else columns
        return cls(path=Path(path), columns=text, convention=convention, budgets=budgets)

    def table(self) -> pl.DataFrame:
        """The table as the file has it."""
        return read_table(self.path)

    def fit(self, approaches: tuple[str, ...] = (), *, loss: str = "loss", tied: bool = False) -> "SweepFit":
        """As `mor-sweep fit --table` finds it: without approaches a surface, and parabolas where most runs lie on
        budgets. Raises TableError and LossError."""
        return super().fit(approaches, loss=loss, tied=tied)

    def _fitted(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        return fit_of_table(
            self.path,
            columns=self.columns,
            convention=self.convention,
            budgets=self.budgets,
            loss_column=loss,
            approaches=() if approaches == BOTH else approaches,
            tied=tied,
            leave_out=(),
            report=self._show,
        )

    def _compared(self, other: str | None, loss: str | None) -> list[Fitted]:
        if other is not None:
            raise TableError("other names a sweep, to be compared with a sweep: leave it out for a table.")
        return [self._fitted(loss or "loss", BOTH)]

    def _show(self, line: str, fix: Fix | None) -> None:
        sentence = line if fix is None else f"{line}; {fix.words.format(fix)}"
        if sentence not in self._shown:
            print(sentence, file=sys.stderr)
        self._shown.add(sentence)

    def __getattr__(self, name: str) -> Any:
        if name in OF_A_SWEEP:
            raise NotOfATable(f"{self.path.name} is a table of runs, which has no {name}: open the sweep itself for it")
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"{self.path.name}: a table of {self.table().height} runs"


@dataclass(frozen=True, kw_only=True, repr=False)
class PlannedCells:
    """What a sweep has been asked for."""

    sweep: StoredSweep
    """With its segments."""

    def frame(self) -> pl.DataFrame:
        """A row a cell. Budgets are decimal text, for they can pass 2^63."""
        rows = [
            {
                "arm": cell.arm,
                "size": cell.size,
                "budget": str(cell.budget),
                "seed": cell.seed,
                "unique_params": cell.unique_params,
                "steps": cell.steps,
                "tokens": cell.tokens,
                "flops_exact": float(cell.flops["exact"]),
                "cell_id": cell.cell_id,
            }
            for cell in self.sweep.cells
        ]
        return pl.DataFrame(rows)

    def __repr__(self) -> str:
        return f"{self.sweep.name}: {len(self.sweep.cells)} cells, {len(self.sweep.segments)} segments"

    def _repr_html_(self) -> str:
        head = ("arm", "size", "N", "budget", "seed", "steps", "tokens")
        rows = [
            (
                cell.arm,
                cell.size,
                short(cell.unique_params),
                budget_text(cell.budget),
                str(cell.seed),
                f"{cell.steps:,}",
                short(cell.tokens),
            )
            for cell in self.sweep.cells
        ]
        return html_table(repr(self), head, rows, most=MOST_ROWS)


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepStatus:
    """Where every cell of a sweep stands at one moment."""

    status: Status
    """Cells, and what is under way."""

    def frame(self) -> pl.DataFrame:
        """A row a cell."""
        return pl.DataFrame([{**vars(cell), "budget": str(cell.budget)} for cell in self.status.cells])

    def __repr__(self) -> str:
        return counts_text(self.status)

    def _repr_html_(self) -> str:
        under_way = self.status.by_cell()
        rows = [
            (
                cell.arm,
                cell.size,
                budget_text(cell.budget),
                str(cell.seed),
                "" if cell.loss is None else f"{cell.loss:.4f}",
                state_text(cell, under_way.get(cell.cell_id)),
            )
            for cell in self.status.cells
        ]
        return html_table(
            counts_text(self.status), ("arm", "size", "budget", "seed", "loss", "status"), rows, most=MOST_ROWS
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class SweepFit:
    """A fitted study."""

    name: str
    """The sweep's."""
    study: Study
    """Every number with its interval, every refusal with its reason, every row left out."""

    def markdown(self) -> str:
        """What `mor-sweep fit` prints."""
        return study_as_markdown(self.study)

    def __repr__(self) -> str:
        return self.markdown()

    def _repr_html_(self) -> str:
        parts = []
        for frontier in self.study.frontiers:
            head = ("C (FLOPs)", "N*", "D* (tokens)", f"L* ({self.study.points.loss_unit})")
            rows = [
                (budget_text(int(each.budget)), count_text(each.params), count_text(each.tokens), loss_text(each.loss))
                for each in frontier.optima
            ]
            title = f"{self.name}, {frontier.arm} ({frontier.approach})"
            laws: dict[str, Any] = {
                "N*": ("params", frontier.params_law),
                "D*": ("tokens", frontier.tokens_law),
                "L*": ("loss", frontier.loss_law),
            }
            parts.append(html_table(title, head, rows, most=MOST_ROWS))
            parts.append(html_list([f"{symbol}: {law_text(*law)}" for symbol, law in laws.items()]))
        return "".join(parts)


@dataclass(frozen=True, kw_only=True, repr=False)
class Answer:
    """What runs say to a question."""

    values: Any
    """As values."""
    text: str
    """As the command line prints it."""

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return str(Markup("<pre>{}</pre>").format(self.text))


@dataclass(frozen=True, kw_only=True, repr=False)
class Drawing:
    """A figure that a notebook shows."""

    name: str
    """Which."""
    svg: str
    """Its text."""

    def save(self, path: str | Path) -> None:
        """Write it where you say."""
        Path(path).write_text(self.svg)

    def __repr__(self) -> str:
        return f"figure {self.name}, {len(self.svg):,} characters of SVG"

    def _repr_html_(self) -> str:
        return self.svg[self.svg.index("<svg") :]


def html_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], *, most: int) -> str:
    """A table with a caption; of more than `most` rows the first, and how many are left out."""
    cells = Markup("").join(Markup("<th>{}</th>").format(name) for name in head)
    body = Markup("").join(_row(row) for row in rows[:most])
    more = f" (the first {most} of {len(rows)} rows)" if len(rows) > most else ""
    return str(
        Markup("<table><caption>{}{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(
            title, more, cells, body
        )
    )


def html_list(lines: Sequence[str]) -> str:
    """Sentences, one below the other."""
    return str(Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(line) for line in lines)))


def _row(row: Sequence[str]) -> Markup:
    return Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(escape(each)) for each in row))


def _flops(budget: str | float) -> int:
    """Raises TableError for what is no amount of FLOPs."""
    try:
        return parse_budget(str(budget))
    except ValueError as error:
        raise TableError(f"budget: {error}") from error


def _draw_isoflop(runs: Runs, paths: list[Path], *, loss: str = "loss") -> None:
    from analysis.figures.isoflop import plot_isoflop

    fitted = runs._fitted(loss, PARABOLA)
    plot_isoflop(fitted.study, paths, fitted.provenance)


def _draw_frontier(runs: Runs, paths: list[Path], *, loss: str = "loss") -> None:
    from analysis.figures.frontier import plot_frontier

    fitted = runs._fitted(loss, PARABOLA)
    plot_frontier(fitted.study, paths, fitted.provenance)


def _draw_surface(runs: Runs, paths: list[Path], *, loss: str = "loss", tied: bool = False) -> None:
    from analysis.figures.surface import plot_surface

    fitted = runs._fitted(loss, SURFACE, tied)
    plot_surface(fitted.study, paths, fitted.provenance)


def _draw_residuals(runs: Runs, paths: list[Path], *, loss: str = "loss", tied: bool = False) -> None:
    from analysis.figures.surface import plot_residuals

    fitted = runs._fitted(loss, SURFACE, tied)
    plot_residuals(fitted.study, paths, fitted.provenance)


def _draw_compare(runs: Runs, paths: list[Path], *, other: str | None = None, loss: str | None = None) -> None:
    from analysis.figures.compare import plot_compare

    compared = runs._compared(other, loss)
    plot_compare([fitted.study for fitted in compared], paths, compared[0].provenance)


def _draw_backtest(
    runs: Runs, paths: list[Path], *, loss: str = "loss", asymptote: float | None = None, tied: bool = False
) -> None:
    from analysis.advice.forecast.record import histories
    from analysis.figures.advice.backtest import plot_backtest

    fitted = runs._fitted(loss, PARABOLA, tied)
    provenance = replace(fitted.provenance, method="each law fitted to the first budgets and asked for the later ones")
    plot_backtest(histories(fitted.study, asymptote), fitted.study.points.arms, paths, provenance)


def _draw_lifetime(
    runs: Runs,
    paths: list[Path],
    *,
    target_loss: float | None = None,
    served_tokens: float = 0.0,
    loss: str = "loss",
    tied: bool = False,
    per: Literal["flops", "bytes"] = "flops",
    kv_cache_bytes: float | None = None,
    memory_bytes: float | None = None,
    context: float | None = None,
) -> None:
    from analysis.advice.serving import Demand, served_arms, trained_context
    from analysis.figures.advice.lifetime import plot_lifetime, study_lifetime

    fitted = runs._fitted(loss, SURFACE, tied)
    demand = Demand(
        tokens=served_tokens,
        per=per,
        context=trained_context(fitted.runs) if context is None else context,
        kv_cache_bytes=kv_cache_bytes,
        memory_bytes=memory_bytes,
    )
    arms = served_arms(fitted.runs, with_memory=demand.limited)
    lifetime = study_lifetime(fitted.study, target_loss, demand, arms)
    if isinstance(lifetime, Refusal):
        raise NoFigure(f"refused: {lifetime.sentence}")
    plot_lifetime(fitted.study, lifetime, paths, fitted.provenance)


def _draw_forecasts(runs: Runs, paths: list[Path]) -> None:
    from analysis.figures.advice.forecasts import plot_forecasts
    from orchestrator.records.forecasts import score_forecasts

    sweep = _only_a_sweep(runs, "forecasts")
    method = "forecasts as they were frozen, against the cells trained since"
    provenance = replace(sweep._fitted("loss", PARABOLA).provenance, method=method)
    plot_forecasts(score_forecasts(sweep.store, sweep._load()), paths, provenance)


def _draw_curves(runs: Runs, paths: list[Path], *, loss: str = "loss") -> None:
    from analysis.figures.curves import plot_curves

    sweep, column = _only_a_sweep(runs, "curves"), parse_loss(loss).name
    method = "the median over 2 % of each curve; a dot is the evaluation after the cooldown"
    provenance = replace(sweep._fitted(column, PARABOLA).provenance, method=method)
    plot_curves(cell_curves(sweep.store, sweep._load(), column), column, paths, provenance)


def _only_a_sweep(runs: Runs, figure: str) -> Sweep:
    if not isinstance(runs, Sweep):
        raise NoFigure(f"a table of runs has no {figure} to draw: open the sweep itself for that figure")
    return runs


FIGURES: dict[str, Callable[..., None]] = {
    "isoflop": _draw_isoflop,
    "frontier": _draw_frontier,
    "surface": _draw_surface,
    "residuals": _draw_residuals,
    "compare": _draw_compare,
    "backtest": _draw_backtest,
    "lifetime": _draw_lifetime,
    "forecasts": _draw_forecasts,
    "curves": _draw_curves,
}
"""What draws each figure: (runs, paths, its options)."""

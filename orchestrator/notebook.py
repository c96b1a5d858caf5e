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

import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from analysis.runs.losses import parse_loss
from analysis.runs.points import TableError
from analysis.runs.table_file import read_table
from analysis.statistics.answers import Refusal
from mor_core.errors import Fix, UserError
from mor_core.units import parse_budget
from orchestrator.records.curves import cell_curves
from orchestrator.records.display.figures import FIGURES, FigureName, options_of
from orchestrator.records.display.runs_figure import PARABOLA, SURFACE, DrawnRuns, NoFigure, by_losses
from orchestrator.records.display.values import Answer, Drawing, PlannedCells, SweepFit, SweepStatus
from orchestrator.records.fits.fitted import Fitted, TableFile, fit_of_sweep, fit_of_sweeps, fit_of_table
from orchestrator.records.fits.predictions import nearest_shapes, predicted_lines
from orchestrator.records.revisions import Sweep as StoredSweep
from orchestrator.records.revisions import load_sweep
from orchestrator.records.status.sweep_status import counted, read_status
from orchestrator.records.table import segment_table, table
from orchestrator.store.store import Store
from orchestrator.store.upstream.upstream import address_in, open_store

if TYPE_CHECKING:
    import pandas as pd

    from orchestrator.planning.own_models.check import ModelCheck

BOTH = ("parabola", "surface")
"""Approaches of a fit that compares arms."""

OF_A_SWEEP = ("plan", "status", "segments", "curves", "suggest", "forecast")
"""What a sweep answers and a table of runs cannot."""


class NotOfATable(UserError, AttributeError):
    """A question that only a sweep can answer."""


class Runs(ABC):
    """Runs that can be fitted: those of a sweep, or of anyone's table."""

    def fit(self, approaches: tuple[str, ...] = PARABOLA, *, loss: str = "loss", tied: bool = False) -> SweepFit:
        """The frontier as `mor-sweep fit` finds it; `loss` is what `--loss` takes. Raises TableError and LossError."""
        fitted = self._fitted(loss, approaches, tied)
        return SweepFit(name=fitted.name, study=fitted.study)

    def predict(
        self,
        budget: str | float,
        *,
        unique_tokens: str | float | None = None,
        loss: str = "loss",
        force: bool = False,
        tied: bool = False,
    ) -> Answer:
        """What to train with a budget of FLOPs, as `mor-sweep predict` says it; the values are
        `analysis.advice.predict.Advice`, one an arm and approach. With the size of a corpus they are arm ->
        `analysis.surface.extended.repeated.RepeatedOptimum`, or why there is none.

        Raises TableError, also for what is no amount of FLOPs or tokens, and LossError.
        """
        from analysis.advice.predict import predict_budget, predict_corpus
        from analysis.surface.extended.repeated_words import corpus_lines

        flops = _flops(budget)
        if unique_tokens is not None:
            corpus, study = _corpus(unique_tokens), self._fitted(loss, SURFACE, tied).study
            optima = predict_corpus(study, str(flops), corpus, forced=force)
            return Answer(values=optima, text="\n".join(corpus_lines(optima)))
        fitted = self._fitted(loss, BOTH, tied)
        answers = predict_budget(fitted.study, str(flops), forced=force)
        shapes = nearest_shapes(fitted, answers, flops)
        lines = [line for pair in zip(answers, shapes, strict=True) for line in predicted_lines(*pair)]
        return Answer(values=answers, text="\n".join(lines))

    def compare(self, other: str | None = None, *, loss: str | None = None) -> Answer:
        """Arms at equal FLOPs, as `mor-sweep compare` says it; `other` is another sweep of the folder. The values are
        the studies compared, one a loss. Raises NoSuchSweep, TableError and LossError."""
        from analysis.frontier.conventions import recount, recount_lines
        from analysis.frontier.wall_time import at_equal_time
        from analysis.report.text import comparison_lines, repetition_gaps

        lines, compared = [], self._compared(other, loss)
        for fitted in compared:
            study = fitted.study
            sentences = comparison_lines(study) or ["fewer than two arms: nothing to compare"]
            sentences += repetition_gaps(study)
            sentences += [pair.sentence for pair in at_equal_time(study, fitted.runs)]
            sentences += recount_lines(recount(study, fitted.runs))
            lines += [f"{study.points.loss_column}:", *(f"  {sentence}" for sentence in sentences)]
        return Answer(values=tuple(fitted.study for fitted in compared), text="\n".join(lines))

    def backtest(self, *, loss: str = "loss", asymptote: float | None = None, tied: bool = False) -> Answer:
        """The later budgets predicted from the first ones, as `mor-sweep backtest` says it; the values are arm ->
        `analysis.advice.forecast.record.History`, or why there is none. Raises TableError and LossError."""
        from analysis.advice.forecast.record import histories
        from analysis.frontier.study import backtest_repeats
        from analysis.report.backtests import backtests_as_markdown, repeats_as_markdown

        fitted = self._fitted(loss, PARABOLA, tied)
        records = histories(fitted.study, asymptote)
        repeats = backtest_repeats(fitted.runs, fitted.study.settings)
        refusals = {arm: record for arm, record in records.items() if isinstance(record, Refusal)}
        refused = [f"refused: {arm}: {refusal.sentence}" for arm, refusal in refusals.items()]
        texts = [*refused, backtests_as_markdown(records), repeats_as_markdown(repeats)]
        return Answer(values=records, text="\n".join(texts).strip())

    def figure(self, name: FigureName, **options: Any) -> Drawing:
        """A figure as `mor-sweep plot` draws it; its options are those of that verb, such as `loss="loss_topk"`,
        `tied=True`, or `other="NAME"` of `compare`. Raises NoFigure, TableError and LossError."""
        if name not in FIGURES:
            raise NoFigure(f"figure {name!r}: expected one of {', '.join(FIGURES)}")
        possible = options_of(name)
        if unknown := [option for option in options if option not in possible]:
            raise NoFigure(f"figure {name!r} takes no {unknown[0]}: it takes {', '.join(possible)}")
        drawn = DrawnRuns(fit=self._fitted, compare=self._compared, store=self._results())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{name}.svg"
            FIGURES[name](drawn, **options).draw([path], None)
            return Drawing(name=name, svg=path.read_text())

    @abstractmethod
    def _fitted(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        """Fit them. Raises TableError and LossError."""

    @abstractmethod
    def _compared(self, other: str | None, loss: str | None) -> list[Fitted]:
        """Fits whose arms are compared, one a loss."""

    @abstractmethod
    def _results(self) -> Store | None:
        """Where a sweep's results are; None for a table."""


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
    def plan(self) -> PlannedCells:
        """Every cell that the sweep has been asked for."""
        return PlannedCells(sweep=self._load())

    @property
    def status(self) -> SweepStatus:
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
            pl.DataFrame({"tokens": curve.tokens, "loss": curve.loss}).select(
                pl.lit(curve.cell).alias("cell"),
                pl.lit(curve.arm).alias("arm"),
                pl.lit(curve.size).alias("size"),
                pl.lit(curve.budget).alias("budget"),
                pl.all(),
            )
            for curve in cell_curves(self.store, self._load(), loss)
        ]
        return pl.concat(frames) if frames else pl.DataFrame()

    def suggest(self, count: int = 8, *, loss: str = "loss") -> Answer:
        """The next cells worth training, with the commands for them, as `mor-sweep suggest` names them; the values are
        pairs of a Suggestion and what it costs. Raises NoAdvice where no cell could join the sweep."""
        from orchestrator.records.cell_names import place_name
        from orchestrator.search.candidates import next_cells
        from orchestrator.search.spec_of_sweep import commands

        fitted, sweep = self._fitted(loss, PARABOLA), self._load()
        costed = next_cells(self.store, sweep, fitted.runs, fitted.study.points, count=count)
        if isinstance(costed, Refusal):
            return Answer(values=costed, text=f"refused: {costed.sentence}")
        suggestions = [suggestion for suggestion, _ in costed]
        cells = [(suggestion.candidate, suggestion.reason) for suggestion in suggestions]
        lines = [f"{place_name(c.arm, c.size, int(c.budget), c.seed)}: {reason}" for c, reason in cells]
        trained_by = commands(suggestions, sweep, self.store.root)
        return Answer(values=tuple(costed), text="\n".join([*lines, "", "To train them:", *trained_by]))

    def forecast(
        self,
        budget: str | float | None = None,
        *,
        arm: str | None = None,
        loss: str = "loss",
        asymptote: float | None = None,
        force: bool = False,
    ) -> Answer:
        """Freeze what the sweep says of a larger budget, as `mor-sweep forecast --budget` does: files that nothing
        changes. Without a budget, how all that was frozen fared, and nothing is written.

        Raises NoForecast, UnreadableForecast, StoreError and TableError.
        """
        from analysis.report.forecasts import forecast_lines, score_lines
        from orchestrator.records.fits.forecasts import Asked, freeze, score_forecasts

        if budget is None:
            scored = score_forecasts(self.store, self._load())
            shown = "\n".join(score_lines(scored)) if scored else f"{self.name} has no forecast yet"
            return Answer(values=tuple(scored), text=shown)
        request = Asked(flops=_flops(budget), arm=arm, asymptote=asymptote, forced=force)
        frozen = freeze(self.store, self._fitted(loss, PARABOLA), request)
        lines = [*forecast_lines(frozen.forecasts), *(f"refused: {line}" for line in frozen.refusals)]
        return Answer(values=frozen, text="\n".join(lines))

    def _fitted(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        return fit_of_sweep(self.store, self.name, parse_loss(loss).name, approaches, tied)

    def _compared(self, other: str | None, loss: str | None) -> list[Fitted]:
        return by_losses(lambda one_loss: self._against(other, one_loss), loss)

    def _against(self, other: str | None, loss: str) -> Fitted:
        if other is None:
            return self._fitted(loss, BOTH)
        return fit_of_sweeps(self.store, self.name, other, parse_loss(loss).name)

    def _results(self) -> Store:
        return self.store

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

    def fit(self, approaches: tuple[str, ...] = (), *, loss: str = "loss", tied: bool = False) -> SweepFit:
        """As `mor-sweep fit --table` finds it: without approaches a surface, and parabolas where most runs lie on
        budgets. Raises TableError and LossError."""
        return super().fit(approaches, loss=loss, tied=tied)

    def _fitted(self, loss: str, approaches: tuple[str, ...], tied: bool = False) -> Fitted:
        return fit_of_table(
            TableFile(path=self.path, columns=self.columns, convention=self.convention, budgets=self.budgets),
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

    def _results(self) -> None:
        return None

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


def _flops(budget: str | float) -> int:
    """Raises TableError for what is no amount of FLOPs."""
    try:
        return parse_budget(str(budget))
    except ValueError as error:
        raise TableError(f"budget: {error}") from error


def _corpus(tokens: str | float) -> int:
    """Raises TableError for what is no number of tokens."""
    try:
        return parse_budget(str(tokens))
    except ValueError as error:
        raise TableError(f"unique_tokens: found {tokens!r}, expected a number of tokens such as 1e9.") from error


def check_model(model: Any, *, vocab_size: int = 512, context_length: int = 64) -> "ModelCheck":
    """Whether a model of your own can be trained here: an object, or "package.module:object". What is wrong is a
    sentence each in `problems`. Raises OwnImportError where its import fails."""
    from orchestrator.planning.own_models.check import check_model as checked  # Which loads torch.

    return checked(model, vocab_size=vocab_size, context_length=context_length)

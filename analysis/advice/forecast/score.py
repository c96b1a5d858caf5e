"""A forecast against what was trained afterwards, at the (N, D) that was trained. Nothing is refitted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.advice.forecast.forecast import RunNoise, one_more_run
from analysis.advice.forecast.frozen_forecast import FrozenForecast
from analysis.advice.forecast.frozen_law import FrozenLaw
from analysis.statistics.answers import Estimate, Refusal
from analysis.statistics.approach import QUANTITIES
from analysis.statistics.bootstrap import Resampling


@dataclass(frozen=True, kw_only=True)
class TrainedCell:
    """A run that a forecast did not know."""

    cell_id: str
    """Its cell."""
    params: float
    """N."""
    tokens: float
    """D."""
    flops: float
    """C, counted as the forecast's budget is."""
    loss: float
    """Measured, in the unit of the forecast."""
    left_out: str = ""
    """Why a fit leaves such a cell out; empty where it does not. It is scored all the same: none may be chosen."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How a forecast fared at one cell."""

    cell_id: str
    """The cell."""
    predicted: Estimate
    """Of one more run where the noise of runs was known when it was frozen, otherwise of the law's mean."""
    of_run: bool
    """Which of the two: an interval of the mean is too narrow for a run."""
    measured: float
    """The cell's loss."""
    left_out: str = ""
    """Why a fit leaves the cell out; empty where it does not."""

    @property
    def error(self) -> float:
        """predicted / measured, less 1."""
        return self.predicted.value / self.measured - 1

    @property
    def in_widths(self) -> float:
        """predicted less measured, over half the width of the interval."""
        return _in_widths(self.predicted, self.measured)

    @property
    def covered(self) -> bool:
        """Whether the measured loss lies inside the interval."""
        return self.predicted.low <= self.measured <= self.predicted.high


@dataclass(frozen=True, kw_only=True)
class MinimumScore:
    """How a forecast fared at the minimum of the parabola through the cells at its budget."""

    quantity: str
    """"params", "tokens" or "loss"."""
    predicted: Estimate
    """N*, D* or L*."""
    measured: Estimate
    """The minimum."""

    @property
    def error(self) -> float:
        """predicted / measured, less 1."""
        return self.predicted.value / self.measured.value - 1

    @property
    def in_widths(self) -> float:
        """predicted less measured, over half the width of the predicted interval."""
        return _in_widths(self.predicted, self.measured.value)

    @property
    def covered(self) -> bool:
        """Whether the minimum lies inside the predicted interval, whatever its own noise."""
        return self.predicted.low <= self.measured.value <= self.predicted.high


@dataclass(frozen=True, kw_only=True, eq=False)
class ScoredForecast:
    """A forecast, and all that was trained for it since."""

    forecast: FrozenForecast
    """As it was frozen."""
    cells: tuple[Score, ...]
    """One a cell that it did not know, of its arm at its budget; empty while it waits."""
    minima: tuple[MinimumScore, ...]
    """N*, D* and L*, where the cells at its budget have a minimum."""
    comparable: bool = True
    """False where the sweep has other settings by now: its cells then say nothing of the forecast."""

    @property
    def waiting(self) -> bool:
        """True while nothing was trained for it."""
        return not self.cells


def score(law: FrozenLaw, noise: RunNoise | None, cell: TrainedCell, resampling: Resampling) -> Score:
    """A frozen law against one cell; `resampling` is that of the forecast."""
    mean = law.loss_of(cell.params, cell.tokens, cell.flops)
    predicted = mean.estimate if noise is None else one_more_run(mean, noise, resampling)
    return Score(
        cell_id=cell.cell_id,
        predicted=predicted,
        of_run=noise is not None,
        measured=cell.loss,
        left_out=cell.left_out,
    )


def score_forecast(
    forecast: FrozenForecast, cells: Sequence[TrainedCell], minimum: Mapping[str, Estimate | Refusal]
) -> ScoredForecast:
    """Against the cells that it did not know, and what the parabola at its budget says of N*, D* and L*."""
    return ScoredForecast(
        forecast=forecast,
        cells=tuple(score(forecast.law, forecast.noise, cell, forecast.resampling) for cell in cells),
        minima=tuple(_minima(forecast, minimum)) if cells else (),
    )


def _minima(forecast: FrozenForecast, minimum: Mapping[str, Estimate | Refusal]) -> list[MinimumScore]:
    pairs = [(name, getattr(forecast, name), minimum.get(name)) for name in QUANTITIES]
    return [
        MinimumScore(quantity=name, predicted=predicted, measured=measured)
        for name, predicted, measured in pairs
        if isinstance(predicted, Estimate) and isinstance(measured, Estimate)
    ]


def _in_widths(predicted: Estimate, measured: float) -> float:
    return (predicted.value - measured) / max((predicted.high - predicted.low) / 2, 1e-300)

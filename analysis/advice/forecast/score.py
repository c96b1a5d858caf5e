"""A forecast against what was trained afterwards, at the (N, D) that was trained. Nothing is refitted."""

from dataclasses import dataclass

from analysis.advice.forecast.forecast import RunNoise, one_more_run
from analysis.advice.forecast.frozen_law import FrozenLaw
from analysis.statistics.answers import Estimate
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

    @property
    def error(self) -> float:
        """predicted / measured, less 1."""
        return self.predicted.value / self.measured - 1

    @property
    def in_widths(self) -> float:
        """predicted less measured, over half the width of the interval."""
        return (self.predicted.value - self.measured) / max((self.predicted.high - self.predicted.low) / 2, 1e-300)

    @property
    def covered(self) -> bool:
        """Whether the measured loss lies inside the interval."""
        return self.predicted.low <= self.measured <= self.predicted.high


def score(law: FrozenLaw, noise: RunNoise | None, cell: TrainedCell, resampling: Resampling) -> Score:
    """A frozen law against one cell; `resampling` is that of the forecast."""
    mean = law.loss_of(cell.params, cell.tokens, cell.flops)
    predicted = mean.estimate if noise is None else one_more_run(mean, noise, resampling)
    return Score(cell_id=cell.cell_id, predicted=predicted, of_run=noise is not None, measured=cell.loss)

"""A task's score straight from compute, at one ratio of tokens to parameters.

The law is -ln q = A C^-γ, for the share q of the way from chance to 1 (Krajewski et al. 2025, arXiv:2512.08894, who
subtract no chance).

No bits per byte are needed, and no second step adds its error. In exchange the law answers at the ratios of tokens to
parameters that cells share, and nowhere else.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from analysis.advice.tasks.score_curve import MIN_CELLS, ScoreCurve, ScorePoints, fit_score_curve
from analysis.advice.tasks.scores import TaskCells
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, interval
from analysis.surface.fit import refuse_reach

SAME_RATIO = 1.1
"""Largest step between neighbouring tokens per parameter of one group."""
FEWEST_PLACES = 3
"""Fewest distinct FLOPs of a group."""


@dataclass(frozen=True, kw_only=True, eq=False)
class DirectLaw:
    """The law of one arm, task and ratio."""

    arm: str
    """The architecture."""
    task: str
    """The task's name."""
    ratio: float
    """Tokens per parameter: the geometric mean of its cells."""
    largest_flops: float
    """The most FLOPs fitted."""
    curve: ScoreCurve
    """The score by ln C."""

    def predict(self, flops: float, *, forced: bool = False) -> Estimate | Refusal:
        """The score of one more run at `flops` and this ratio, a share; refused 100 times beyond the runs."""
        refusal = refuse_reach(flops, self.largest_flops, forced=forced)
        if refusal:
            return refusal
        x = float(np.log(flops))
        noise_k = self.curve.run_noise(self.arm, self.task, f"{self.ratio:.3g}")
        run_k = np.clip(self.curve.drawn(np.array([x])) + noise_k, 0.0, 1.0)
        return interval(self.curve.score(x), run_k, self.curve.resampling.level)


def fit_direct_laws(cells: TaskCells, resampling: Resampling) -> tuple[DirectLaw, ...] | Refusal:
    """One law for each D/N that enough cells share and that the score follows, ascending."""
    groups = [group for group in _groups(cells.frame) if group["flops"].n_unique() >= FEWEST_PLACES]
    groups = [group for group in groups if group.height >= MIN_CELLS]
    if not groups:
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS,
            sentence=f"no {MIN_CELLS} cells of {FEWEST_PLACES} different FLOPs share one ratio of tokens to parameters "
            f"(to {SAME_RATIO - 1:.0%}).",
        )
    fitted = [_fit(cells, group, resampling) for group in groups]
    laws = tuple(law for law in fitted if isinstance(law, DirectLaw))
    return laws or next(law for law in fitted if isinstance(law, Refusal))


def law_at(laws: tuple[DirectLaw, ...] | Refusal, ratio: float) -> DirectLaw | Refusal:
    """The law at `ratio` tokens per parameter, or the refusal of a ratio that no law was fitted at."""
    if isinstance(laws, Refusal):
        return laws
    nearest = min(laws, key=lambda law: abs(np.log(law.ratio / ratio)))
    if abs(np.log(nearest.ratio / ratio)) <= np.log(SAME_RATIO):
        return nearest
    fitted = ", ".join(f"{law.ratio:.3g}" for law in laws)
    return Refusal(
        kind=RefusalKind.EXTRAPOLATION,
        sentence=f"{ratio:.3g} tokens per parameter; laws by compute were fitted at {fitted} and hold there.",
    )


def _groups(frame: pl.DataFrame) -> list[pl.DataFrame]:
    """Cells by D/N, ascending, split where the next is more than `SAME_RATIO` times as large."""
    ordered = frame.with_columns(ratio=pl.col("tokens") / pl.col("params")).sort("ratio", "flops")
    steps = ordered["ratio"].to_numpy()[1:] / ordered["ratio"].to_numpy()[:-1]
    number = np.concatenate([[0], np.cumsum(steps > SAME_RATIO)])[: ordered.height]
    return ordered.with_columns(number=pl.Series(number)).partition_by("number", maintain_order=True)


def _fit(cells: TaskCells, group: pl.DataFrame, resampling: Resampling) -> DirectLaw | Refusal:
    flops_n, ratio_n = group["flops"].to_numpy(), group["ratio"].to_numpy()
    points = ScorePoints(
        x_n=np.log(flops_n),
        score_n=group["score"].to_numpy(),
        trunk_keys=tuple(group["trunk_key"].to_list()),
        chance=cells.chance,
    )
    ratio = float(np.exp(np.log(ratio_n).mean()))
    curve = fit_score_curve(points, "power", f"{cells.arm} at {ratio:.3g}", resampling)
    if isinstance(curve, Refusal):
        return Refusal(kind=curve.kind, sentence=f"at {ratio:.3g} tokens per parameter: {curve.sentence}")
    return DirectLaw(arm=cells.arm, task=cells.task, ratio=ratio, largest_flops=float(flops_n.max()), curve=curve)

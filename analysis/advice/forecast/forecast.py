"""What a study says of a budget that nobody has trained with: N*, D*, L*, and the loss of one more run of a shape."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.advice.forecast.backtest import BackTest, Rolled, fared, roll, worst
from analysis.advice.forecast.forecaster import COMBINED, Forecaster, kept_weights
from analysis.advice.forecast.frozen_law import FrozenLaw, freeze
from analysis.advice.forecast.outlook import OutlookRules, law_name
from analysis.frontier.coverage import ONE_MORE_RUN, GridShape, shape_of, simulated_forecasts
from analysis.frontier.study import Study
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.bootstrap import Resampling, Sample, estimate_of, generator, interval
from analysis.surface.fit import FLAGGED_REACH, refuse_reach


@dataclass(frozen=True, kw_only=True)
class RunNoise:
    """How far runs that differ in their seed alone lie from each other."""

    sd: float
    """Standard deviation of ln L."""
    dof: int
    """Degrees of freedom it is known with."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """The optimum of one arm at one budget."""

    arm: str
    """The architecture."""
    approach: str
    """Where it comes from: within the data a name of `frontier.study.APPROACHES`, beyond them one of
    `outlook.APPROACHES` or combined."""
    budget: str
    """FLOPs, an exact decimal integer."""
    reach: float
    """The budget over the largest one fitted; above 1 this extrapolates."""
    params: Estimate | Refusal
    """N*."""
    tokens: Estimate | Refusal
    """D*, tokens."""
    loss: Estimate | Refusal
    """L*, in the unit of the loss: where the mean over seeds lies."""
    weight: float | None = None
    """Of its L* among the approaches, 0 where its record left it out; None within the data, for the mixture, and where
    it has no L*."""
    record: str = ""
    """How well it would have predicted this study's own budgets; empty within the data, and where nothing could be
    rolled."""

    @property
    def flagged(self) -> bool:
        """True more than ten times beyond the largest budget."""
        return self.reach > FLAGGED_REACH

    @property
    def refused(self) -> bool:
        """True where no number is supported."""
        return all(isinstance(answer, Refusal) for answer in (self.params, self.tokens, self.loss))


@dataclass(frozen=True, kw_only=True, eq=False)
class Forecast(Advice):
    """What one approach says of one arm at one budget, and of any shape there."""

    law: FrozenLaw | Refusal
    """The loss at any (N, D)."""
    noise: RunNoise | Refusal
    """Of runs."""
    resampling: Resampling
    """How intervals are drawn."""

    def mean_loss_of(self, params: float, tokens: float, flops: float) -> Sample | Refusal:
        """Where the mean loss over seeds of `params` on `tokens`, which take `flops`, lies."""
        return self.law if isinstance(self.law, Refusal) else self.law.loss_of(params, tokens, flops)

    def run_loss_of(self, params: float, tokens: float, flops: float) -> Estimate | Refusal:
        """Where the loss of one more run lies, its seed's noise included."""
        mean = self.mean_loss_of(params, tokens, flops)
        if isinstance(mean, Refusal):
            return mean
        return self.noise if isinstance(self.noise, Refusal) else one_more_run(mean, self.noise, self.resampling)


def one_more_run(mean: Sample, noise: RunNoise, resampling: Resampling) -> Estimate:
    """The interval of a run around a mean, whose noise has Student's t-distribution as its size is estimated."""
    quantile_k = generator(resampling, "one more run").uniform(size=resampling.draws)[: len(mean.draws)]
    draws = mean.draws * np.exp(noise.sd * stats.t.ppf(quantile_k, noise.dof))
    return interval(mean.estimate.value, draws, mean.estimate.level)


def run_noise(frame: pl.DataFrame) -> RunNoise | None:
    """From the cells of `frame` (points of one arm) with several seeds, pooled over sizes and budgets."""
    groups = frame.group_by("size", "budget").agg(
        pl.len().alias("runs"), pl.col("loss").log().var().alias("variance")
    ).filter(pl.col("runs") > 1)  # fmt: skip
    dof = int((groups["runs"] - 1).sum())
    if dof == 0:
        return None
    pooled = float(((groups["runs"] - 1) * groups["variance"]).sum()) / dof
    return RunNoise(sd=float(np.sqrt(pooled)), dof=dof)


def rules_of(study: Study, asymptote: float | None = None) -> OutlookRules:
    """How the study was fitted, for forecasts of it; `asymptote` pins E."""
    settings = study.settings
    return OutlookRules(
        parabola=settings.parabola, surface=settings.surface, resampling=settings.resampling, asymptote=asymptote
    )


def roll_study(study: Study, asymptote: float | None = None, arms: Collection[str] | None = None) -> dict[str, Rolled]:
    """Arm -> that arm rolled over the budgets that it has points at; all arms with points, or those of `arms`."""
    frame, rules = study.points.frame, rules_of(study, asymptote)
    by_arm = {str(arm): points for (arm,), points in frame.group_by("arm", maintain_order=True)}
    return {
        arm: roll(points, arm, tuple(sorted(set(points["budget"].to_list()), key=int)), rules)
        for arm, points in sorted(by_arm.items())
        if arms is None or arm in arms
    }


def forecasts(frame: pl.DataFrame, rolled: Rolled, budget: str, *, forced: bool = False) -> tuple[Forecast, ...]:
    """Every approach, and all combined, at `budget` (decimal FLOPs); `frame` holds the points of that arm."""
    forecaster = rolled.forecaster
    refusal = refuse_reach(float(budget), forecaster.largest, forced=forced)
    answers = forecaster.at(budget, forced=forced)
    reach = float(budget) / forecaster.largest
    shape = shape_of(frame)
    if not forced:
        answers |= {COMBINED: _often_enough(answers[COMBINED], shape, reach)}
    supported = [name for name, answer in answers.items() if name != COMBINED and isinstance(answer["loss"], Sample)]
    weights = kept_weights(forecaster.past, "loss", supported) if supported else {}
    noise = _noise_of_run(frame, shape, reach, forced=forced)
    return tuple(
        Forecast(
            arm=forecaster.arm,
            approach=approach,
            budget=budget,
            reach=reach,
            params=refusal or estimate_of(quantities["params"]),
            tokens=refusal or estimate_of(quantities["tokens"]),
            loss=refusal or estimate_of(quantities["loss"]),
            law=refusal or _law(forecaster, approach, quantities["loss"], supported),
            weight=weights.get(approach, 0.0) if approach in supported else None,
            record=_record(rolled.backtests, approach, shape, reach),
            noise=noise,
            resampling=forecaster.resampling,
        )
        for approach, quantities in answers.items()
    )


def _noise_of_run(frame: pl.DataFrame, shape: GridShape | None, reach: float, *, forced: bool) -> RunNoise | Refusal:
    """Refused without a second seed, and where intervals of one more run are known to hold it too rarely."""
    noise = run_noise(frame)
    if noise is None:
        return Refusal(
            kind=RefusalKind.NOISE_UNKNOWN,
            sentence="no cell has a second seed, so that nobody knows how far one more run lies from the mean.",
        )
    simulated = simulated_forecasts(shape, COMBINED, ONE_MORE_RUN, reach)
    if simulated is not None and simulated.too_narrow and not forced:
        return Refusal(kind=RefusalKind.EXTRAPOLATION, sentence=f"{simulated.sentence}.")
    return noise


def _law(
    forecaster: Forecaster, approach: str, loss: Sample | Refusal, supported: Sequence[str]
) -> FrozenLaw | Refusal:
    """None of an approach that gives no L* here, as of a surface that is doubted."""
    return loss if isinstance(loss, Refusal) else freeze(forecaster, approach, supported)


def _often_enough(
    answers: Mapping[str, Sample | Refusal], shape: GridShape | None, reach: float
) -> dict[str, Sample | Refusal]:
    """The combined answers, refused where their intervals are known to hold the truth too rarely on such a grid."""
    kept: dict[str, Sample | Refusal] = {}
    for quantity, answer in answers.items():
        simulated = simulated_forecasts(shape, COMBINED, quantity, reach)
        if isinstance(answer, Sample) and simulated is not None and simulated.too_narrow:
            answer = Refusal(kind=RefusalKind.EXTRAPOLATION, sentence=f"{simulated.sentence}.")
        kept[quantity] = answer
    return kept


def _record(backtests: Sequence[BackTest], approach: str, shape: GridShape | None, reach: float) -> str:
    """How an approach fared on this study's budgets, and in simulation where its intervals had another width than they
    say."""
    return "; ".join(filter(None, (record_sentence(backtests, approach), _simulated(approach, shape, reach))))


def _simulated(approach: str, shape: GridShape | None, reach: float) -> str:
    simulated = simulated_forecasts(shape, approach, "loss", reach)
    if simulated is None:
        return ""
    if approach == COMBINED:  # which is refused where they are too narrow
        return f"{simulated.sentence}: they are wider than they need to be" if simulated.too_wide else ""
    return f"by itself, {simulated.sentence}" if simulated.too_narrow else ""


def record_sentence(backtests: Sequence[BackTest], approach: str) -> str:
    """How an approach fared one budget ahead; empty where it was never asked."""
    ahead = [
        test for test in backtests if test.ahead and test.quantity == "loss" and test.law == law_name(approach, "loss")
    ]
    if not ahead:
        return ""
    summary = fared(ahead)
    return (
        f"one budget ahead its L* was off by {summary.size:.2%} in the median ({summary.error:+.2%} with its sign), "
        f"{abs(worst(ahead).error):.2%} at most, and {summary.covered} of {summary.count} lay inside its interval"
    )

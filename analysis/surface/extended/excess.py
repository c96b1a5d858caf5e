"""What repetition costs, run by run: the loss of a run that repeats its text, less that of the same run on fresh text.

Both have one N and one D, so that no law of N and D stands between them. This is what can be said where all runs have
one budget, which gives no such law. The cost is measured by the coefficient of the overfitting form alone
(`analysis.surface.extended.repetition`):

    L - L_fresh = κ R^(1/3) (N / U)^(2/3),

by least squares through 0; N counts once the parameters that exist and once those that a token goes through.

All answers are weighted sums of losses, so that their t-intervals follow from the noise of a run: that of an arm is
pooled over its cells with several seeds. What κ's form leaves unexplained counts as noise where it is more than that.
Noise is taken as independent between arms; a difference between two has the degrees of freedom of Welch and
Satterthwaite.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from scipy import stats

from analysis.runs.points import SAME_CORPUS
from analysis.statistics.answers import Estimate, Refusal, RefusalKind
from analysis.statistics.quadratic import Floats
from analysis.surface.extended.repetition import OVERFIT_POWERS

FEWEST_PAIRS = 3
"""Repeated runs with a twin on fresh text that κ needs."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """How far a run lies from the mean of its cell."""

    variance: float
    """In squared units of loss."""
    freedom: float
    """Degrees of freedom that it is known with."""


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A weighted sum of losses, and how well it is known."""

    value: float
    """In units of loss, or of κ."""
    variance: float
    """Of its error."""
    freedom: float
    """Degrees of freedom of the variance."""

    def less(self, other: "Contrast") -> "Contrast":
        """This one less another of other runs (Welch 1947, Biometrika 34, page 28)."""
        variance = self.variance + other.variance
        spread = sum(part.variance**2 / part.freedom for part in (self, other))
        freedom = variance**2 / spread if spread > 0 else self.freedom + other.freedom
        return Contrast(value=self.value - other.value, variance=variance, freedom=freedom)

    def estimate(self, level: float) -> Estimate:
        """With its t-interval."""
        half = float(stats.t.ppf((1 + level) / 2, self.freedom)) * float(np.sqrt(self.variance))
        return Estimate(value=self.value, low=self.value - half, high=self.value + half, level=level)


@dataclass(frozen=True, kw_only=True, eq=False)
class ArmExcess:
    """What repetition costs one arm."""

    arm: str
    """The architecture."""
    pairs: pl.DataFrame
    """One row a run that repeats its text and has a twin on fresh text: size, seed, corpus (its name), params,
    unrolled_params, tokens, epochs, unique (tokens), loss, fresh_loss, excess."""
    twins_pn: Floats
    """(pairs, runs) of the arm: times the losses of all its runs, the excess of each pair."""
    noise: Noise | None
    """Of a run, by the seeds of a cell; None where no cell has two."""
    kappa: Contrast
    """With N of the parameters that exist."""
    kappa_unrolled: Contrast | None
    """With N of the parameters that a token goes through; None where the table does not say them."""
    level: float
    """Nominal coverage of its intervals."""

    @property
    def places(self) -> set[tuple[str, str]]:
        """(size, corpus) of the pairs."""
        return set(self.pairs.select("size", "corpus").iter_rows())

    def mean(self, places: set[tuple[str, str]]) -> Contrast | Refusal:
        """The excess over `places`, each counted once, or why its interval is not known."""
        if self.noise is None:
            return Refusal(
                kind=RefusalKind.NOISE_UNKNOWN,
                sentence=f"no cell of {self.arm} has a second seed: how far runs scatter is not known.",
            )
        names = list(self.pairs.select("size", "corpus").iter_rows())
        weight_p = np.array([1 / names.count(name) if name in places else 0.0 for name in names]) / len(places)
        return _contrast(weight_p, self.pairs["excess"].to_numpy(), self.twins_pn, self.noise)


def fit_excess(frame: pl.DataFrame, level: float) -> dict[str, ArmExcess | Refusal]:
    """By arm with such pairs, what repetition costs it; `frame` is that of `analysis.runs.repeated.repeated_frame`."""
    arms = sorted(set(frame["arm"].to_list()))
    fits = {arm: _fit_arm(frame.filter(pl.col("arm") == arm), arm, level) for arm in arms}
    return {arm: fit for arm, fit in fits.items() if fit is not None}


def _fit_arm(runs: pl.DataFrame, arm: str, level: float) -> ArmExcess | Refusal | None:
    """None where no run has a twin."""
    runs = _named(runs)
    pairs, twins_pn = _pair(runs)
    if pairs.is_empty():
        return None
    if pairs.height < FEWEST_PAIRS:
        return Refusal(
            kind=RefusalKind.TOO_FEW_POINTS,
            sentence=f"{pairs.height} of its runs that repeat their text ha{'s' if pairs.height == 1 else 've'} a twin "
            f"on fresh text; what repetition costs needs {FEWEST_PAIRS}.",
        )
    if runs["loss"].n_unique() == 1:
        return Refusal(
            kind=RefusalKind.CONSTANT_COLUMN,
            sentence=f"all its {runs.height} runs have the loss {runs['loss'][0]:.4g}: nothing varies.",
        )
    noise = _noise_of_seeds(runs)
    unrolled = pairs["unrolled_params"]
    return ArmExcess(
        arm=arm,
        pairs=pairs,
        twins_pn=twins_pn,
        noise=noise,
        kappa=_kappa(pairs, pairs["params"], twins_pn, noise),
        kappa_unrolled=None if unrolled.null_count() else _kappa(pairs, unrolled, twins_pn, noise),
        level=level,
    )


def _named(runs: pl.DataFrame) -> pl.DataFrame:
    """With U, the name of the corpus, and that of D."""
    unique = pl.col("tokens") / pl.col("epochs")
    step = 1 / SAME_CORPUS
    return runs.with_columns(
        unique.alias("unique"),
        (unique.log() * step).round().cast(pl.Int64).cast(pl.Utf8).alias("corpus"),
        (pl.col("tokens").log() * step).round().cast(pl.Int64).alias("seen"),
    )


def _pair(runs: pl.DataFrame) -> tuple[pl.DataFrame, Floats]:
    """The runs that repeat their text with their twins: of their seed where there is one, else of any."""
    rows = runs.with_row_index("row").to_dicts()
    kept, twins = [], []
    for run in (row for row in rows if row["epochs"] > 1):
        fresh = [
            row
            for row in rows
            if row["epochs"] <= 1 and row["size"] == run["size"] and abs(row["seen"] - run["seen"]) <= 1
        ]
        fresh = [row for row in fresh if row["seed"] == run["seed"]] or fresh
        if not fresh:
            continue
        fresh_loss = sum(row["loss"] for row in fresh) / len(fresh)
        weight_n = np.zeros(len(rows))
        weight_n[run["row"]] = 1.0
        weight_n[[row["row"] for row in fresh]] = -1 / len(fresh)
        kept.append(run | {"fresh_loss": fresh_loss, "excess": run["loss"] - fresh_loss})
        twins.append(weight_n)
    schema = dict(runs.schema) | {"fresh_loss": pl.Float64, "excess": pl.Float64}
    pairs = pl.DataFrame([{name: row[name] for name in schema} for row in kept], schema=schema)
    return pairs, np.array(twins).reshape(len(kept), len(rows))


def _noise_of_seeds(runs: pl.DataFrame) -> Noise | None:
    cells = runs.group_by("size", "corpus", "seen").agg(
        ((pl.col("loss") - pl.col("loss").mean()) ** 2).sum().alias("squares"), pl.len().alias("runs")
    )
    freedom = int((cells["runs"] - 1).sum())
    return Noise(variance=float(cells["squares"].sum()) / freedom, freedom=freedom) if freedom else None


def overfitting_term(params: Floats | float, unique: Floats | float, epochs: Floats | float) -> Floats:
    """R^(1/3) (N / U)^(2/3) at U tokens seen `epochs` times; shapes that broadcast."""
    of_repeats, of_params = OVERFIT_POWERS
    again = np.maximum(np.asarray(epochs, dtype=np.float64) - 1, 0.0)
    return again**of_repeats * (np.asarray(params, dtype=np.float64) / unique) ** of_params


def _kappa(pairs: pl.DataFrame, params: pl.Series, twins_pn: Floats, noise: Noise | None) -> Contrast:
    """Least squares through 0, and the larger of the noise of seeds and what it leaves."""
    unique_p, epochs_p, excess_p = (pairs[name].to_numpy() for name in ("unique", "epochs", "excess"))
    x_p = overfitting_term(params.to_numpy(), unique_p, epochs_p)
    weight_p = x_p / (x_p @ x_p)
    left_p = excess_p - x_p * (weight_p @ excess_p)
    # The residuals are M T (losses), M the projection off x: their squares have the mean variance · trace(M T Tᵀ).
    spread_pp = (np.eye(len(x_p)) - np.outer(weight_p, x_p)) @ twins_pn @ twins_pn.T
    trace = float(np.trace(spread_pp))
    misfit = Noise(variance=float(left_p @ left_p) / trace, freedom=trace**2 / float(np.trace(spread_pp @ spread_pp)))
    larger = misfit if noise is None or misfit.variance > noise.variance else noise
    return _contrast(weight_p, excess_p, twins_pn, larger)


def _contrast(weight_p: Floats, excess_p: Floats, twins_pn: Floats, noise: Noise) -> Contrast:
    weight_n = weight_p @ twins_pn
    return Contrast(
        value=float(weight_p @ excess_p),
        variance=float(weight_n @ weight_n) * noise.variance,
        freedom=noise.freedom,
    )

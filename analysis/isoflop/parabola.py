"""One isoFLOP curve: loss against ln N (or ln D) at one budget -> a parabola with a minimum, or a refusal.

This is approach 2 of Hoffmann et al. 2022 (arXiv:2203.15556, section 3.2). A parabola is exact only for a symmetric,
centred set of sizes, hence the window around the minimum.

A parabola is given only when all of this holds, tested in this order:

1. at least four distinct sizes, so that at least one degree of freedom remains for the noise;
2. no single run lies off the parabola through the others (deleted studentised residual, Bonferroni over the runs);
3. it opens upwards;
4. the lowest measured mean loss is at neither end of the sizes, and the vertex lies strictly inside those fitted;
5. the 95 % t-interval of the curvature excludes zero. The noise is the curve's own residual standard deviation when
   it has at least six degrees of freedom, otherwise the one pooled over the arm's budgets that pass 1 to 4: with six
   sizes a curve alone has three degrees of freedom and its own noise is known to within a factor of 4 only; one degree
   in all is refused.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.statistics.answers import Refusal, RefusalKind
from analysis.statistics.quadratic import (
    NUM_COEFFICIENTS,
    TOLERANCE,
    Axis,
    Curve,
    Floats,
    Noise,
    Quadratic,
    least_squares,
)
from mor_core.units import counted_text, short_count

OWN_NOISE_DOF = 6
MIN_NOISE_DOF = 2
NEGLIGIBLE_SD = 1e-7  # of a loss in any unit; smaller residuals are rounding, not noise
LN10 = float(np.log(10.0))


@dataclass(frozen=True, kw_only=True)
class ParabolaRules:
    """When a parabola is believed."""

    window_decades: float | None = 0.5
    """Half-width of the window around the minimum in decades of N or D; None fits every size."""
    window_min_sizes: int = 6
    """A window that holds fewer distinct sizes is widened to this many, the nearest first."""
    min_sizes: int = 4
    """Fewest distinct sizes for a parabola; at least 4."""
    level: float = 0.95
    """Level at which the curvature must differ from zero."""
    outlier_level: float = 0.01
    """Chance, per curve, of calling a sound run an outlier."""

    def __post_init__(self) -> None:
        if self.min_sizes < NUM_COEFFICIENTS + 1:
            raise ValueError(f"min_sizes is {self.min_sizes}: a parabola with a residual needs at least 4 sizes.")
        if self.window_decades is not None and self.window_decades <= 0:
            raise ValueError(
                f"window_decades is {self.window_decades}: give a positive half-width, or None for all sizes."
            )


@dataclass(frozen=True, kw_only=True)
class Parabola:
    """loss = minimum_loss + curvature · (ln x - ln optimum)², believed within [lowest, highest]."""

    axis: Axis
    """What x is: parameters or tokens."""
    optimum: float
    """N* in parameters or D* in tokens."""
    minimum_loss: float
    """L*, in units of loss."""
    curvature: float
    """Units of loss per squared natural logarithm of x."""
    curvature_low: float
    """Lower end of the curvature's t-interval; positive, or this would be a refusal."""
    curvature_high: float
    """Upper end of that interval."""
    noise: Noise
    """What the t-interval was computed from."""
    residual_sd: float
    """Standard deviation of this curve's own residuals, units of loss."""
    lowest: float
    """Smallest x fitted."""
    highest: float
    """Largest x fitted."""
    num_sizes: int
    """Distinct places on the axis that were fitted."""
    cell_ids: tuple[str, ...]
    """Cells fitted, in order of x."""
    warnings: tuple[str, ...]
    """What to know before leaning on this fit."""

    def loss(self, x: Floats) -> Floats:
        """The parabola at `x` (any shape), units of loss."""
        return self.minimum_loss + self.curvature * np.log(x / self.optimum) ** 2


def choose_window(curve: Curve, rules: ParabolaRules) -> Curve:
    """The points within the window, centred on the lowest mean loss and then on the vertex until it settles."""
    if rules.window_decades is None:
        return curve
    places, mean_loss = mean_by_place(curve)
    chosen = _within(curve, places[int(np.argmin(mean_loss))], rules)
    for _ in range(10):
        inside = curve.subset(chosen)
        if len(np.unique(inside.log_x)) < rules.min_sizes:
            break
        quadratic = least_squares(inside)
        if not quadratic.opens_upwards_inside:
            break
        moved = _within(curve, quadratic.centre + quadratic.scale * quadratic.vertex_u, rules)
        if np.array_equal(moved, chosen):
            break
        chosen = moved
    return curve.subset(chosen)


def _within(curve: Curve, centre: float, rules: ParabolaRules) -> NDArray[np.bool_]:
    assert rules.window_decades is not None
    places = np.unique(curve.log_x)
    distance = np.abs(places - centre)
    nearest = np.argsort(distance, kind="stable")[: rules.window_min_sizes]
    wide = max(rules.window_decades * LN10, float(distance[nearest].max())) + TOLERANCE
    return np.abs(curve.log_x - centre) <= wide


def mean_by_place(curve: Curve) -> tuple[Floats, Floats]:
    places, index = np.unique(curve.log_x, return_inverse=True)
    return places, np.bincount(index, weights=curve.loss) / np.bincount(index)


def refuse_shape(whole: Curve, quadratic: Quadratic, rules: ParabolaRules) -> Refusal | None:
    """The refusal of a fit by tests 2 to 4 above (which need no noise from other budgets), or None.

    Args:
        whole: every point of the budget.
        quadratic: from `least_squares(choose_window(whole, rules))`.
        rules: thresholds.
    """
    return _refuse_outlier(quadratic, rules) or _refuse_concave(quadratic) or _refuse_edge(whole, quadratic)


def judge_curvature(whole: Curve, quadratic: Quadratic, pooled: Noise, rules: ParabolaRules) -> Parabola | Refusal:
    """Believe a fit that passed `refuse_shape`, unless its curvature could be zero.

    `pooled` is the noise of the arm over its well-shaped budgets, used where the curve's own is not known well enough.
    """
    noise = noise_of(quadratic, pooled)
    if noise.dof < MIN_NOISE_DOF:
        return Refusal(
            kind=RefusalKind.NOISE_UNKNOWN,
            sentence=f"{noise.dof} degree of freedom over all budgets is left to tell noise from shape; "
            f"at least {MIN_NOISE_DOF} are needed (one more size, seed or well-shaped budget).",
        )
    level, slope, bend = (float(c) for c in quadratic.coefficients)
    curvature = bend / quadratic.scale**2
    spread = noise.sd * float(np.linalg.norm(quadratic.solver_3n[2])) / quadratic.scale**2
    half_width = float(stats.t.ppf(0.5 + rules.level / 2, noise.dof)) * spread
    if curvature - half_width <= 0:
        return Refusal(
            kind=RefusalKind.CURVATURE_NOT_SIGNIFICANT,
            sentence=f"the curvature, {curvature:.3g} ± {half_width:.2g} ({rules.level:.0%}, {noise.source} noise "
            f"{noise.sd:.4f} with {noise.dof} degrees of freedom), is not distinguishable from zero.",
        )
    curve = quadratic.curve
    order = np.argsort(curve.log_x, kind="stable")
    return Parabola(
        axis=curve.axis,
        optimum=float(np.exp(quadratic.centre + quadratic.scale * quadratic.vertex_u)),
        minimum_loss=level - slope**2 / (4 * bend),
        curvature=curvature,
        curvature_low=curvature - half_width,
        curvature_high=curvature + half_width,
        noise=noise,
        residual_sd=float(np.sqrt(quadratic.sum_of_squares / quadratic.dof)),
        lowest=float(np.exp(curve.log_x.min())),
        highest=float(np.exp(curve.log_x.max())),
        num_sizes=len(np.unique(curve.log_x)),
        cell_ids=tuple(curve.cell_ids[index] for index in order),
        warnings=tuple(_warnings(whole, quadratic, rules)),
    )


def refuse_few_sizes(curve: Curve, rules: ParabolaRules) -> Refusal | None:
    """The refusal of a curve with too few distinct sizes, or None."""
    count = len(np.unique(curve.log_x))
    if count >= rules.min_sizes:
        return None
    return Refusal(
        kind=RefusalKind.TOO_FEW_SIZES,
        sentence=f"{counted_text(count, f'distinct {curve.axis.noun}')} finished; "
        f"a parabola needs at least {rules.min_sizes}.",
    )


def noise_of(quadratic: Quadratic, pooled: Noise) -> Noise:
    """The curve's own noise where it is known well enough, otherwise the arm's."""
    if quadratic.dof < OWN_NOISE_DOF:
        return pooled
    return Noise(sd=float(np.sqrt(quadratic.sum_of_squares / quadratic.dof)), dof=quadratic.dof, source="own")


def _refuse_outlier(quadratic: Quadratic, rules: ParabolaRules) -> Refusal | None:
    """One run far from the parabola that the other runs make (Cook and Weisberg 1982, section 2.2.1)."""
    dof = quadratic.dof - 1
    room_n = 1 - quadratic.leverages
    if dof < 1 or quadratic.sum_of_squares < NEGLIGIBLE_SD**2 * quadratic.dof or room_n.min() < TOLERANCE:
        return None
    others_n = (quadratic.sum_of_squares - quadratic.residuals**2 / room_n) / dof
    t_n = quadratic.residuals / np.sqrt(np.maximum(others_n, NEGLIGIBLE_SD**2) * room_n)
    worst = int(np.argmax(np.abs(t_n)))
    chance = 2 * float(stats.t.sf(abs(t_n[worst]), dof)) * len(t_n)
    if chance >= rules.outlier_level:
        return None
    offset = float(quadratic.residuals[worst] / room_n[worst])
    cell_id = quadratic.curve.cell_ids[worst]
    return Refusal(
        kind=RefusalKind.OUTLIER,
        cell_id=cell_id,
        sentence=f"cell {cell_id} lies {offset:+.4f} off the parabola through the others "
        f"(chance {chance:.1e} among {len(t_n)} sound runs): look at that run, or leave the cell out by name.",
    )


def _refuse_concave(quadratic: Quadratic) -> Refusal | None:
    bend = float(quadratic.coefficients[2])
    if bend > 0:
        return None
    return Refusal(
        kind=RefusalKind.NOT_CONVEX,
        sentence=f"the parabola through the points opens downwards (curvature {bend / quadratic.scale**2:.3g}), "
        "so it has no minimum.",
    )


def _refuse_edge(whole: Curve, quadratic: Quadratic) -> Refusal | None:
    noun = whole.axis.noun
    places, mean_loss = mean_by_place(whole)
    lowest = int(np.argmin(mean_loss))
    if lowest in (0, len(places) - 1):
        end = "smallest" if lowest == 0 else "largest"
        sentence = (
            f"the lowest loss, {mean_loss[lowest]:.4f}, is at the {end} {noun} "
            f"({short_count(float(np.exp(places[lowest])))}): the minimum may lie beyond it."
        )
        return Refusal(kind=RefusalKind.MINIMUM_AT_EDGE, sentence=sentence)
    if quadratic.opens_upwards_inside:
        return None
    side = "below" if quadratic.vertex_u < 0 else "above"
    low, high = map(short_count, np.exp([quadratic.curve.log_x.min(), quadratic.curve.log_x.max()]))
    return Refusal(
        kind=RefusalKind.MINIMUM_AT_EDGE,
        sentence=f"the parabola's minimum is not inside but {side} the {noun}s fitted, {low} to {high}.",
    )


def _warnings(whole: Curve, quadratic: Quadratic, rules: ParabolaRules) -> Iterator[str]:
    places = np.unique(quadratic.curve.log_x)
    vertex = quadratic.centre + quadratic.scale * quadratic.vertex_u
    noun = whole.axis.noun
    below, above = int((places < vertex).sum()), int((places > vertex).sum())
    if len(places) < rules.window_min_sizes:
        yield f"only {len(places)} {noun}s"
    if min(below, above) < 2:
        yield f"only one {noun} {'below' if below < above else 'above'} the minimum"
    if rules.window_decades is not None:
        reach = float(np.abs(places - vertex).max()) / LN10
        if reach > 1.5 * rules.window_decades:
            yield f"{noun}s up to {reach:.2f} decades from the minimum, where a parabola is a poor description"

"""Arms with shared exponents in words and as plain values."""

from typing import Any

import polars as pl

from analysis.statistics.answers import Refusal
from analysis.statistics.approach import QUANTITIES, SYMBOLS
from analysis.statistics.bootstrap import estimate_of
from analysis.surface.extended.shared_exponents.fit import SharedExponentsFit
from analysis.surface.extended.shared_exponents.law import rho_params_name, rho_tokens_name
from analysis.surface.identifiability import budgets_text
from mor_core.units import budget_label, short_count

FORMULA = "L = E + A / (ρ_N N)^α + B / (ρ_D D)^β"
WRITTEN = {"params": short_count, "tokens": short_count, "loss": "{:.4f}".format}


def shared_exponents_lines(fit: SharedExponentsFit | Refusal) -> list[str]:
    """The fit in words, one line each."""
    if isinstance(fit, Refusal):
        return [f"refused: {fit.sentence}"]
    reference, others = fit.arms[0], fit.arms[1:]
    shown = {"E": "E", "A": "A", "alpha": "α", "B": "B", "beta": "β"}
    constants = ", ".join(f"{symbol} = {fit.parameters[name].rounded}" for name, symbol in shown.items())
    tenable, apart = fit.tenable, fit.apart
    left_out = "; ".join(f"{budgets_text(fold)} {fold.mean_size:.2%}" for fold in fit.held_out)
    return [
        f"{FORMULA}, ρ = 1 for {reference}; {constants}",
        *(_rho_line(fit, arm) for arm in others),
        *(_optimum_line(fit, arm) for arm in fit.arms),
        f"sharing is tenable: laws of their own leave {tenable.gained:.1%} less, as noise alone does in "
        f"{tenable.p_value:.0%} of {tenable.num_studies} redrawn studies; one law for all arms is not (p = "
        f"{apart.p_value:.2g})",
        f"{fit.runs.height} runs; {fit.best.share_reached:.0%} of {fit.best.num_starts} starts reached the optimum, "
        f"condition {fit.best.condition:.1e}, residuals {fit.residuals.sd:.4f} in ln L; intervals by "
        f"{fit.drawn.method} resampling{f'; left out and predicted: {left_out}' if left_out else ''}",
        *(f"doubted, and refused beyond its runs: {doubt.sentence}" for doubt in fit.doubts),
        *(f"{arm} is not in it: {refusal.sentence}" for arm, refusal in fit.left_out.items()),
    ]


def _rho_line(fit: SharedExponentsFit, arm: str) -> str:
    bounds = {profile.name: profile.interval for profile in fit.profiles}
    return (
        f"{arm}: ρ_N = {fit.rho_params[arm].rounded}, profile likelihood {bounds[rho_params_name(arm)].rounded_ends}; "
        f"ρ_D = {fit.rho_tokens[arm].rounded}, profile likelihood {bounds[rho_tokens_name(arm)].rounded_ends}"
    )


def _optimum_line(fit: SharedExponentsFit, arm: str) -> str:
    budget = _largest_budget(fit, arm)
    optimum = fit.optimum(arm, budget)
    answers = {quantity: getattr(optimum, quantity) for quantity in QUANTITIES}
    refused = next((answer for answer in answers.values() if isinstance(answer, Refusal)), None)
    if refused:
        return f"{arm} at {budget_label(budget)}: refused: {refused.sentence}"
    texts = [f"{SYMBOLS[quantity]} {answer.estimate.shown(WRITTEN[quantity])}" for quantity, answer in answers.items()]
    return f"{arm} at {budget_label(budget)}: {', '.join(texts)}"


def _largest_budget(fit: SharedExponentsFit, arm: str) -> str:
    return max(fit.runs.filter(pl.col("arm") == arm)["budget"].to_list(), key=int)


def worth_lines(fit: SharedExponentsFit | Refusal | None) -> list[str]:
    """What a parameter and a token of each arm are worth, a sentence an arm; none where there is no such law."""
    if fit is None or isinstance(fit, Refusal):
        return []
    reference, doubted = fit.arms[0], " (the law is doubted: fit says why)" if fit.doubts else ""
    return [
        f"with exponents shared, a parameter of {arm} is worth {fit.rho_params[arm].rounded} parameters of "
        f"{reference}, and a token {fit.rho_tokens[arm].rounded} of its tokens{doubted}."
        for arm in fit.arms[1:]
    ]


def shared_exponents_as_json(fit: SharedExponentsFit) -> dict[str, Any]:
    """Everything but arrays; estimates and dataclasses are left for the caller to make plain."""
    optima = {arm: fit.optimum(arm, _largest_budget(fit, arm)) for arm in fit.arms}
    return {
        "formula": FORMULA,
        "reference": fit.arms[0],
        "arms": fit.arms,
        "law": fit.law,
        "parameters": fit.parameters,
        "rho_params": fit.rho_params,
        "rho_tokens": fit.rho_tokens,
        "profiles": {profile.name: profile.interval for profile in fit.profiles},
        "tenable": fit.tenable,
        "apart": fit.apart,
        "optima": {
            arm: {"budget": optimum.budget} | {name: estimate_of(getattr(optimum, name)) for name in QUANTITIES}
            for arm, optimum in optima.items()
        },
        "num_points": len(fit.best.problem.points),
        "objective": fit.best.objective,
        "share_reached": fit.best.share_reached,
        "condition": fit.best.condition,
        "residuals": fit.residuals,
        "held_out": fit.held_out,
        "resampling": fit.drawn.method,
        "doubts": fit.doubts,
        "left_out": fit.left_out,
    }

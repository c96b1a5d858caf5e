"""The law of repeated text in words and as plain values."""

from typing import Any

from analysis.statistics.answers import Estimate, Refusal
from analysis.surface.extended.repeated import FormScore, RepeatedFit, RepeatedOptimum
from analysis.surface.extended.repetition import FORMULAS
from mor_core.units import short_count

SYMBOLS = {"alpha": "α", "beta": "β", "kappa": "κ", "R_D": "R_D*", "R_N": "R_N*"}


def repeated_lines(fits: dict[str, RepeatedFit | Refusal]) -> list[str]:
    """The fits in words, one line each."""
    return [line for arm, fit in fits.items() for line in _lines(arm, fit)]


def _lines(arm: str, fit: RepeatedFit | Refusal) -> list[str]:
    if isinstance(fit, Refusal):
        return [f"{arm}: refused: {fit.sentence}"]
    shown = ", ".join(f"{SYMBOLS.get(name, name)} = {_number(value)}" for name, value in fit.parameters.items())
    return [
        f"{arm}: {FORMULAS[fit.form]} ({fit.form}), U the distinct tokens seen and R the repeats of each; {shown}",
        f"{arm}: {len(fit.best.problem.points)} runs, those that repeat their text included; "
        f"{fit.best.share_reached:.0%} of {fit.best.num_starts} starts reached the optimum, "
        f"condition {fit.best.condition:.1e}, residuals {fit.residuals.sd:.4f} in ln L",
        *(f"{arm}: {_score_text(score)}" for score in fit.scores),
    ]


def _score_text(score: FormScore) -> str:
    parts = [f"{SYMBOLS[name]} {_number(interval)}" for name, interval in score.constants.items()]
    errors = ((score.by_corpus, "corpora"), (score.by_passes, "passes"))
    parts += [f"{error:.2%} off on {noun} left out" for error, noun in errors if error is not None]
    parts += [f"not told from a simpler law: {score.refused}"] if score.refused else []
    return f"{score.form}: {'; '.join([f'objective {score.objective:.4g}', *parts])}"


def _number(estimate: Estimate) -> str:
    low = "open" if estimate.low_open else f"{estimate.low:.4g}"
    high = "open" if estimate.high_open else f"{estimate.high:.4g}"
    return f"{estimate.value:.4g} [{low}, {high}]"


def optimum_text(answer: RepeatedOptimum) -> str:
    """What to train with a budget and a corpus."""
    epochs, loss = answer.epochs.estimate, answer.loss.estimate
    return (
        f"N* {answer.params.estimate.shown(short_count)}, D* {answer.tokens.estimate.shown(short_count)} in "
        f"{epochs.value:.3g} [{epochs.low:.3g}, {epochs.high:.3g}] passes, "
        f"L* {loss.value:.4f} [{loss.low:.4f}, {loss.high:.4f}]"
    )


def optimum_as_json(answer: RepeatedOptimum) -> dict[str, Any]:
    """Everything but the draws; estimates are left for the caller to make plain."""
    numbers = {name: getattr(answer, name).estimate for name in ("params", "tokens", "epochs", "loss")}
    return {"arm": answer.arm, "budget": answer.budget, "unique_tokens": answer.unique_tokens, **numbers}


def repeated_as_json(fit: RepeatedFit) -> dict[str, Any]:
    """Everything but arrays; estimates and dataclasses are left for the caller to make plain."""
    return {
        "form": fit.form,
        "formula": FORMULAS[fit.form],
        "parameters": fit.parameters,
        "scores": fit.scores,
        "corpora": fit.corpora,
        "num_points": len(fit.best.problem.points),
        "objective": fit.best.objective,
        "share_reached": fit.best.share_reached,
        "condition": fit.best.condition,
        "residuals": fit.residuals,
    }

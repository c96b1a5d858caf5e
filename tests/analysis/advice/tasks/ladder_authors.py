"""The two steps of our procedure and of the authors', apart, for the 7B model of the OLMo ladder.

`python tests/analysis/advice/tasks/ladder_authors.py LOGS OUT` reads the evaluations in LOGS,
`src/scripts/paper/data/ladder-runs` of allenai/OLMo-ladder, and writes `steps.csv` to OUT. It is a second look at the
7B model; `ladder_proof.py` has the first, and says what was fixed when.

The authors' procedure is that of Bhagia et al. 2024 (arXiv:2412.04403) as their repository runs it (`predict.py` with
--moving_avg 5 --skip_perc 0.1):

- first step: E + A / N^α + B / D^β, no parameter below 0, Huber's loss with delta 1e-3 in ln of bits per byte, from one
  start; a run's row is the mean of its last five evaluations, at the tokens of the last
- second step: `ladder_forms.AUTHORS`, at the rows of `ladder_forms.smoothed`
- nothing is refused, and no interval is given

It must give the relative errors that they print, or nothing is written.

Ours is asked with its refusals set aside, so that all five tasks have numbers. An error has two parts: what the second
step makes of the error in bits per byte, and what it misses at the bits per byte that were measured.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from scipy import optimize

from analysis.statistics.quadratic import Floats
from analysis.surface.optimum import SurfaceRules, fit_optimum
from analysis.surface.problem import plain_points
from tests.analysis.advice.tasks.ladder_forms import (
    AUTHORS,
    AVERAGED,
    CHANCES,
    MULTIPLES,
    OURS,
    SIZES,
    Sigmoid,
    evaluations,
    fit_form,
    ladder_rows,
)

PARAMS = {"190M": 190_354_176, "370M": 371_262_464, "760M": 758_220_288, "1B": 1_279_395_840}
"""N without embeddings."""
TARGET_LOG = "peteish7_eval_anneal.csv"
TARGET_PARAMS, TARGET_TOKENS = 6_887_575_552, 3_945_065_873_408
DELTA = 1e-3
START = (3.0, 6.0, 0.1, 0.2, 1.0)
"""ln A, ln B, α, β and E that the authors search from."""
PRINTED = {
    "hellaswag": 0.014441533466868932,
    "piqa": 0.01006155466577494,
    "arc_challenge": 0.16868672599426734,
    "winogrande": 0.0886030687973869,
    "mmlu": 0.012842608791283672,
}
"""Sizes of the relative errors that they print for the 7B model (`src/scripts/paper/figures/variance.csv`)."""
SAME = 1e-5

Law = Callable[[float, float], float]


@dataclass(frozen=True, kw_only=True)
class Procedure:
    """Both steps, fitted to one task."""

    name: str
    """Whose it is."""
    bits: Law
    """Bits per byte of the right answer at N and D."""
    curve: Sigmoid
    """The score by them."""


def first_step_rows(logs: Path, task: str, averaged: int) -> tuple[Floats, Floats, Floats]:
    """N, D and bits per byte (16,) of the small runs: means of the last `averaged` evaluations."""
    rows = []
    for size in SIZES:
        for multiple in MULTIPLES:
            last = evaluations(logs / f"{size}-{multiple}.csv", task).tail(averaged)
            rows.append((PARAMS[size], last["tokens"][-1], float(last["bits"].to_numpy().mean())))
    params_n, tokens_n, bits_n = np.array(rows, dtype=np.float64).T
    return params_n, tokens_n, bits_n


def authors_law(params_n: Floats, tokens_n: Floats, bits_n: Floats) -> Law:
    """The authors' first step."""
    log_params_n, log_tokens_n, log_bits_n = np.log(params_n), np.log(tokens_n), np.log(bits_n)

    def terms(theta: Floats, log_params: Floats, log_tokens: Floats) -> tuple[Floats, Floats]:
        log_a, log_b, alpha, beta, _ = theta
        return np.exp(log_a - alpha * log_params), np.exp(log_b - beta * log_tokens)

    def objective(theta: Floats) -> tuple[float, Floats]:
        """Huber's loss and its gradient."""
        size_n, data_n = terms(theta, log_params_n, log_tokens_n)
        law_n = size_n + data_n + theta[4]
        error_n = np.log(law_n) - log_bits_n
        is_small = np.abs(error_n) < DELTA
        loss = np.where(is_small, 0.5 * error_n**2, DELTA * (np.abs(error_n) - 0.5 * DELTA)).sum()
        slope_5n = np.stack([size_n, data_n, -log_params_n * size_n, -log_tokens_n * data_n, np.ones_like(law_n)])
        return float(loss), slope_5n @ (np.clip(error_n, -DELTA, DELTA) / law_n)

    options = {"ftol": 0.0, "gtol": 1e-10, "maxiter": 1_000_000, "maxfun": 1_000_000}
    bounds = [(0, None)] * len(START)
    theta = optimize.minimize(objective, START, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x

    def bits(params: float, tokens: float) -> float:
        size, data = terms(theta, np.log(np.array([params])), np.log(np.array([tokens])))
        return float(size[0] + data[0] + theta[4])

    return bits


def procedures(logs: Path, task: str) -> Iterator[Procedure]:
    """Ours, then the authors'."""
    rows, chance = ladder_rows(logs, task), CHANCES[task]
    surface = fit_optimum(plain_points(*first_step_rows(logs, task, 1)), SurfaceRules()).law
    yield Procedure(
        name="ours",
        bits=lambda params, tokens: float(surface.loss(params, tokens)),
        curve=fit_form(OURS, rows[OURS.rows], chance),
    )
    yield Procedure(
        name="authors",
        bits=authors_law(*first_step_rows(logs, task, AVERAGED)),
        curve=fit_form(AUTHORS, rows[AUTHORS.rows], chance),
    )


def steps_apart(procedure: Procedure, bits_measured: float, score_measured: float) -> dict[str, float]:
    """The answer for the 7B model, and its error in two parts, shares."""
    bits = procedure.bits(TARGET_PARAMS, TARGET_TOKENS)
    score, at_measured = (float(procedure.curve.score(np.array([x]))[0]) for x in (bits, bits_measured))
    return {
        "bits_per_byte": bits,
        "score": score,
        "bits_error": bits / bits_measured - 1,
        "by_first_step": score - at_measured,
        "by_second_step": at_measured - score_measured,
        "error": score - score_measured,
    }


def main(logs: Path, out: Path) -> None:
    """Both procedures on every task."""
    rows = []
    for task in CHANCES:
        fitted = list(procedures(logs, task))
        # The small runs have all been read: from here on it is the 7B model's own evaluation, of which there is one.
        target = evaluations(logs / TARGET_LOG, task)
        assert target.height == 1
        for procedure in fitted:
            numbers = steps_apart(procedure, target["bits"].item(), target["score"].item())
            rows.append({"task": task, "procedure": procedure.name} | numbers)
            if procedure.name == "authors":
                relative = abs(numbers["error"]) / target["score"].item()
                assert abs(relative - PRINTED[task]) < SAME, f"{task}: {relative:.6f}, they print {PRINTED[task]:.6f}"
    out.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(rows).with_columns(pl.selectors.float().round(4)).write_csv(out / "steps.csv")
    print((out / "steps.csv").read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""Which form of the second step the OLMo ladder itself would choose; the rule stands in `ladder_proof.py`.

`python tests/analysis/advice/tasks/ladder_forms.py LOGS OUT` reads the evaluations of the sixteen small runs in LOGS,
`src/scripts/paper/data/ladder-runs` of allenai/OLMo-ladder, and writes `forms.csv` to OUT. It opens no file of a larger
model.

The authors' form and rows are those of Bhagia et al. 2024 (arXiv:2412.04403) with their published settings: a moving
average of five, the first tenth of a run skipped.
"""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from scipy import optimize

from analysis.statistics.quadratic import Floats

SIZES = ("190M", "370M", "760M", "1B")
MULTIPLES = ("1xC", "2xC", "5xC", "10xC")
CHANCES = {"hellaswag": 0.25, "piqa": 0.5, "arc_challenge": 0.25, "winogrande": 0.5, "mmlu": 0.25}
SPLITS = {"hellaswag": "val", "piqa": "val", "arc_challenge": "test", "winogrande": "val"}
MMLU_SHARES = {"stem": 0.215, "humanities": 0.335, "social_sciences": 0.219, "other": 0.231}
MMLU_SPLIT = "test"
SKIPPED = 0.1
"""Share of a run's evaluations, from its start, that no row of checkpoints has."""
AVERAGED = 5
"""Evaluations in a moving average."""
LEAST_GAIN = 0.2
FEWEST_TASKS = 4
FEWEST_BLOCKS = 15
TIE = 1e-6
"""Difference of two mean errors that is one of arithmetic: a free top that ends at 1 is our form."""
STEEPEST = 50.0
LOWEST_FLOOR = -1.0
"""Of the authors' form: they bound the height of the step by 1, and the floor not at all."""
EXACTLY = {"xtol": 1e-12, "ftol": 1e-12, "gtol": 1e-12, "max_nfev": 2000}


@dataclass(frozen=True, kw_only=True)
class Form:
    """One way to fit the second step."""

    name: str
    """As it is published."""
    rows: Literal["final", "checkpoints"] = "final"
    """The last evaluation of each run, or a moving average of all but the first."""
    weight: Literal["row", "run"] = "row"
    """What has weight one."""
    is_floor_free: bool = False
    """Or the floor is chance."""
    is_top_free: bool = False
    """Or the top is 1."""
    has_ideal: bool = False
    """True where a row of score 1 at no bits is added."""


OURS = Form(name="final, ours")
AUTHORS = Form(name="authors", rows="checkpoints", is_floor_free=True, is_top_free=True, has_ideal=True)
FORMS = (
    OURS,
    Form(name="final, free top", is_top_free=True),
    Form(name="final, free floor", is_floor_free=True),
    Form(name="checkpoints", rows="checkpoints"),
    Form(name="checkpoints by run", rows="checkpoints", weight="run"),
    Form(name="checkpoints, free top", rows="checkpoints", is_top_free=True),
    Form(name="checkpoints, free floor", rows="checkpoints", is_floor_free=True),
    AUTHORS,
)


@dataclass(frozen=True, kw_only=True)
class Sigmoid:
    """floor + (top - floor) / (1 + exp(slope · (bits - midpoint)))."""

    floor: float
    """Share of right answers where bits are many."""
    top: float
    """Where they are none."""
    midpoint: float
    """Bits per byte half way."""
    slope: float
    """Per bit/byte."""

    def score(self, bits: Floats) -> Floats:
        """The share at `bits` per byte (any shape)."""
        u = np.clip(self.slope * (bits - self.midpoint), -STEEPEST, STEEPEST)
        return self.floor + (self.top - self.floor) / (1 + np.exp(u))


def evaluations(path: Path, task: str) -> pl.DataFrame:
    """tokens, bits and score of every evaluation of one run, in order."""
    if task == "mmlu":
        shares = {f"mmlu_{group}_{MMLU_SPLIT}": share for group, share in MMLU_SHARES.items()}
    else:
        shares = {f"{task}_{SPLITS[task]}": 1.0}
    bits = [pl.col(f"eval/downstream_bpb/{name}_rc_5shot_bpb") * share for name, share in shares.items()]
    score = [pl.col(f"eval/downstream/{name}_rc_5shot_len_norm") * share for name, share in shares.items()]
    tokens = pl.col("throughput/total_tokens").cast(pl.Float64)
    return pl.read_csv(path, infer_schema_length=None).select(
        tokens=tokens, bits=pl.sum_horizontal(bits), score=pl.sum_horizontal(score)
    )


def smoothed(run: pl.DataFrame) -> pl.DataFrame:
    """The authors' rows of a run: its first tenth skipped, then means of the last five evaluations or fewer."""
    kept = run.slice(math.ceil(SKIPPED * run.height))
    return kept.with_columns(pl.col("bits", "score").rolling_mean(AVERAGED, min_samples=1))


def ladder_rows(logs: Path, task: str) -> dict[str, pl.DataFrame]:
    """Rows of the sixteen runs by their kind: run, size, bits, score and how many rows the run has."""
    kinds: dict[str, list[pl.DataFrame]] = {"final": [], "checkpoints": []}
    for size in SIZES:
        for multiple in MULTIPLES:
            run = evaluations(logs / f"{size}-{multiple}.csv", task)
            for kind, rows in (("final", run.tail(1)), ("checkpoints", smoothed(run))):
                names = {"run": pl.lit(f"{size}-{multiple}"), "size": pl.lit(size), "of_run": pl.lit(rows.height)}
                kinds[kind].append(rows.with_columns(**names))
    return {kind: pl.concat(frames) for kind, frames in kinds.items()}


def fit_form(form: Form, rows: pl.DataFrame, chance: float) -> Sigmoid:
    """The least-squares curve of `form` through `rows`; nothing is refused."""
    bits_n, score_n = rows["bits"].to_numpy(), rows["score"].to_numpy()
    weight_n = 1 / rows["of_run"].to_numpy() if form.weight == "run" else np.ones(rows.height)
    if form.has_ideal:
        bits_n, score_n, weight_n = np.append(bits_n, 0.0), np.append(score_n, 1.0), np.append(weight_n, 1.0)

    def residuals(theta: Floats) -> Floats:
        return np.sqrt(weight_n) * (_sigmoid(form, theta, chance).score(bits_n) - score_n)

    # What a form holds is no parameter: midpoint and slope always are, then the floor and the top where they are free.
    low, high = [-1.0, 0.0], [5.0, STEEPEST]
    if form.is_floor_free:
        low, high = [*low, LOWEST_FLOOR if form.has_ideal else 0.0], [*high, 1.0]
    if form.is_top_free:
        low, high = [*low, 0.0], [*high, 1.0]
    edges = [chance] * form.is_floor_free + [0.9] * form.is_top_free
    starts = [[midpoint, slope, *edges] for midpoint, slope in ((0.6, 4.0), (1.0, 8.0))]
    fits = [optimize.least_squares(residuals, start, bounds=(low, high), **EXACTLY) for start in starts]
    return _sigmoid(form, min(fits, key=lambda fit: float(fit.cost)).x, chance)


def _sigmoid(form: Form, theta: Floats, chance: float) -> Sigmoid:
    midpoint, slope, *edges = (float(value) for value in theta)
    top = edges.pop() if form.is_top_free else 1.0
    return Sigmoid(floor=edges.pop() if form.is_floor_free else chance, top=top, midpoint=midpoint, slope=slope)


def missed(form: Form, rows: dict[str, pl.DataFrame], left_out: Sequence[str], met: str, chance: float) -> Floats:
    """(runs,) predicted less measured score of the runs of size `met`, at the bits measured, with `left_out` unseen."""
    curve = fit_form(form, rows[form.rows].filter(~pl.col("size").is_in(left_out)), chance)
    out = rows["final"].filter(pl.col("size") == met)
    return curve.score(out["bits"].to_numpy()) - out["score"].to_numpy()


def block_rows(rows_by_task: dict[str, dict[str, pl.DataFrame]]) -> Iterator[dict[str, str | float]]:
    """One row a form, task and size left out: mean error and mean size of the errors, shares."""
    largest = SIZES[-1]
    places = [((size,), size) for size in SIZES] + [(SIZES[-2:], largest)]
    for task, rows in rows_by_task.items():
        for form in FORMS:
            for left_out, met in places:
                error_n = missed(form, rows, left_out, met, CHANCES[task])
                numbers = {"mean_error": float(error_n.mean()), "mean_size": float(np.abs(error_n).mean())}
                yield {"form": form.name, "task": task, "left_out": " ".join(left_out), "met": met} | numbers


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A form beside ours, by the ladder alone."""

    form: str
    """Its name."""
    largest: float
    """Mean size of errors over tasks, with 1.3B left out."""
    gain: float
    """1 - that over ours."""
    tasks: int
    """Tasks of five on which it is smaller than ours there."""
    blocks: int
    """Tasks and sizes of twenty on which it is smaller."""

    @property
    def is_better(self) -> bool:
        """What the rule asks for."""
        return self.gain >= LEAST_GAIN and self.tasks >= FEWEST_TASKS and self.blocks >= FEWEST_BLOCKS


def standings(blocks: pl.DataFrame) -> list[Standing]:
    """Every form beside ours, in the order of `FORMS`."""
    single = blocks.filter(pl.col("left_out") == pl.col("met"))
    wide = single.pivot("form", index=["task", "met"], values="mean_size")
    last = wide.filter(pl.col("met") == SIZES[-1])
    ours = float(last[OURS.name].to_numpy().mean())
    return [
        Standing(
            form=form.name,
            largest=float(last[form.name].to_numpy().mean()),
            gain=1 - float(last[form.name].to_numpy().mean()) / ours,
            tasks=int((last[form.name] < last[OURS.name] - TIE).sum()),
            blocks=int((wide[form.name] < wide[OURS.name] - TIE).sum()),
        )
        for form in FORMS
    ]


def chosen(forms: Sequence[Standing]) -> Standing | None:
    """The form that the ladder chooses over ours, or None where it does not tell them apart."""
    return min((form for form in forms if form.is_better), key=lambda form: form.largest, default=None)


def main(logs: Path, out: Path) -> None:
    """Meet every size left out, and say which form the rule chooses."""
    blocks = pl.DataFrame(list(block_rows({task: ladder_rows(logs, task) for task in CHANCES})))
    out.mkdir(parents=True, exist_ok=True)
    blocks.with_columns(pl.col("mean_error", "mean_size").round(5)).write_csv(out / "forms.csv")
    forms = standings(blocks)
    for form in forms:
        print(form)
    winner = chosen(forms)
    print("chosen:", winner.form if winner else "none, the ladder does not tell the forms apart")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

"""How often the rule of `ladder_proof.py` chooses another form than ours, where a form is planted as the truth.

`python tests/analysis/advice/tasks/ladder_rule_study.py LOGS DRAWS` prints, for the truth of ours and for that of two
others, how many of DRAWS made-up ladders choose which form.

A made-up ladder has the bits per byte of the real one. Its scores are those of the planted form, fitted to the real
rows of every task, with the real residuals about it: those of a size keep or change their sign together, by a coin per
task, because the evaluations of a run and the runs of a size share what they are good at.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl

from tests.analysis.advice.tasks.ladder_forms import (
    CHANCES,
    FORMS,
    OURS,
    SIZES,
    Form,
    Sigmoid,
    block_rows,
    chosen,
    fit_form,
    ladder_rows,
    standings,
)

RANDOM_SEED = 20
PLANTED = (OURS, *(form for form in FORMS if form.name in ("checkpoints, free floor", "authors")))

Rows = dict[str, pl.DataFrame]


def made_up(rows: Rows, truth: Sigmoid, random: np.random.Generator) -> Rows:
    """The rows of one task with scores of `truth` and residuals of changed sign."""
    sign_of = dict(zip(SIZES, random.choice([-1.0, 1.0], len(SIZES)), strict=True))
    frames = {}
    for kind, frame in rows.items():
        score_n, sign_n = truth.score(frame["bits"].to_numpy()), frame["size"].replace_strict(sign_of).to_numpy()
        frames[kind] = frame.with_columns(score=score_n + sign_n * (frame["score"].to_numpy() - score_n))
    return frames


def choices(rows_by_task: dict[str, Rows], planted: Form, draws: int) -> Counter[str]:
    """How often each form is chosen where `planted` is the truth."""
    random = np.random.default_rng(RANDOM_SEED)
    truths = {task: fit_form(planted, rows[planted.rows], CHANCES[task]) for task, rows in rows_by_task.items()}
    counts: Counter[str] = Counter()
    for _ in range(draws):
        ladder = {task: made_up(rows, truths[task], random) for task, rows in rows_by_task.items()}
        winner = chosen(standings(pl.DataFrame(list(block_rows(ladder)))))
        counts[winner.form if winner else "none"] += 1
    return counts


def main(logs: Path, draws: int) -> None:
    """All planted forms."""
    rows_by_task = {task: ladder_rows(logs, task) for task in CHANCES}
    for planted in PLANTED:
        print(planted.name, dict(choices(rows_by_task, planted, draws)), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))

"""How far seeds differ in loss, and what makes them differ: first weights, order of the data, validation text, routing.

    python -m bench.small_models.noise OUT [--layers 4] [--width 28] [--budget 8e10] [--seeds 16] [--workers N]

Trains a vanilla and a MoR-2 model with seeds that change the first weights, the order of the data, or both, on
`pinned-python` with `quality`, and scores the same models on three validation texts, all encoded by the tokenizer that
they learned: that corpus as it is with `quality`, the same without, and the libraries that are installed here without.
Prints standard deviations with their 95 % intervals (chi-squared: for normal losses). Trials that are written in OUT
are not trained again.
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from analysis.statistics.concentration import concentration
from bench.small_models.trials import (
    CONTEXT,
    MEGABYTES,
    VOCABULARY,
    WINDOWS,
    Book,
    Trial,
    rounded,
    run,
    spec,
    train,
    valid_windows,
    window_losses,
)
from mor_core.data.prepare import open_tokens, prepare
from mor_core.data.snapshot import TOKENIZER_FILE
from mor_core.data.spec import PINNED_PYTHON, PYTHON_SOURCES, DataSpec
from mor_core.data.tokens.tokenizer import END_OF_TEXT_ID, load_tokenizer
from mor_core.model.transformer import Transformer
from mor_core.units import parse_budget

LEVEL = 0.95
VARIED = ("both", "first weights", "data order")
TEXTS = {"pinned, quality": None, "pinned, as it is": PINNED_PYTHON, "installed, as it is": PYTHON_SOURCES}
"""Validation text -> the corpus without `quality` that it comes from."""


@lru_cache(3)
def windows_of(corpus: str) -> np.ndarray:
    """Windows of the validation text of `corpus` without `quality`, encoded as the models' own text; [S, T + 1]."""
    plain = prepare(DataSpec(corpus=corpus, vocab_size=VOCABULARY, max_megabytes=MEGABYTES), report=print)
    text_tokenizer, trained_tokenizer = (
        load_tokenizer(plain.folder / TOKENIZER_FILE),
        load_tokenizer(prepare(spec()).folder / TOKENIZER_FILE),
    )
    ids = np.concatenate([shard.tokens for shard in open_tokens(plain).valid])
    documents = np.split(ids, np.flatnonzero(ids == END_OF_TEXT_ID) + 1)
    texts = [text_tokenizer.decode(document[:-1].tolist()) for document in documents if len(document)]
    encoded = np.concatenate([[*encoding.ids, END_OF_TEXT_ID] for encoding in trained_tokenizer.encode_batch(texts)])
    count = (len(encoded) - 1) // CONTEXT
    starts = CONTEXT * (np.arange(WINDOWS) * count // WINDOWS)
    return encoded[starts[:, None] + np.arange(CONTEXT + 1)]


def score(model: Transformer) -> dict[str, Any]:
    """Mean losses of every text and rule, and those of every window."""
    measured: dict[str, Any] = {}
    for text, corpus in TEXTS.items():
        windows_ST1 = valid_windows() if corpus is None else windows_of(corpus)
        for name, loss_S in window_losses(model, windows_ST1).items():
            key = name if corpus is None else f"{name} {text}"
            measured |= {key: float(loss_S.mean()), f"windows_{key}": rounded(loss_S)}
    return measured


def trials(base: Trial, seeds: int) -> dict[tuple[str, str], list[Trial]]:
    """(arm, what is varied) -> its trials. Half as many seeds where one of the two is held."""
    return {
        (arm, varied): [
            replace(
                base,
                recursions=recursions,
                seed=0 if varied == "data order" else seed,
                order=0 if varied == "first weights" else seed,
            )
            for seed in range(seeds if varied == "both" else seeds // 2)
        ]
        for recursions, arm in ((1, "vanilla"), (2, "mor-2"))
        for varied in VARIED
    }


def deviation(loss: np.ndarray) -> tuple[float, float, float]:
    """The standard deviation and the ends of its interval."""
    spread, degrees = float(np.std(loss, ddof=1)), len(loss) - 1
    low, high = (spread * np.sqrt(degrees / stats.chi2.ppf(share, degrees)) for share in _ends()[::-1])
    return spread, float(low), float(high)


def _ends() -> tuple[float, float]:
    return (1 - LEVEL) / 2, (1 + LEVEL) / 2


def deciding_share(windows_MS: np.ndarray) -> float:
    """The concentration of the differences between neighbouring models, on average."""
    shares = [concentration(difference_S) for difference_S in np.diff(windows_MS, axis=0)]
    return float(np.mean([share for share in shares if share is not None]))


def show(groups: dict[tuple[str, str], list[Trial]], book: Book) -> None:
    """One line for each arm, what is varied, text and rule."""
    for (arm, varied), members in groups.items():
        rows = [book.rows[trial.key][-1] for trial in members]
        for key in [key for key in rows[0] if key.startswith("loss")]:
            spread, low, high = deviation(np.array([row[key] for row in rows]))
            mean = np.mean([row[key] for row in rows])
            share = deciding_share(np.array([row[f"windows_{key}"] for row in rows]))
            print(
                f"{arm}, {varied} varied, {key}: {len(rows)} models, mean {mean:.4f}, deviation {spread:.4f} "
                f"[{low:.4f}, {high:.4f}]; {share:.1%} of the windows make half of the squared difference"
            )


def _run_alone(trial: Trial) -> tuple[Trial, list[dict[str, Any]]]:
    return trial, run(trial, score)


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=28)
    parser.add_argument("--rate-step", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--init", default="residual", help="initial scale, as `rescale` names it")
    parser.add_argument("--budget", type=parse_budget, default=80_000_000_000)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    base = Trial(
        layers=options.layers,
        width=options.width,
        rate_step=options.rate_step,
        batch=options.batch,
        init=options.init,
        budgets=(options.budget,),
    )
    book, groups = Book(options.out), trials(base, options.seeds)
    for corpus in filter(None, TEXTS.values()):
        windows_of(corpus)  # Prepared once, before workers ask for it.
    train([trial for members in groups.values() for trial in members], book, options.workers, _run_alone)
    show(groups, book)


if __name__ == "__main__":
    main()

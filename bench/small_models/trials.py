"""A trial of a small model: a shape at one setting, trained and scored, and the file that trials are kept in.

A trial is a trunk of the CPU preset's schedule with a cooldown for each budget, trained on `pinned-python` with
`quality`. Trials that are written are not trained again.
"""

import copy
import json
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mor_core.config.model import ExpertChoice, ModelConfig, Recursion
from mor_core.config.training import TrainConfig
from mor_core.data.batches import TokenReader
from mor_core.data.prepare import open_tokens, prepare
from mor_core.data.spec import PINNED_PYTHON, DataSpec
from mor_core.flops import nearest_steps, unique_params, unrolled_params
from mor_core.model.device import keep_freed_memory
from mor_core.model.transformer import RoutingRule, Transformer, build_model
from mor_core.training.loop import Diverged, train_steps
from mor_core.training.loss import token_losses
from mor_core.training.optim import build_adamw

VOCABULARY, CONTEXT = 512, 64
MEGABYTES = 48
WARMUP_FRACTION, COOLDOWN_FRACTION = 0.08, 0.2
RATE, REFERENCE_PARAMS, EXPONENT = 8e-3, 100_000, -0.2
"""The law of the peak rate in unrolled parameters that earlier rungs had; the grid's middle."""
INIT_STD = 0.1
WINDOWS, WINDOWS_AT_ONCE = 2048, 256
MOST_RATE_STEPS = 6
"""Half octaves from the law at which a grid ends, whatever lies there."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A vanilla shape; a recursive arm shares its middle."""

    layers: int
    width: int
    heads: int = 2

    @property
    def d_ff(self) -> int:
        """8/3 of the width, to a multiple of 4."""
        return 4 * round(self.width * 2 / 3)

    def model(self, recursions: int) -> ModelConfig:
        """The shape as vanilla (1) or as expert-choice MoR in the preset's manner."""
        mor = recursions > 1
        return ModelConfig(
            vocab_size=VOCABULARY,
            context_length=CONTEXT,
            num_layers=self.layers,
            d_model=self.width,
            num_heads=self.heads,
            num_kv_heads=max(1, self.heads // 2),
            d_head=self.width // self.heads,
            d_ff=self.d_ff,
            init_std=INIT_STD,
            recursion=Recursion(count=recursions, sharing="middle-cycle") if mor else Recursion(),
            routing=ExpertChoice(alpha=0.1, aux_loss_weight=0.001, threshold_decay=0.99) if mor else None,
        )


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trunk and its cooldowns."""

    layers: int
    width: int
    heads: int = 2
    recursions: int = 1
    rate_step: float
    """Half octaves above the law's peak rate; whole numbers in the search."""
    batch: int = 8
    """Sequences a step."""
    init: str = "constant"
    """Standard deviation of the first matrices: see `rescale`."""
    budgets: tuple[int, ...]
    """Exact training FLOPs at which the trunk is cooled down, rising."""
    seed: int = 0
    """Of the first weights."""
    order: int = 0
    """Of the training data."""

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def shape(self) -> Shape:
        return Shape(layers=self.layers, width=self.width, heads=self.heads)


def law_rate(model: ModelConfig) -> float:
    """The middle of a model's grid of rates."""
    return RATE * (unrolled_params(model) / REFERENCE_PARAMS) ** EXPONENT


def rescale(model: Transformer, init: str) -> None:
    """Turn the constant standard deviation of a layer's matrices into 1/sqrt(inputs), under fan-in; what writes into
    the residual stream has 1/sqrt(2 L) of either under residual and fan-in-residual (`ModelConfig.output_init`)."""
    if not init.startswith("fan-in"):
        return
    with torch.no_grad():
        for weight in model.layers.parameters():
            if weight.dim() >= 2:
                weight.mul_(weight.shape[1] ** -0.5 / INIT_STD)


def spec() -> DataSpec:
    """What every trial trains on."""
    return DataSpec(corpus=PINNED_PYTHON, vocab_size=VOCABULARY, max_megabytes=MEGABYTES, quality=True)


@lru_cache(1)
def reader() -> TokenReader:
    """The text of every trial."""
    return open_tokens(prepare(spec(), report=print))


def run(trial: Trial, score: Callable[[Transformer], dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Train the trunk; one row for each budget, with what `score` (by default `losses`) measures."""
    score = score or losses
    torch.set_num_threads(1)
    keep_freed_memory()
    output_init = "depth-scaled" if trial.init.endswith("residual") else "constant"
    model_config = replace(trial.shape.model(trial.recursions), output_init=output_init)
    steps_of = [nearest_steps(model_config, trial.batch, budget, "exact") for budget in trial.budgets]
    config = TrainConfig(
        batch_size=trial.batch,
        peak_learning_rate=law_rate(model_config) * 2 ** (trial.rate_step / 2),
        warmup_steps=round(WARMUP_FRACTION * steps_of[0]),
        beta2=0.99,
    )
    model = build_model(model_config, trial.seed)
    rescale(model, trial.init)
    optimizer = build_adamw(model, config)
    read = reader().read_ahead(trial.order, trial.batch, CONTEXT)
    rows, step, began = [], 0, time.process_time()
    for budget, steps in zip(trial.budgets, steps_of, strict=True):
        branch = steps - max(1, round(COOLDOWN_FRACTION * steps))
        row: dict[str, Any] = asdict(trial) | {"budget": budget, "unique_params": unique_params(model_config)}
        row |= {"rate": config.peak_learning_rate, "steps": steps, "tokens": steps * trial.batch * CONTEXT}
        try:
            _take(model, optimizer, config, read, step, branch, None)
            step = branch
            cooled = copy.deepcopy(model)
            moments = build_adamw(cooled, config)
            moments.load_state_dict(copy.deepcopy(optimizer.state_dict()))
            _take(cooled, moments, config, read, branch, steps, (branch, steps))
        except Diverged:
            rows.append(row | {"loss": None})
            break
        seconds = time.process_time() - began
        rows.append(row | score(cooled) | {"seconds": seconds})
    return rows


def _take(
    model: Transformer,
    optimizer: torch.optim.AdamW,
    config: TrainConfig,
    read: Callable[[int], np.ndarray],
    start: int,
    stop: int,
    cooldown: tuple[int, int] | None,
) -> None:
    for metrics in train_steps(model, optimizer, config, read, steps=range(start, stop), cooldown=cooldown):
        if metrics.step % 100 == 0 or metrics.step == stop:
            metrics.to_floats()


def losses(model: Transformer) -> dict[str, Any]:
    """Mean loss of the validation text, and that of every window."""
    by_rule = window_losses(model, valid_windows())
    means = {name: float(windows_S.mean()) for name, windows_S in by_rule.items()}
    return means | {f"windows_{name}": rounded(windows_S) for name, windows_S in by_rule.items()}


def rounded(loss_S: np.ndarray) -> list[float]:
    """As much of each loss as matters in a file."""
    return [round(loss, 5) for loss in loss_S.tolist()]


@lru_cache(1)
def valid_windows() -> np.ndarray:
    """Windows of the validation text, evenly spread; [S, T + 1]."""
    return np.concatenate(list(reader().valid_batches(WINDOWS, CONTEXT, WINDOWS_AT_ONCE)))


RULES: dict[str, RoutingRule] = {"loss": "threshold", "loss_half": "half", "loss_topk": "top-k"}
"""The name of a loss -> the rule that routes its tokens; a model without expert choice has the first alone."""


@torch.no_grad()
def window_losses(model: Transformer, windows_ST1: np.ndarray) -> dict[str, np.ndarray]:
    """Nats a token of every window under every rule of the model; [S] each."""
    model.eval()
    rules: dict[str, RoutingRule] = RULES if model.config.routing else {"loss": "threshold"}
    losses_of: dict[str, list[np.ndarray]] = {name: [] for name in rules}
    for start in range(0, len(windows_ST1), WINDOWS_AT_ONCE):
        tokens_BT = torch.from_numpy(windows_ST1[start : start + WINDOWS_AT_ONCE])
        for name, rule in rules.items():
            x_BTD, _ = model.encode(tokens_BT[:, :-1], rule)
            losses_BT = token_losses(x_BTD, model.embedding.weight, tokens_BT[:, 1:]).view(len(tokens_BT), -1)
            losses_of[name].append(losses_BT.double().mean(1).numpy())
    return {name: np.concatenate(parts) for name, parts in losses_of.items()}


class Book:
    """Trials that are done, by key; one line of JSON each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "trials.jsonl"
        self.rows: dict[str, list[dict[str, Any]]] = {}
        if self.path.exists():
            for line in self.path.read_text().splitlines():
                entry = json.loads(line)
                self.rows[entry["key"]] = entry["rows"]

    def add(self, trial: Trial, rows: list[dict[str, Any]]) -> None:
        self.rows[trial.key] = rows
        with self.path.open("a") as file:
            file.write(json.dumps({"key": trial.key, "rows": rows}) + "\n")

    def best(self, trial: Trial) -> Trial | None:
        """The trial at the rate that loses least of those tried; None where none was."""
        done = {at: loss for at in along_rates(trial) if (loss := self.loss(at)) is not None}
        return min(done, key=done.__getitem__) if done else None

    def loss(self, trial: Trial) -> float | None:
        """At the largest budget; infinite where it diverged, None where it is not done."""
        rows = self.rows.get(trial.key)
        if rows is None:
            return None
        return math.inf if rows[-1]["loss"] is None else rows[-1]["loss"]


def along_rates(trial: Trial) -> list[Trial]:
    """The trial at every rate of its grid."""
    return [replace(trial, rate_step=step) for step in range(-MOST_RATE_STEPS, MOST_RATE_STEPS + 1)]


Job = Callable[[Trial], tuple[Trial, list[dict[str, Any]]]]
"""Trains a trial in a process of its own, and gives it back with its rows."""


def train(trials: Sequence[Trial], book: Book, workers: int, job: Job | None = None) -> None:
    """Train what the book lacks, each once and the longest first."""
    lacking = {trial.key: trial for trial in trials if trial.key not in book.rows}
    print(f"{len(lacking)} trials", flush=True)
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        longest_first = sorted(lacking.values(), key=lambda trial: -trial.budgets[-1])
        for trial, rows in pool.imap_unordered(job or _run_alone, longest_first):
            book.add(trial, rows)
            print(f"{trial.key}: {rows[-1]['loss']} in {rows[-1].get('seconds', 0):.1f} s", flush=True)


def _run_alone(trial: Trial) -> tuple[Trial, list[dict[str, Any]]]:
    return trial, run(trial)

"""How far a cell's loss moves between machines, beside how far it moves between seeds.

    python -m bench.small_models.machines [--budgets 8e10] [--seeds 3] [--arms vanilla,mor-2]

Trains a shape of the demo's size, the same seeds again under other kernels: torch's for AVX2, its plain ones, and the
plain ones with the matrix products that MKL keeps for any processor. Each run is a child process with one thread, since
kernels are chosen when torch is loaded. Text and weights are the same; only the rounding of sums differs, as it does
between processors and versions of libraries. Losses do not depend on what else the machine does.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mor_core.config.model import ExpertChoice, Recursion
from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.data.prepare import open_tokens, prepare
from mor_core.data.spec import PINNED_PYTHON, DataSpec
from mor_core.flops import nearest_steps
from mor_core.units import budget_text, parse_budget

KERNELS: Mapping[str, Mapping[str, str]] = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AUTO"},
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "AUTO"},
    "default, products too": {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
}
"""What stands for another machine, in environment variables. The first is what the others are compared with."""

DATA = DataSpec(corpus=PINNED_PYTHON, vocab_size=512, max_megabytes=48, quality=True)
VANILLA = replace(model_config(SIZES["35k-4L"], vocab_size=512, context_length=64), init_std=0.1)
ARMS = {
    "vanilla": VANILLA,
    "mor-2": replace(
        VANILLA,
        recursion=Recursion(count=2, sharing="middle-cycle"),
        routing=ExpertChoice(alpha=0.1, aux_loss_weight=0.001, threshold_decay=0.99),
    ),
}
BATCH, PEAK_RATE, BETA2 = 8, 1e-2, 0.99
WARMUP_SHARE, COOLDOWN_SHARE = 0.08, 0.2
WINDOWS, WINDOWS_AT_ONCE = 1024, 64


def validation_loss(arm: str, seed: int, budget: int) -> float:
    """Nats per token after training on `budget` exact FLOPs; `seed` is that of the weights and of the order of text."""
    import torch  # Here, so that the parent process does not load it.

    from mor_core.model.device import keep_freed_memory
    from mor_core.model.transformer import build_model
    from mor_core.training.evaluate import evaluate
    from mor_core.training.loop import train_steps
    from mor_core.training.optim import build_optimizer

    torch.set_num_threads(1)
    keep_freed_memory()
    shape = ARMS[arm]
    steps = nearest_steps(shape, BATCH, budget, "exact")
    config = TrainConfig(
        batch_size=BATCH, peak_learning_rate=PEAK_RATE, warmup_steps=round(WARMUP_SHARE * steps), beta2=BETA2
    )
    model = build_model(shape, seed)
    reader = open_tokens(prepare(DATA))
    for metrics in train_steps(
        model,
        build_optimizer(model, config),
        config,
        reader.read_ahead(seed, BATCH, shape.context_length),
        steps=range(steps),
        cooldown=(steps - round(COOLDOWN_SHARE * steps), steps),
    ):
        metrics.to_floats()
    windows = reader.valid_batches(WINDOWS, shape.context_length, WINDOWS_AT_ONCE)
    return evaluate(model, config, windows, reader.token_bytes).loss


def losses_under(kernels: str, arm: str, seeds: int, budget: int) -> np.ndarray:
    """The validation loss of each seed, from one child process each; [seeds]."""
    environment = {**os.environ, **KERNELS[kernels], "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "bench.small_models.machines", "--arms", arm, "--budgets", str(budget), "--child"]
    children = (
        subprocess.run([*command, str(seed)], env=environment, stdout=subprocess.PIPE, check=True, text=True)
        for seed in range(seeds)
    )
    return np.array([json.loads(child.stdout) for child in children])


def machine_deviation(losses: np.ndarray, others: np.ndarray) -> float:
    """Standard deviation that a machine gives to the loss of one seed, from the same seeds on two machines: the root
    of the mean squared difference over the root of 2, since each of the two has moved."""
    return float(np.sqrt(np.mean((losses - others) ** 2) / 2))


def compare(arm: str, budget: int, seeds: int) -> None:
    """One line for each kind of kernels, and one for the seeds."""
    first, *rest = KERNELS
    losses = losses_under(first, arm, seeds, budget)
    print(f"{arm} at {budget_text(budget)} FLOPs, {first}: {' '.join(f'{loss:.5f}' for loss in losses)}", flush=True)
    for kernels in rest:
        others = losses_under(kernels, arm, seeds, budget)
        differences = " ".join(f"{difference:+.5f}" for difference in others - losses)
        print(f"  {kernels}: differs by {differences}, deviation {machine_deviation(losses, others):.5f}", flush=True)
    print(f"  between seeds: deviation {np.std(losses, ddof=1):.5f}", flush=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", default="8e10", help="exact training FLOPs, with commas between")
    parser.add_argument("--seeds", type=int, default=3, help="two or more")
    parser.add_argument("--arms", default="vanilla", help=" and ".join(ARMS) + ", with commas between")
    parser.add_argument("--child", type=int, metavar="SEED", help="print the loss of this seed under this environment")
    options = parser.parse_args()
    arms = options.arms.split(",")
    budgets = [parse_budget(budget) for budget in options.budgets.split(",")]
    if options.child is not None:
        print(json.dumps(validation_loss(arms[0], options.child, budgets[0])))
        return
    prepare(DATA, report=print)
    for arm, budget in itertools.product(arms, budgets):
        compare(arm, budget, options.seeds)


if __name__ == "__main__":
    main()

"""What a probe's own process does: a few steps of the training loop on made-up tokens, timed.

python -m orchestrator.planning.costs.probe_steps    a request as JSON on stdin; speed and peak memory as JSON on stdout
"""

import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mor_core.config.own_model import Model
from mor_core.config.training import TrainConfig
from mor_core.model.device import keep_freed_memory, peak_memory_bytes
from mor_core.model.own.code import import_from
from mor_core.model.own.model import build
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer
from mor_core.training.rehearsal import rehearse
from orchestrator.planning.canonical import from_jsonable

WARM_UP_STEPS = 2
"""Not timed: they compile, and take their memory for the first time."""

FEWEST_STEPS = 3
MOST_STEPS = 200
LONG_ENOUGH_SECONDS = 1.0
"""Timed steps go on until there are enough of them and this time is over."""


def measure(request: dict[str, Any]) -> dict[str, float]:
    """Tokens per second of the median step, which a busy moment does not move; steps timed; peak memory in bytes."""
    device = torch.device(request["device"])
    model_config, train = from_jsonable(Model, request["model"]), from_jsonable(TrainConfig, request["train"])
    if device.type == "cpu":
        torch.set_num_threads(request["threads"])
        keep_freed_memory()
    else:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(request["deterministic"])
    import_from(Path.cwd())
    model = build(model_config, 0, device)
    if request["activation_checkpointing"]:
        model.checkpoint_in_backward()
    if request["compile"]:
        model.compile_for_training()
    shape = train.batch_size, model_config.context_length + 1

    def batch_of_step(step: int) -> np.ndarray:
        rehearse(
            model,
            lambda: {"segment": "probe", "kind": "probe", "step": step, "attempt": 1, "rank": 0, "micro_batch": 1},
        )
        return np.random.default_rng(step).integers(0, model_config.vocab_size, shape)

    steps = train_steps(
        model,
        build_optimizer(model, train),
        train,
        batch_of_step,
        steps=range(WARM_UP_STEPS + MOST_STEPS),
        cooldown=None,
        micro_batch=request["micro_batch"],
    )
    ended, seconds = time.perf_counter(), []
    for metrics in steps:
        float(metrics.loss)  # Waits for the device.
        now = time.perf_counter()
        if metrics.step > WARM_UP_STEPS:
            seconds.append(now - ended)
        ended = now
        if len(seconds) >= FEWEST_STEPS and sum(seconds) > LONG_ENOUGH_SECONDS:
            break
    tokens = train.batch_size * model_config.context_length
    return {
        "tokens_per_second": tokens / statistics.median(seconds),
        "steps": len(seconds),
        "peak_memory_bytes": peak_memory_bytes(),
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))))

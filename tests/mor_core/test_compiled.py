"""torch.compile changes how a model trains, not what it learns."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters
from variants import variant

from mor_core.config import TrainConfig
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer

TRAIN = TrainConfig(batch_size=4, peak_learning_rate=0.01, warmup_steps=2)


def losses(model: Transformer, steps: int) -> list[float]:
    batch = np.random.default_rng(0).integers(0, 64, (4, 25))
    optimizer = build_optimizer(model, TRAIN)
    taken = train_steps(model, optimizer, TRAIN, lambda _: batch, start_step=0, stop_step=steps, cooldown=None)
    return [float(metrics.loss) for metrics in taken]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vanilla", "mor-3", "mor-capacities", "mor-shared-kv", "token-3"])
def test_a_compiled_model_has_the_losses_of_an_eager_one_and_is_compiled_once_per_shape(name: str):
    torch._dynamo.reset()
    counters.clear()
    eager = losses(build_model(variant(name), 0), 8)
    compiled = build_model(variant(name), 0)
    compiled.compile_for_training()
    assert losses(compiled, 8) == pytest.approx(eager, abs=1e-3)
    assert counters["stats"]["unique_graphs"] > 0
    assert counters["recompile_limit"] == {} and not any("limit" in str(key) for key in counters["unimplemented"])

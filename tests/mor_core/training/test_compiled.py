"""torch.compile changes how a model trains, not what it learns."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from mor_core.config.training import TrainConfig
from mor_core.model.layers import rotary_table, rotate
from mor_core.model.transformer import Transformer, build_model
from mor_core.training.loop import train_steps
from mor_core.training.optim import build_optimizer
from tests.helpers.models.variants import loss_and_gradients, spread_routers, variant

TRAIN = TrainConfig(batch_size=4, peak_learning_rate=0.01, warmup_steps=2)


def steps(model: Transformer) -> Iterator[float]:
    """The losses of one step after another, on one batch."""
    batch = np.random.default_rng(0).integers(0, 64, (4, 25))
    optimizer = build_optimizer(model, TRAIN)
    taken = train_steps(model, optimizer, TRAIN, lambda _: batch, steps=range(12), cooldown=None)
    return (float(metrics.loss) for metrics in taken)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vanilla", "mor-3", "mor-capacities", "mor-shared-kv", "token-3"])
def test_a_compiled_model_has_the_losses_of_an_eager_one_and_is_not_compiled_again_and_again(name: str):
    torch._dynamo.reset()
    counters.clear()
    eager = list(steps(build_model(variant(name), 0)))
    compiled = build_model(variant(name), 0)
    compiled.compile_for_training()
    taken = steps(compiled)
    found = list(islice(taken, 6))
    graphs = counters["stats"]["unique_graphs"]
    found += taken
    assert found == pytest.approx(eager, abs=1e-3)
    assert graphs == counters["stats"]["unique_graphs"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vanilla", "mor-3", "mor-shared-kv", "token-3"])
def test_a_compiled_model_has_the_gradients_of_an_eager_one(name: str):
    """Losses of a few steps would hide a wrong one."""
    torch._dynamo.reset()
    eager, compiled = (spread_routers(build_model(variant(name), 0)) for _ in range(2))
    compiled.compile_for_training()
    tokens_BT = torch.randint(0, 64, (4, 24), generator=torch.Generator().manual_seed(0))
    (_, expected), (_, found) = (loss_and_gradients(model, tokens_BT) for model in (eager, compiled))
    for parameter, gradient in expected.items():
        assert (gradient - found[parameter]).norm() <= 1e-4 * gradient.norm() + 1e-9, parameter


@pytest.mark.slow
def test_a_compiled_rotation_has_the_gradient_of_an_eager_one():
    torch._dynamo.reset()
    config, generator = variant("vanilla"), torch.Generator().manual_seed(0)
    cos_1T1C, sin_1T1C = rotary_table(config)[:, None, :, None]
    shape = (2, config.context_length, 3, config.d_head)
    x_BTHC, direction_BTHC = (torch.randn(shape, generator=generator) for _ in range(2))
    x_BTHC.requires_grad_()
    gradients = [
        torch.autograd.grad(function(x_BTHC, (cos_1T1C, sin_1T1C)), x_BTHC, direction_BTHC)[0]
        for function in (rotate, torch.compile(rotate))
    ]
    assert torch.allclose(*gradients, atol=1e-6)

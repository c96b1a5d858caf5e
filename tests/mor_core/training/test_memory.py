"""The memory that a plan promises is the memory that a step takes."""

import pytest
import torch

from bench.train_step.live_memory import LiveMemory, training_state
from mor_core.config.model import ExpertChoice, Precision, Recursion, Routing
from mor_core.config.sizes import SIZES, model_config
from mor_core.config.training import TrainConfig
from mor_core.model.transformer import build_model
from mor_core.training.loop import train_steps
from mor_core.training.memory import training_memory_bytes
from mor_core.training.optim import build_optimizer

ARMS: dict[str, tuple[Recursion, Routing | None]] = {
    "vanilla": (Recursion(), None),
    "recursive-2": (Recursion(count=2), None),
    "mor-3": (Recursion(count=3), ExpertChoice()),
    "mor-2-shared-kv": (Recursion(count=2, kv="shared"), ExpertChoice()),
}


CASES = [
    pytest.param(
        arm,
        precision,
        checkpointed,
        id=f"{arm}-{precision}-{'checkpointed' if checkpointed else 'kept'}",
        # By default each arm is kept in one precision and checkpointed in the other.
        marks=[pytest.mark.slow] * ((number % 2 == 0) == ((precision == "fp32") == checkpointed)),
    )
    for number, arm in enumerate(ARMS)
    for precision in ("fp32", "bf16")
    for checkpointed in (False, True)
]


@pytest.mark.parametrize(("arm", "precision", "checkpoint_activations"), CASES)
def test_the_bytes_of_live_tensors_are_within_15_percent_of_the_estimate(
    arm: str, precision: Precision, checkpoint_activations: bool
):
    recursion, routing = ARMS[arm]
    model_shape = model_config(SIZES["2.2M"], vocab_size=2048, context_length=128, recursion=recursion, routing=routing)
    train = TrainConfig(batch_size=2, peak_learning_rate=1e-4, warmup_steps=1, precision=precision)
    model = build_model(model_shape, seed=0)
    model.checkpoint_activations = checkpoint_activations
    optimizer = build_optimizer(model, train)
    batch = torch.randint(0, 2048, (2, 129), generator=torch.Generator().manual_seed(0)).numpy()
    steps = train_steps(model, optimizer, train, lambda _: batch, steps=range(2), cooldown=None)
    next(steps)  # makes the optimiser's state
    with LiveMemory(training_state(model, optimizer)) as memory:
        next(steps)
    estimated = training_memory_bytes(model_shape, train, "cpu", checkpoint_activations=checkpoint_activations)
    assert estimated == pytest.approx(memory.peak_bytes, rel=0.15)

"""The training losses of a few steps: what tests compare with recorded numbers."""

from mor_core.config.training import TrainConfig
from mor_core.model.transformer import Transformer
from mor_core.training.loop import BatchOfStep, train_steps
from mor_core.training.optim import build_optimizer


def training_losses(
    model: Transformer,
    config: TrainConfig,
    batch_of_step: BatchOfStep,
    steps: int,
    cooldown: tuple[int, int] | None = None,
) -> list[float]:
    """Nats per token of every step's batch before its update; the loss of step s is at s - 1."""
    steps_metrics = train_steps(
        model,
        build_optimizer(model, config),
        config,
        batch_of_step,
        steps=range(steps),
        cooldown=cooldown,
    )
    return [metrics.to_floats()["loss"] for metrics in steps_metrics]

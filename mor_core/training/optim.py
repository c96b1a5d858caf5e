"""AdamW and the trapezoid learning-rate schedule."""

import torch

from mor_core.config import TrainConfig
from mor_core.model.transformer import Transformer


def build_optimizer(model: Transformer, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; every matrix decays (embedding and routers included), norms do not, as in the paper."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        fused=True,
    )


def learning_rate(step: int, config: TrainConfig, cooldown: tuple[int, int] | None) -> float:
    """Learning rate of the update that leads from `step` to `step + 1` (steps count from 0).

    Linear warm-up that reaches the peak at the last warm-up step, constant, then, within cooldown = (first step, stop
    step), linear from the peak towards 0, which it would reach at the stop step (trapezoid; paper section 3 and
    appendix D). No update is spent at a learning rate of 0.
    """
    if cooldown is not None and step >= cooldown[0]:
        start, stop = cooldown
        return config.peak_learning_rate * (stop - step) / (stop - start)
    if step < config.warmup_steps:
        return config.peak_learning_rate * (step + 1) / config.warmup_steps
    return config.peak_learning_rate

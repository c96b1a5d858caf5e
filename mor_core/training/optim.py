"""AdamW and the learning-rate schedules."""

import math

import torch
from torch import nn

from mor_core.config import TrainConfig
from mor_core.model.language_model import LanguageModel

AUX_ROUTER_RATE = 10.0
"""Learning rate of auxiliary routers over that of the rest (paper appendix G; the released code)."""


def build_optimizer(model: LanguageModel, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices decay as `config.decay_on` says, norms do not. A group's `rate_scale` multiplies its rate."""
    apart = {id(parameter) for parameter in model.apart_parameters()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.trained_parameters().items():
        decays = parameter.dim() >= 2 and (model.is_hidden(name) or config.decay_on == "all-matrices")
        key = config.weight_decay if decays else 0.0, AUX_ROUTER_RATE if id(parameter) in apart else 1.0
        groups.setdefault(key, []).append(parameter)
    return torch.optim.AdamW(
        [{"params": members, "weight_decay": decay, "rate_scale": scale} for (decay, scale), members in groups.items()],
        lr=config.peak_learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.adam_eps,
        fused=True,
    )


def learning_rate(step: int, config: TrainConfig, cooldown: tuple[int, int] | None) -> float:
    """Learning rate of the update that leads from `step` to `step + 1` (steps count from 0).

    Linear warm-up that reaches the peak at the last warm-up step, constant, then, within cooldown = (first step, stop
    step), linear from the peak towards 0, which it would reach at the stop step (trapezoid; paper section 3 and
    appendix D). No update is spent at a learning rate of 0. With `cosine_steps`, half a cosine instead from the end of
    warm-up to the floor, which it would reach at cosine_steps.
    """
    if config.cosine_steps is not None and step >= config.warmup_steps:
        done = (step - config.warmup_steps) / (config.cosine_steps - config.warmup_steps)
        share = config.cosine_floor + (1 - config.cosine_floor) * (1 + math.cos(math.pi * min(1.0, done))) / 2
        return config.peak_learning_rate * share
    if cooldown is not None and step >= cooldown[0]:
        start, stop = cooldown
        return config.peak_learning_rate * (stop - step) / (stop - start)
    if step < config.warmup_steps:
        return config.peak_learning_rate * (step + 1) / config.warmup_steps
    return config.peak_learning_rate

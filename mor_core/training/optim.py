"""AdamW, or the steps of a user's own model that come in its place; and the learning-rate schedules.

Shapes: B sequences, T tokens.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mor_core.config.training import TrainConfig
from mor_core.model.language_model import LanguageModel
from mor_core.model.own.code import OwnModelError
from mor_core.model.own.model import PlainModel, one_line

AUX_ROUTER_RATE = 10.0
"""Learning rate of auxiliary routers over that of the rest (paper appendix G; the released code)."""


class OwnSteps:
    """The training steps of an own model's object, and the state that they keep (see
    `mor_core.model.own.model.OptionalParts`). What the object raises is let through."""

    def __init__(self, model: PlainModel, config: TrainConfig) -> None:
        self.model, self.config = model, config
        self.target, self.name = model.definition.target, model.config.object
        self.keeps_state = hasattr(self.target, "training_state")
        model.before_step(0, 0)  # What the state draws is a function of the seed, too.
        self.state = self.target.training_state(model.module, config) if self.keeps_state else None

    def take(self, tokens_BT: Tensor, step: int, rate: float) -> Tensor:
        """Take a step (from 0) on a batch [B, T + 1]; the loss before it, a scalar. Raises OwnModelError where it gives
        none."""
        loss = self.target.training_step(
            self.model.module, self.state, tokens_BT, step=step, learning_rate=rate, train=self.config
        )
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = list(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise OwnModelError(
                f"{self.name}: training_step gave {shape}, expected the loss before the step, a scalar tensor"
            )
        return loss.detach().float().reshape(())

    @torch.no_grad()
    def weight_norm(self) -> Tensor:
        """Global norm of the weights."""
        return torch.nn.utils.get_total_norm(list(self.model.parameters()))

    def tensors(self) -> dict[str, Tensor]:
        """The state by name. Raises OwnModelError where it is no tensors."""
        tensors = self.target.state_tensors(self.state) if self.keeps_state else {}
        if not isinstance(tensors, Mapping):
            raise OwnModelError(f"{self.name}: state_tensors gave {type(tensors).__name__}, expected {{name: tensor}}")
        for name, tensor in tensors.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                raise OwnModelError(
                    f"{self.name}: state_tensors gave {type(tensor).__name__} for {name!r:.60}, expected a tensor by "
                    "its name"
                )
        return dict(tensors)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put the state back. Raises OwnModelError where the object cannot: no earlier checkpoint would do better."""
        if not self.keeps_state:
            return
        try:
            self.target.load_state(self.state, tensors)
        except Exception as error:  # Whatever it is, it is the user's to mend.
            raise OwnModelError(f"{self.name}: load_state failed: {one_line(error)}") from error


Optimizer = torch.optim.Optimizer | OwnSteps
"""What takes the steps of training and keeps state between them."""


def build_optimizer(model: LanguageModel, config: TrainConfig) -> torch.optim.AdamW | OwnSteps:
    """The steps of an own model that has its own, else AdamW."""
    if isinstance(model, PlainModel) and model.config.training != "adamw":
        return OwnSteps(model, config)
    return build_adamw(model, config)


def build_adamw(model: LanguageModel, config: TrainConfig) -> torch.optim.AdamW:
    """Matrices decay as `config.decay_on` says, norms do not. A group's `rate_scale` multiplies its rate."""
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

"""The training loop: one generator of steps. It knows a model, an optimiser and a source of batches, and no files."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mor_core.config.training import TrainConfig
from mor_core.model.language_model import LanguageModel
from mor_core.training.distributed import World
from mor_core.training.loss import linear_cross_entropy
from mor_core.training.optim import Optimizer, OwnSteps, learning_rate

BatchOfStep = Callable[[int], np.ndarray]
"""step -> token ids [batch_size, context_length + 1]; a pure function."""


ALONE = World()
"""One process takes the steps."""


class Diverged(Exception):
    """A loss or a gradient is not a finite number: the run is over, and its result is that it diverged."""

    def __init__(self, step: int, value: float, what: str = "loss") -> None:
        super().__init__(f"{what} {value} at step {step}")
        self.step = step


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """What one optimiser step measured. Tensors stay on the device until they are asked for."""

    step: int
    """Steps taken so far, this one included."""
    learning_rate: float
    """Of this step."""
    loss: Tensor
    """Mean cross-entropy over the global batch before the update, nats per token."""
    aux_loss: Tensor
    """The routers' auxiliary or balancing loss, unweighted; 0 without routing."""
    norm: Tensor
    """See `norm_of`."""
    norm_of: Literal["gradient", "weight"] = "gradient"
    """gradient: the global norm before clipping, auxiliary routers left out. weight: that of the weights after a step
    of an own model's, whose gradients are not seen here."""

    def to_floats(self) -> dict[str, float]:
        """The numbers, brought from the device. Raises Diverged where the loss or the norm is not finite."""
        loss, norm = float(self.loss), float(self.norm)
        if not math.isfinite(loss):
            raise Diverged(self.step, loss)
        if not math.isfinite(norm):
            raise Diverged(self.step, norm, f"{self.norm_of} norm")
        return {
            "loss": loss,
            "aux_loss": float(self.aux_loss),
            f"{self.norm_of}_norm": norm,
            "learning_rate": self.learning_rate,
        }

    def is_finite(self) -> bool:
        """Whether the state after this step is worth keeping."""
        return bool(torch.isfinite(self.loss) & torch.isfinite(self.norm))


def train_steps(
    model: LanguageModel,
    optimizer: Optimizer,
    config: TrainConfig,
    batch_of_step: BatchOfStep,
    *,
    steps: range,
    cooldown: tuple[int, int] | None,
    micro_batch: int | None = None,
    world: World = ALONE,
) -> Iterator[StepMetrics]:
    """Take the steps of these numbers, the first of a run being 0. Yields after each update; the caller may stop there.

    micro_batch (sequences) divides the global batch for memory and changes rounding only: every loss is a mean over
    sequences, and routers' state follows the global batch. Each rank of `world` computes its rows of the batch, with
    the same effect. Steps of an own model's take the whole batch, on one rank. Raises ValueError where a number does
    not divide the batch or own steps have several ranks, PeerLost where a rank is gone.
    """
    if isinstance(optimizer, OwnSteps):
        if world.size > 1:
            raise ValueError(f"{optimizer.name}: its own training steps are taken by 1 worker, found {world.size}")
        for step in steps:
            yield _own_step(model, optimizer, batch_of_step, step, learning_rate(step, config, cooldown))
        return
    share = config.batch_size // world.size
    micro_batch = share if micro_batch is None else min(micro_batch, share)
    if config.batch_size % world.size or share % micro_batch:
        on = f" on {world.size} workers" if world.size > 1 else ""
        raise ValueError(f"micro_batch {micro_batch}{on} does not divide the batch of {config.batch_size} sequences")
    device = model.device
    apart = model.apart_parameters()
    clipped_together = [
        parameter
        for parameter in model.trained_parameters().values()
        if not any(parameter is apart_parameter for apart_parameter in apart)
    ]
    model.train()
    for step in steps:
        rate = learning_rate(step, config, cooldown)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["rate_scale"]
        model.before_step(step, world.rank)
        tokens = torch.from_numpy(world.rows(batch_of_step(step))).to(device, non_blocking=True)
        loss, aux_loss = _accumulate_gradients(model, config, tokens.split(micro_batch), step, world)
        norm = torch.nn.utils.clip_grad_norm_(clipped_together, config.gradient_clip)
        if apart:
            torch.nn.utils.clip_grad_norm_(apart, config.gradient_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield StepMetrics(step=step + 1, learning_rate=rate, loss=loss, aux_loss=aux_loss, norm=norm)


def _own_step(
    model: LanguageModel, optimizer: OwnSteps, batch_of_step: BatchOfStep, step: int, rate: float
) -> StepMetrics:
    """One step of an own model's, which does all that the loop does for others."""
    model.train()
    model.before_step(step, 0)
    tokens_BT = torch.from_numpy(batch_of_step(step)).to(model.device, non_blocking=True)
    loss = optimizer.take(tokens_BT, step, rate)
    return StepMetrics(
        step=step + 1,
        learning_rate=rate,
        loss=loss,
        aux_loss=torch.zeros_like(loss),
        norm=optimizer.weight_norm(),
        norm_of="weight",
    )


def _accumulate_gradients(
    model: LanguageModel, config: TrainConfig, micro_batches: tuple[Tensor, ...], step: int, world: World
) -> tuple[Tensor, Tensor]:
    """Back-propagate the mean loss of the global batch; move the routers' state once. Returns loss, auxiliary loss."""
    share = 1.0 / len(micro_batches)
    # Only warm-up of capacities asks for the step, and compiled code is made anew for every number it sees.
    asked_step = step if model.config.capacity_warmup_steps else None
    losses, aux_losses, statistics_R = [], [], []
    for tokens_BT in micro_batches:
        with autocast(model, config):
            x_BTD, routed = model.encode(tokens_BT[:, :-1], step=asked_step)
            loss = linear_cross_entropy(x_BTD, model.head_weight_VD, tokens_BT[:, 1:])
        ((loss + routed.loss if routed else loss) * share).backward()
        losses.append(loss.detach() * share)
        if routed:
            aux_losses.append(routed.aux_loss * share)
            statistics_R.append(routed.statistics_R * share)
    world.average_gradients(model.parameters())
    if statistics_R:
        model.update_router_state(world.mean(torch.stack(statistics_R).sum(dim=0)))
    loss = torch.stack(losses).sum()
    aux_loss = torch.stack(aux_losses).sum() if aux_losses else torch.zeros_like(loss)
    loss, aux_loss = world.mean(torch.stack((loss, aux_loss))).unbind()
    return loss, aux_loss


def autocast(model: LanguageModel, config: TrainConfig) -> torch.autocast:
    """bf16 matrix products under the bf16 policy; weights, optimiser, router and loss stay fp32."""
    device = model.device.type
    return torch.autocast(device, dtype=torch.bfloat16, enabled=config.precision == "bf16")

"""What training and evaluation ask of a model: our family and a user's own answer through one class.

    Transformer (mor_core.model.transformer)    our family; its head is fused with the loss
    PlainModel (mor_core.model.own.model)       any torch.nn.Module from token ids to logits

The loop, checkpoints, evaluation and rehearsed faults know this class only. What it leaves to its subclasses has the
default that a plain module needs.

Shapes: B sequences, T tokens, D model width, V vocabulary, R recursions.
"""

from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from mor_core.config.own_model import Model
from mor_core.model.router import Selection

RoutingRule = Literal["top-k", "threshold", "half"]
"""How an expert-choice model chooses tokens. top-k is the paper's training and evaluation rule and looks at the whole
sequence. The others are causal, so inference can follow them: threshold lets a token go on when its router logit
reaches the running mean of training's cut-offs; half when its sigmoid reaches 0.5, which is what the paper implies."""


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What routing did in one forward pass."""

    selections: tuple[Selection, ...]
    """The tokens of each recursion."""
    loss: Tensor
    """What routers add to the training loss, weights applied; a scalar."""
    aux_loss: Tensor
    """The auxiliary part of it without its weight: the sum over recursions of the cross-entropy against selection
    (paper, Table 13), or the balancing loss (Table 14)."""
    statistics_R: Tensor
    """What the state of the routers follows, averaged over sequences: the top-k cut-off of each recursion (0 where
    every token was taken), or the share of tokens that chose each depth."""


Config = TypeVar("Config", bound=Model)


class LanguageModel(nn.Module, Generic[Config]):
    """A model that can be trained here."""

    config: Config
    """What it is, as planned."""

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.parameters()).device

    @property
    def head_weight_VD(self) -> Tensor | None:
        """The matrix that turns what `encode` gives into logits; None where `encode` gives logits."""
        return None

    def encode(
        self, tokens_BT: Tensor, rule: RoutingRule = "top-k", step: int | None = None
    ) -> tuple[Tensor, Routed | None]:
        """What the head reads, [B, T, D], or the logits, [B, T, V]; and what routing did, if anything is routed.

        `step` (from 0) is told where the computation depends on it.
        """
        raise NotImplementedError

    def is_hidden(self, name: str) -> bool:
        """Whether a parameter lies between the embedding and the head (see `TrainConfig.decay_on`)."""
        raise NotImplementedError

    def apart_parameters(self) -> list[nn.Parameter]:
        """Parameters that only ever see a loss of their own; they are clipped by themselves."""
        return []

    def before_step(self, step: int, rank: int) -> None:
        """Told of the optimiser step (from 0) that comes next. A step is a pure function of (state, seed, step)."""

    def update_router_state(self, statistics_R: Tensor) -> None:
        """Told of `Routed.statistics_R` over the global batch, once an optimiser step."""

    def named_losses(self, tokens_BT: Tensor) -> dict[str, Tensor]:
        """Losses that an evaluation measures beside the cross-entropy: name -> mean of each sequence, [B], nats/token.
        `tokens_BT` are the inputs and, one later, the targets: [B, T + 1]."""
        return {}

    def checkpoint_in_backward(self) -> None:
        """Keep a layer's input only and compute the rest again in the backward pass. Raises ValueError where the
        model cannot."""
        raise ValueError("execution.activation_checkpointing is for models of our family: leave it out")

    def compile_for_training(self) -> None:
        """Send it through torch.compile."""
        raise NotImplementedError

    def stored_tensors(self) -> dict[str, Tensor]:
        """The state that a checkpoint keeps, by name: of tensors that are one, the first name only."""
        stored: dict[str, Tensor] = {}
        places = set()
        for name, tensor in self.state_dict().items():
            place = tensor.device, tensor.data_ptr(), tensor.shape, tensor.dtype
            if tensor.numel() and place in places:
                continue
            places.add(place)
            stored[name] = tensor
        return stored

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What the optimiser moves, by name."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

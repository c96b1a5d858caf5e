"""The n-gram with training steps of its own, Lion (Chen et al. 2023, arXiv 2302.06675, Algorithm 2), and a loss more.

`model = "examples.ngram_lion:ngram"` in a sweep file.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from examples.ngram_mlp import ORDER, Ngram
from mor_core.config.training import TrainConfig

BETA1, BETA2 = 0.9, 0.99
RATE = 1 / 3
"""Of AdamW's rate: a sign moves every weight by a whole step (section 5 of the paper: 3 to 10 times smaller)."""


class LionNgram(Ngram):
    """The same ladder. Its steps follow any learning rate, so that budgets share a trunk."""

    files: ClassVar = ["ngram_mlp.py"]
    supports_cooldown = True

    def training_state(self, module: nn.Module, train: TrainConfig) -> dict[str, Tensor]:
        return {name: torch.zeros_like(weight) for name, weight in module.named_parameters()}

    def training_step(
        self,
        module: nn.Module,
        state: dict[str, Tensor],
        tokens_BT: Tensor,
        *,
        step: int,
        learning_rate: float,
        train: TrainConfig,
    ) -> Tensor:
        loss = token_losses(module, tokens_BT).mean()
        rate = RATE * learning_rate
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for (name, weight), gradient in zip(module.named_parameters(), gradients, strict=True):
                sign = (BETA1 * state[name] + (1 - BETA1) * gradient).sign()
                weight.mul_(1 - rate * train.weight_decay).sub_(sign, alpha=rate)
                state[name].lerp_(gradient, 1 - BETA2)
        return loss

    def state_tensors(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state

    def load_state(self, state: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        state.update(tensors)

    def named_losses(self, module: nn.Module, tokens_BT: Tensor) -> dict[str, Tensor]:
        """Of the tokens that a whole n-gram stands before."""
        return {"whole_context": token_losses(module, tokens_BT)[:, ORDER - 1 :].mean(dim=1)}


def token_losses(module: nn.Module, tokens_BT: Tensor) -> Tensor:
    """Cross-entropy of each token but the first, [B, T]."""
    logits_BTV = module(tokens_BT[:, :-1])
    return F.cross_entropy(logits_BTV.transpose(1, 2), tokens_BT[:, 1:], reduction="none")


ngram = LionNgram()

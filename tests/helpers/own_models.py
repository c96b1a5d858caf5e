"""Own models for tests: one that is right, and some that are wrong in one way each."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from mor_core.config import OwnModel


class Bigram(nn.Module):
    """Token ids to logits by the token alone; dropout makes each step draw."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.middle = nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, vocab_size, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.middle(self.embedding(tokens_BT)))))


class Right:
    """A ladder of two bigrams."""

    version = "1"
    sizes: ClassVar = {"small": {"width": 8}, "large": {"width": 16}}
    module: type[nn.Module] = Bigram

    def build(self, *, vocab_size: int, context_length: int, width: int) -> nn.Module:
        return self.module(vocab_size, width)


class Tied(Bigram):
    """Its head is its embedding."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width)
        self.head.weight = self.embedding.weight


class LooksAhead(Bigram):
    """Each position sees the mean of all."""

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.embedding(tokens_BT)
        return self.head(torch.relu(self.middle(x_BTD + x_BTD.mean(dim=1, keepdim=True))))


class Unused(Bigram):
    """A parameter that forward does not use."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width)
        self.spare = nn.Parameter(torch.zeros(3))


class NotANumber(Bigram):
    """NaN at the first step."""

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return super().forward(tokens_BT) * float("nan")


class Forgets(Bigram):
    """State that is in no parameter and no buffer, and changes with each step."""

    def __init__(self, vocab_size: int, width: int) -> None:
        super().__init__(vocab_size, width)
        self.calls = 0

    def forward(self, tokens_BT: Tensor) -> Tensor:
        self.calls += self.training
        return super().forward(tokens_BT) / (1 + self.calls)


class OtherShape(Bigram):
    """Its weights change their shape when they are trained."""

    def forward(self, tokens_BT: Tensor) -> Tensor:
        if self.training and not hasattr(self, "grown"):
            self.register_buffer("grown", torch.zeros(int(torch.randint(1, 1000, ()))))
        return super().forward(tokens_BT)


class WrongLogits(Bigram):
    """Logits of the last token only."""

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return super().forward(tokens_BT)[:, -1]


class Halved(Right):
    """Counts a multiply-add as one FLOP."""

    def training_flops_per_token(self, *, vocab_size: int, context_length: int, width: int) -> int:
        return 3 * (width * width + width * vocab_size)


class Reasoned(Halved):
    """The same, and says why."""

    flops_reason = "its products are of numbers of which half are zero"


class NoVersion:
    """Lacks version and build."""

    sizes: ClassVar = {"small": {}}


def of(module: type[nn.Module]) -> Right:
    """The right ladder with another module."""
    ladder = Right()
    ladder.module = module
    return ladder


right = Right()


def planned_own_model(name: str, *, version: str) -> OwnModel:
    """An own model as a plan holds it, with counts of a model too small to be one; nothing imports its object."""
    return OwnModel(
        object=name,
        version=version,
        size="small",
        settings="{}",
        vocab_size=8,
        context_length=4,
        unique_params=1,
        unrolled_params=1,
        total_params=1,
        training_flops=6,
        forward_flops=2,
        activation_bytes=0,
    )

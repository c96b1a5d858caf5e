"""Own models for tests: one that is right, and some that are wrong in one way each."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mor_core.config.own_model import OwnModel
from mor_core.config.training import TrainConfig


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


class Momentum(Right):
    """Trained by its own steps: descent with momentum, which is kept beside the weights. It names a loss."""

    supports_cooldown: Any = True

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
        loss = torch.nn.functional.cross_entropy(module(tokens_BT[:, :-1]).flatten(0, 1), tokens_BT[:, 1:].flatten())
        gradients = torch.autograd.grad(loss, list(module.parameters()))
        with torch.no_grad():
            for (name, weight), gradient in zip(module.named_parameters(), gradients, strict=True):
                state[name].mul_(0.9).add_(gradient)
                weight.sub_(state[name], alpha=learning_rate)
        return loss

    def state_tensors(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return state

    def load_state(self, state: dict[str, Tensor], tensors: dict[str, Tensor]) -> None:
        state.update(tensors)

    def named_losses(self, module: nn.Module, tokens_BT: Tensor) -> dict[str, Tensor]:
        losses_BT = torch.nn.functional.cross_entropy(
            module(tokens_BT[:, :-1]).transpose(1, 2), tokens_BT[:, 1:], reduction="none"
        )
        return {"last": losses_BT[:, -1]}


class WholeRuns(Momentum):
    """The same, and it does not say that it supports a cooldown."""

    supports_cooldown = False


class Stateless(Right):
    """Plain gradient descent keeps nothing."""

    def training_step(
        self, module: nn.Module, state: None, tokens_BT: Tensor, *, step: int, learning_rate: float, train: TrainConfig
    ) -> Tensor:
        weights = dict.fromkeys(name for name, _ in module.named_parameters())
        state_of_no_use = {name: torch.zeros_like(module.get_parameter(name)) for name in weights}
        return Momentum().training_step(
            module, state_of_no_use, tokens_BT, step=step, learning_rate=learning_rate, train=train
        )


class SeesNoRate(Momentum):
    """Its rate is its own, whatever it is given."""

    def training_step(self, module: nn.Module, state: Any, tokens_BT: Tensor, **settings: Any) -> Tensor:
        return super().training_step(module, state, tokens_BT, **settings | {"learning_rate": 0.001})


class Idle(Momentum):
    """Its steps compute a loss and change nothing."""

    def training_step(self, module: nn.Module, state: Any, tokens_BT: Tensor, **settings: Any) -> Tensor:
        return super().training_step(module, state, tokens_BT, **settings | {"learning_rate": 0.0})


class LossIsNotANumber(Momentum):
    """NaN at its first step."""

    def training_step(self, module: nn.Module, state: Any, tokens_BT: Tensor, **settings: Any) -> Tensor:
        return super().training_step(module, state, tokens_BT, **settings) * float("nan")


class WeightsAreNotNumbers(Momentum):
    """Its first step has a finite loss and leaves weights that are no numbers."""

    def training_step(self, module: nn.Module, state: Any, tokens_BT: Tensor, **settings: Any) -> Tensor:
        return super().training_step(module, state, tokens_BT, **settings | {"learning_rate": float("inf")})


class GivesNoLoss(Momentum):
    """Its steps return nothing."""

    def training_step(self, module: nn.Module, state: Any, tokens_BT: Tensor, **settings: Any) -> Any:
        super().training_step(module, state, tokens_BT, **settings)


class LosesItsState(Momentum):
    """Its state is saved and not put back."""

    def load_state(self, state: Any, tensors: dict[str, Tensor]) -> None:
        pass


class SavesNoState(Momentum):
    """Its state is not saved."""

    def state_tensors(self, state: Any) -> dict[str, Tensor]:
        return {}


class StateIsNoTensors(Momentum):
    """Its state is saved as what it is."""

    def state_tensors(self, state: Any) -> Any:
        return {"momentum": state}


class CannotLoad(Momentum):
    """It looks for a tensor that was not saved."""

    def load_state(self, state: Any, tensors: dict[str, Tensor]) -> None:
        state["momentum"] = tensors["momentum"]


class TakesNoRate(Momentum):
    """Its step has not the arguments that it is called with."""

    def training_step(self, module: nn.Module, state: Any, tokens_BT: Tensor) -> Any:
        return tokens_BT.float().mean()


class NamesNaN(Momentum):
    """A loss that is no number."""

    def named_losses(self, module: nn.Module, tokens_BT: Tensor) -> dict[str, Tensor]:
        return {"last": torch.full((len(tokens_BT),), float("nan"))}


class NamesAMean(Momentum):
    """One number for all sequences."""

    def named_losses(self, module: nn.Module, tokens_BT: Tensor) -> dict[str, Tensor]:
        return {"last": torch.zeros(())}


class NamesAPath(Momentum):
    """A name that could be no column."""

    def named_losses(self, module: nn.Module, tokens_BT: Tensor) -> dict[str, Tensor]:
        return {"../last": torch.zeros(len(tokens_BT))}


class MaybeCools(Momentum):
    """Neither yes nor no."""

    supports_cooldown = "yes"


class StateAlone(Right):
    """A state, and nothing else that it needs."""

    training_state: Any = Momentum.training_state


class CoolsAlone(Right):
    """A claim about training steps that it does not have."""

    supports_cooldown = True


class StepIsNoMethod(Right):
    """A number in the place of a method."""

    training_step = 3


class NoVersion:
    """Lacks version and build."""

    sizes: ClassVar = {"small": {}}


class CountsVersions(Right):
    """Its version is a number."""

    version: Any = 2


def of(module: type[nn.Module]) -> Right:
    """The right ladder with another module."""
    ladder = Right()
    ladder.module = module
    return ladder


right = Right()
momentum, whole_runs, stateless = Momentum(), WholeRuns(), Stateless()
names_nan = NamesNaN()


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

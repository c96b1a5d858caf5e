"""The chunked loss of a linear head against the plain one, which holds every logit."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mor_core.training import loss
from mor_core.training.loss import linear_cross_entropy, token_losses

DTYPES = [torch.float64, torch.float32]


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 8 tokens in pieces of 3: 21 tokens end in a short chunk and a short piece."""
    monkeypatch.setitem(loss.CHUNK_TOKENS, "cpu", 8)
    monkeypatch.setitem(loss.PIECE_ENTRIES, "cpu", 3 * 11)


def sample(dtype: torch.dtype, batch: int = 3, length: int = 7, d_model: int = 5, vocab: int = 11) -> list[Tensor]:
    """hidden, weight, targets."""
    generator = torch.Generator().manual_seed(0)
    hidden_BTD = torch.randn(batch, length, d_model, generator=generator, dtype=torch.float64).to(dtype)
    weight_VD = torch.randn(vocab, d_model, generator=generator, dtype=torch.float64).to(dtype)
    targets_BT = torch.randint(vocab, (batch, length), generator=generator)
    return [hidden_BTD.requires_grad_(), weight_VD.requires_grad_(), targets_BT]


def plain(hidden_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor) -> Tensor:
    logits_BTV = F.linear(hidden_BTD, weight_VD)
    logits_BTV = logits_BTV if logits_BTV.dtype == torch.float64 else logits_BTV.float()
    return F.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.usefixtures("chunks")
def test_gradients_agree_with_finite_differences() -> None:
    hidden, weight, targets = sample(torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets), (hidden, weight))


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_scaled_gradients_are_those_of_the_plain_loss(dtype: torch.dtype) -> None:
    hidden, weight, targets = sample(dtype)
    value, expected = linear_cross_entropy(hidden, weight, targets), plain(hidden, weight, targets)
    found = torch.autograd.grad(0.25 * value, (hidden, weight))
    wanted = torch.autograd.grad(0.25 * expected, (hidden, weight))
    torch.testing.assert_close(value, expected)
    for gradient, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, reference)


@pytest.mark.usefixtures("chunks")
def test_a_tied_weight_receives_the_gradients_of_both_its_uses() -> None:
    _, weight, targets = sample(torch.float64)
    found = torch.autograd.grad(linear_cross_entropy(F.embedding(targets, weight), weight, targets), weight)
    expected = torch.autograd.grad(plain(F.embedding(targets, weight), weight, targets), weight)
    torch.testing.assert_close(found, expected)


def test_bf16_gradients_are_nearer_to_exact_than_the_plain_ones() -> None:
    hidden, weight, targets = sample(torch.float32, batch=4, length=1024, d_model=32, vocab=256)
    exact = torch.autograd.grad(plain(hidden.double(), weight.double(), targets), (hidden, weight))
    errors = []
    for function in (linear_cross_entropy, plain):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            value = function(hidden, weight, targets)
        assert value.dtype == torch.float32
        gradients = torch.autograd.grad(value, (hidden, weight))
        assert [gradient.dtype for gradient in gradients] == [torch.float32, torch.float32]
        errors.append([relative_error(*pair) for pair in zip(gradients, exact, strict=True)])
    ours, theirs = errors
    assert ours[0] < 1.05 * theirs[0] < 0.01
    assert ours[1] < theirs[1]


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", DTYPES)
def test_token_losses_average_to_the_loss(dtype: torch.dtype) -> None:
    hidden, weight, targets = sample(dtype)
    losses_BT = token_losses(hidden, weight, targets)
    assert losses_BT.shape == targets.shape
    assert not losses_BT.requires_grad
    torch.testing.assert_close(losses_BT.mean(), linear_cross_entropy(hidden, weight, targets))
    with torch.no_grad():
        torch.testing.assert_close(losses_BT.mean(), linear_cross_entropy(hidden, weight, targets))


def test_a_token_that_was_all_but_impossible_has_a_finite_loss() -> None:
    hidden, weight = torch.tensor([[[200.0]]], requires_grad=True), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    value = linear_cross_entropy(hidden, weight, torch.tensor([[1]]))
    assert value.item() == 400.0
    assert torch.autograd.grad(value, hidden)[0].item() == 2.0


class LargestTensor(TorchDispatchMode):
    """Remembers the most entries that any result of an operation had."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.entries = max([self.entries, *(leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor))])
        return result


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("function", [linear_cross_entropy, token_losses])
def test_no_tensor_holds_the_logits_of_more_than_a_chunk(function: Any) -> None:
    hidden, weight, targets = sample(torch.float32)
    with LargestTensor() as largest:
        function(hidden, weight, targets)
    assert largest.entries == max(8 * weight.shape[0], hidden.numel())
    with LargestTensor() as largest:
        plain(hidden, weight, targets)
    assert largest.entries == targets.numel() * weight.shape[0]

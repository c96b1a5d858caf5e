"""Attention of blocks of queries against torch's own."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mor_core.model import attention
from mor_core.model.attention import causal_attention

SHAPES = [(2, 2, 2, 8, 4), (1, 4, 2, 11, 6), (2, 3, 1, 3, 4)]
"""B, H, G, T, C: blocks of 4 tokens that divide, that leave a rest, and one that is not full."""


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK_TOKENS", 4)


block_attention = attention._BlockAttention.apply


def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


def sample(shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """q, k, v as a layer makes them: views of one tensor whose heads lie inside its tokens."""
    batch, heads, groups, length, width = shape
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, length, heads + 2 * groups, width, generator=generator, dtype=torch.float64).to(dtype)
    return [x.transpose(1, 2).detach().requires_grad_() for x in qkv.split((heads, groups, groups), dim=2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_the_fused_kernel(shape: tuple[int, ...]) -> None:
    qkv = sample(shape, torch.float64)
    found, expected = block_attention(*qkv), reference(*qkv)
    torch.testing.assert_close(found, expected)
    direction = torch.randn_like(expected)
    for pair in zip(
        torch.autograd.grad(found, qkv, direction), torch.autograd.grad(expected, qkv, direction), strict=True
    ):
        torch.testing.assert_close(*pair)


def test_gradients_agree_with_finite_differences() -> None:
    assert torch.autograd.gradcheck(block_attention, sample((1, 2, 1, 6, 2), torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_bf16_is_as_near_to_exact_as_the_fused_kernel(shape: tuple[int, ...]) -> None:
    exact = sample(shape, torch.float64)
    target = reference(*exact)
    wanted = [target, *torch.autograd.grad(target.sum(), exact)]

    def error(function: partial[Tensor]) -> float:
        qkv = sample(shape, torch.bfloat16)
        output = function(*qkv)
        results = [output, *torch.autograd.grad(output.sum(), qkv)]
        return max(
            float((x.detach().double() - y.detach()).norm() / y.detach().norm().clamp(min=1))
            for x, y in zip(results, wanted, strict=True)
        )

    assert error(partial(causal_attention)) < 2 * error(partial(reference)) < 0.05


def test_a_token_does_not_depend_on_later_ones() -> None:
    q, k, v = sample((1, 2, 1, 10, 4), torch.bfloat16)
    before = causal_attention(q, k, v)
    with torch.no_grad():
        changed = causal_attention(*(torch.cat((x[:, :, :6], x[:, :, 6:] + 1), dim=2) for x in (q, k, v)))
    assert torch.equal(before[:, :, :6], changed[:, :, :6])
    assert not torch.equal(before[:, :, 6:], changed[:, :, 6:])

"""Drawing tokens: the distribution that was asked for, by a seed that is the request's own."""

import numpy as np
import pytest
import torch

from mor_core.inference.forward import choose
from mor_core.inference.request import RequestError, Sampling, draw_settings, starts_of_draws, uniforms


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def drawn(logits_BV: torch.Tensor, samplings: list[Sampling], positions: list[int]) -> torch.Tensor:
    starts = starts_of_draws([sampling.seed for sampling in samplings])
    numbers = uniforms(starts, np.array(positions))
    rows = [(*draw_settings(sampling), number) for sampling, number in zip(samplings, numbers, strict=True)]
    return choose(logits_BV, torch.tensor(rows, dtype=torch.float64))


def frequencies(sampling: dict, *probabilities: float, draws: int = 20_000) -> list[float]:
    each = [Sampling(seed=seed, **sampling) for seed in range(draws)]
    tokens = drawn(logits(*probabilities).expand(draws, -1), each, [7] * draws)
    return (torch.bincount(tokens, minlength=len(probabilities)) / draws).tolist()


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ({"temperature": 1.0}, (0.2, 0.5, 0.3)),
        ({"temperature": 0.5}, (0.04 / 0.38, 0.25 / 0.38, 0.09 / 0.38)),
        ({"temperature": 1.0, "top_k": 2}, (0.0, 0.625, 0.375)),
        ({"temperature": 1.0, "top_p": 0.75}, (0.0, 0.625, 0.375)),
        ({"temperature": 1.0, "top_p": 0.81}, (0.2, 0.5, 0.3)),
        ({"temperature": 1.0, "top_k": 2, "top_p": 0.6}, (0.0, 1.0, 0.0)),
        ({"temperature": 0.0}, (0.0, 1.0, 0.0)),
        ({"temperature": 9.0, "top_k": 1}, (0.0, 1.0, 0.0)),
    ],
)
def test_draws_follow_the_distribution_that_was_asked_for(sampling: dict, expected: tuple[float, ...]):
    assert frequencies(sampling, 0.2, 0.5, 0.3) == pytest.approx(expected, abs=0.012)


def test_a_draw_depends_on_its_seed_and_position_alone():
    rows = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    asked = [Sampling(temperature=1.0, seed=5, top_k=9), Sampling(), Sampling(temperature=2.0), Sampling(temperature=1)]
    together = drawn(rows, asked, [3, 4, 5, 6]).tolist()
    assert together == [drawn(rows[i : i + 1], [asked[i]], [3 + i])[0] for i in range(4)]


def test_seeds_and_positions_give_independent_even_numbers():
    numbers = torch.tensor(np.array([uniforms(starts_of_draws([seed]), np.arange(100)) for seed in range(-50, 50)]))
    assert numbers.unique().numel() == numbers.numel()
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    assert numbers.var() == pytest.approx(1 / 12, abs=0.003)
    assert torch.corrcoef(numbers).fill_diagonal_(0).abs().max() < 0.5


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Sampling(**wrong)

"""Drawing tokens: the distribution that was asked for, by a seed that is the request's own."""

import pytest
import torch

from mor_core.inference.request import RequestError, Sampling
from mor_core.inference.sampling import choose, uniform


def logits(*probabilities: float) -> torch.Tensor:
    return torch.tensor([probabilities], dtype=torch.float64).log()


def frequencies(sampling: dict, *probabilities: float, draws: int = 20_000) -> list[float]:
    each = [Sampling(seed=seed, **sampling) for seed in range(draws)]
    tokens = choose(logits(*probabilities).expand(draws, -1), each, [7] * draws)
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
    together = choose(rows, asked, [3, 4, 5, 6]).tolist()
    assert together == [choose(rows[i : i + 1], [asked[i]], [3 + i])[0] for i in range(4)]


def test_seeds_and_positions_give_independent_even_numbers():
    numbers = torch.tensor(
        [[uniform(seed, position) for position in range(100)] for seed in range(-50, 50)], dtype=torch.float64
    )
    assert numbers.unique().numel() == numbers.numel()
    assert numbers.mean() == pytest.approx(0.5, abs=0.01)
    assert numbers.var() == pytest.approx(1 / 12, abs=0.003)
    assert torch.corrcoef(numbers).fill_diagonal_(0).abs().max() < 0.5


@pytest.mark.parametrize("wrong", [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict):
    with pytest.raises(RequestError, match=next(iter(wrong))):
        Sampling(**wrong)

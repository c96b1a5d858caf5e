"""Run tables drawn from planted truths, and the grids of studies that are simulated with them."""

from dataclasses import dataclass

import numpy as np
import polars as pl


@dataclass(frozen=True, kw_only=True)
class Truth:
    """loss(N, D) = bottom + params_scale / N^params_power + tokens_scale / D^tokens_power."""

    bottom: float = 1.8
    params_scale: float = 100.0
    params_power: float = 0.34
    tokens_scale: float = 277.0
    tokens_power: float = 0.34

    def loss(self, params: float, tokens: float) -> float:
        return (
            self.bottom + self.params_scale / params**self.params_power + self.tokens_scale / tokens**self.tokens_power
        )

    def best_params(self, flops: float) -> float:
        """The minimum over N of loss(N, C / 6N)."""
        ratio = (self.params_power * self.params_scale) / (self.tokens_power * self.tokens_scale)
        power = self.params_power + self.tokens_power
        return ratio ** (1 / power) * (flops / 6) ** (self.tokens_power / power)

    @property
    def exponent(self) -> float:
        return self.tokens_power / (self.params_power + self.tokens_power)


@dataclass(frozen=True, kw_only=True)
class Bowl:
    """loss = 3 - 0.1 log10(C / 1e12) + bend · ln(N / N*)² with N* = 1e5 (C / 1e12)^exponent: parabolas are exact."""

    bend: float = 0.1
    exponent: float = 0.5

    def loss(self, params: float, tokens: float) -> float:
        flops = 6 * params * tokens
        return self.best_loss(flops) + self.bend * np.log(params / self.best_params(flops)) ** 2

    def best_params(self, flops: float) -> float:
        return 1e5 * (flops / 1e12) ** self.exponent

    def best_loss(self, flops: float) -> float:
        return 3 - 0.1 * np.log10(flops / 1e12)


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What a simulated study trains."""

    name: str
    sizes: int
    """At each budget, about the best one."""
    budgets: tuple[float, ...]
    seeds: int = 1
    step: float = 0.17
    """Decades of N between sizes."""

    @property
    def shape(self) -> dict[str, str | int]:
        """As the tables of coverage say it."""
        return {"grid": self.name, "sizes": self.sizes, "budgets": len(self.budgets), "seeds": self.seeds}

    def sizes_about(self, params: float) -> list[float]:
        """The sizes of a budget at which `params` is best."""
        return ladder(params, self.sizes, self.step)


def ladder(params: float, sizes: int, step: float, shift: float = 0.0) -> list[float]:
    """So many rungs, multiples of `step` decades, with the one nearest to `params` in the middle, then moved by `shift`
    rungs."""
    middle = round(np.log10(params) / step)
    return [10 ** (step * (middle + rung - (sizes - 1) / 2 + shift)) for rung in range(sizes)]


BUDGETS = ("1000000000000", "3000000000000", "10000000000000", "30000000000000")


def planted_table(
    truth: Truth | Bowl | None = None,
    *,
    arms: tuple[str, ...] = ("vanilla",),
    budgets: tuple[str, ...] = BUDGETS,
    sizes: int = 7,
    step: float = 0.15,
    shift: float = 0.0,
    seeds: int = 1,
    trunk_noise: float = 0.0,
    cell_noise: float = 0.0,
    arm_gap: float = 0.0,
    random_seed: int = 0,
) -> pl.DataFrame:
    """One row a cell. Sizes are rungs of one ladder (`step` decades), centred on each budget's optimum and then moved
    by `shift` rungs; arm number i is worse by i · arm_gap nats."""
    truth = truth or Truth()
    rng = np.random.default_rng(random_seed)
    trunk_offsets: dict[str, float] = {}
    rows = []
    for number, arm in enumerate(arms):
        for budget in budgets:
            for params in map(int, ladder(truth.best_params(float(budget)), sizes, step, shift)):
                tokens = float(budget) / 6 / params
                for seed in range(seeds):
                    trunk = f"{arm}/{params}/{seed}"
                    offset = trunk_offsets.setdefault(trunk, rng.normal())
                    noise = trunk_noise * offset + cell_noise * rng.normal()
                    loss = truth.loss(params, tokens) + number * arm_gap + noise
                    rows.append(row(arm, f"{params}", budget, seed, params, tokens, loss))
    return pl.DataFrame(rows)


def row(arm: str, size: str, budget: str, seed: int, params: int, tokens: float, loss: float) -> dict:
    return {
        "cell_id": f"{arm}-{size}-{budget}-{seed}",
        "status": "finished",
        "reason": None,
        "arm": arm,
        "size": size,
        "budget": budget,
        "budget_convention": "exact",
        "seed": seed,
        "unique_params": params,
        "tokens": round(tokens),
        "loss": loss,
        "loss_topk": loss - 0.1,
        "flags": "",
        "trunk_id": f"{arm}-{size}-{seed}",
    }

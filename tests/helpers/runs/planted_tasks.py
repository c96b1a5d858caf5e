"""Run tables of planted task laws: bits per byte by L(N, D), and the score by a logistic curve of them."""

import numpy as np
import polars as pl

from analysis.surface.law import LossSurface

LAW = LossSurface(E=0.5, A=300.0, alpha=0.35, B=60.0, beta=0.21)
"""Bits per byte: near what a fit to MMLU gives."""
RATE, MIDPOINT = 12.0, 0.75
"""Of the logistic curve: per bit/byte, and bits/byte."""
CHANCE = 0.25
SIZES = (1e8, 2e8, 4e8, 8e8, 1.6e9)
RATIOS = (20.0, 40.0, 100.0, 200.0)


def planted_score(bits: np.ndarray | float, rate: float = RATE, midpoint: float = MIDPOINT) -> np.ndarray:
    """The score at bits per byte."""
    return CHANCE + (1 - CHANCE) / (1 + np.exp(rate * (np.asarray(bits) - midpoint)))


def planted_task(
    *,
    noise_bits: float = 0.002,
    noise_score: float = 0.002,
    sizes: tuple[float, ...] = SIZES,
    ratios: tuple[float, ...] = RATIOS,
    rate: float = RATE,
    midpoint: float = MIDPOINT,
    seed: int = 0,
) -> pl.DataFrame:
    """A run table of every size at every D/N; noise of bits is relative, that of scores a share."""
    rng = np.random.default_rng(seed)
    params = np.repeat(sizes, len(ratios))
    tokens = params * np.tile(ratios, len(sizes))
    bits = LAW.loss(params, tokens) * np.exp(noise_bits * rng.normal(size=len(params)))
    score = planted_score(bits, rate, midpoint) + noise_score * rng.normal(size=len(params))
    flops = 6 * params * tokens
    names = [f"cell-{place}" for place in range(len(params))]
    return pl.DataFrame(
        {
            "cell_id": names,
            "status": ["finished"] * len(params),
            "arm": ["ladder"] * len(params),
            "size": [f"{size:.3g}" for size in params],
            "budget": [str(round(cost)) for cost in flops],
            "budget_convention": ["6nd"] * len(params),
            "seed": [0] * len(params),
            "unique_params": params,
            "tokens": tokens,
            "flops": flops,
            "trunk_id": names,
            "bpb:quiz": bits,
            "score": np.clip(score, 0, 1),
        }
    )

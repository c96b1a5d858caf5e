"""Made-up text and modules whose content is known."""

import random
from pathlib import Path

WORDS = [
    "loop",
    "train",
    "model",
    "batch",
    "token",
    "depth",
    "route",
    "share",
    "cache",
    "layer",
    "weight",
    "budget",
    "frontier",
    "loss",
]


def sentences(seed: int, lines: int) -> str:
    """Lines of random words: no two documents share many of them."""
    chance = random.Random(seed)
    return "".join(" ".join(chance.choices(WORDS, k=9)) + "\n" for _ in range(lines))


def module(seed: int, functions: int = 12) -> str:
    """A Python module of plausible shape whose lines are its own."""
    chance = random.Random(seed)
    parts: list[str] = []
    for _ in range(functions):
        name, left, right = chance.choices(WORDS, k=3)
        tag = "".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=8))
        parts.append(f"def {name}_{tag}({left}, {right}):\n    {tag} = {left} + {right}\n    return {tag}\n")
    return "\n\n".join(parts)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path

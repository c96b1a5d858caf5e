"""Where the checkout is, and what the tests keep in it."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
FIRST_STUDY = FIXTURES / "first_study"
SMALL_PRESET = FIXTURES / "small.toml"
TOY_PRESET = FIXTURES / "toy.toml"

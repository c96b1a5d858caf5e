"""What a fit may answer: a number with its interval, or a reason why there is none."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class RefusalKind(StrEnum):
    """Why the data do not support a number."""

    TOO_FEW_SIZES = "too-few-sizes"
    OUTLIER = "outlier"
    NOT_CONVEX = "not-convex"
    MINIMUM_AT_EDGE = "minimum-at-edge"
    NOISE_UNKNOWN = "noise-unknown"
    CURVATURE_NOT_SIGNIFICANT = "curvature-not-significant"
    UNSTABLE_MINIMUM = "unstable-minimum"
    TOO_FEW_BUDGETS = "too-few-budgets"
    NO_OPTIMUM = "no-optimum"
    TOO_FEW_POINTS = "too-few-points"
    NOT_IDENTIFIED = "not-identified"
    DOES_NOT_FIT = "does-not-fit"
    EXTRAPOLATION = "extrapolation"
    NOT_COOLED = "not-cooled"
    NO_CANDIDATE = "no-candidate"
    CONSTANT_COLUMN = "constant-column"
    AT_CHANCE = "at-chance"
    NOT_MONOTONE = "not-monotone"
    RANGE_NOT_REACHED = "range-not-reached"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A number that is not given. A value, not an exception: refusing is a normal outcome of a fit."""

    kind: RefusalKind
    """Why, for programs."""
    sentence: str
    """Why, for people: one sentence with the numbers that decided."""
    cell_id: str = ""
    """The run that decided; empty where no single one did."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and the interval that the data give it."""

    value: float
    """The point estimate, in the unit of the quantity."""
    low: float
    """Lower end of the interval, same unit."""
    high: float
    """Upper end of the interval, same unit."""
    level: float
    """Nominal coverage of the interval, such as 0.95."""
    low_open: bool = False
    """True where the interval was cut at the smallest size measured: the truth may be smaller."""
    high_open: bool = False
    """True where the interval was cut at the largest size measured: the truth may be larger."""

    @property
    def holds_zero(self) -> bool:
        """True where zero lies inside the interval."""
        return self.low <= 0.0 <= self.high

    @property
    def rounded(self) -> str:
        """The value and its interval to four digits."""
        return f"{self.value:.4g} {self.rounded_ends}"

    @property
    def rounded_ends(self) -> str:
        """Both ends to four digits; "open" in the place of one that nothing bounds."""
        low = "open" if self.low_open else f"{self.low:.4g}"
        high = "open" if self.high_open else f"{self.high:.4g}"
        return f"[{low}, {high}]"

    def shown(self, text: Callable[[float], str]) -> str:
        """The value and its interval, each end as `text` writes it; an end cut at the sizes measured as ≤ or ≥."""
        low, high = "≤ " if self.low_open else "", "≥ " if self.high_open else ""
        return f"{text(self.value)} [{low}{text(self.low)}, {high}{text(self.high)}]"
